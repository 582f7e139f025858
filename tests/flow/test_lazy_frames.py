"""Frames that are a Dask array give the table of the same frames in memory, wherever and in whatever chunks."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.callbacks import Callback
from distributed import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import braggflow
from braggflow.errors import InputError
from tests.stores import make_store, spots

N = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A frames store, opened: eight frames, each with more spots, a mask, and a coordinate that falls."""
    folder = tmp_path_factory.mktemp("lazy")
    frames = np.stack([spots((64, 80), 3 + i, seed=i) for i in range(N)])
    found = braggflow.open_frames(make_store(folder / "scan.zarr", frames, chunk=2))
    mask = np.zeros((64, 80), np.uint8)
    mask[:9, :30] = 1
    return found.assign(mask=(("y", "x"), mask)).assign_coords(omega=("frame", np.linspace(3, 1, N)))


@pytest.fixture(scope="module")
def expected(data):
    found = braggflow.find_peaks(data)
    assert found.sizes["peak"] > 2 * N
    return found


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, N), min_size=1, max_size=N),
    rows=st.sampled_from([64, 17]),
    columns=st.sampled_from([80, 33]),
)
def test_the_table_is_the_same_whatever_the_chunks(data, expected, sizes, rows, columns):
    ends = np.minimum(np.cumsum([*sizes, N]), N)
    chunks = tuple(int(n) for n in np.diff(ends, prepend=0) if n)
    lazy = data.chunk({"frame": chunks, "y": rows, "x": columns})
    xr.testing.assert_identical(braggflow.find_peaks(lazy), expected)


def test_dataset_array_and_dask_array_are_searched_alike(data):
    frames = data["frames"].drop_vars(["omega", "time"])
    expected = braggflow.find_peaks(frames.load())
    xr.testing.assert_identical(braggflow.find_peaks(frames.chunk({"frame": 3})), expected)
    xr.testing.assert_identical(braggflow.find_peaks(da.from_array(frames.values, chunks=(3, 64, 80))), expected)
    one = frames.isel(frame=4, drop=True)
    xr.testing.assert_identical(braggflow.find_peaks(one.chunk({"y": 10})), braggflow.find_peaks(one))


@pytest.mark.parametrize(
    "options",
    [
        {"network": "none", "bin": 2, "background": "local"},
        {"config": {"frames": {"start": 1, "stop": 6, "step": 2}}, "minval": "6 sigma"},
        {"config": {"fit": {"fraction": 0.5}}, "patch_size": 9},
        {"config": {"frames": {"find_bad_pixels": True}}},
    ],
)
def test_settings_mean_the_same(data, options):
    lazy = data.chunk({"frame": 3})
    xr.testing.assert_identical(braggflow.find_peaks(lazy, **options), braggflow.find_peaks(data, **options))


def test_frames_in_another_order_and_with_numbers_of_their_own(data):
    turned = data.isel(frame=slice(None, None, -1)).assign_coords(frame=np.arange(N)[::-1] * 10)
    xr.testing.assert_identical(braggflow.find_peaks(turned.chunk({"frame": 2})), braggflow.find_peaks(turned))


@pytest.mark.parametrize("processes", [False, True])
def test_the_active_client_does_it(data, expected, processes):
    with Client(processes=processes, n_workers=1, threads_per_worker=2, dashboard_address=":0") as client:
        persisted = data.chunk({"frame": 2}).persist()
        xr.testing.assert_identical(braggflow.find_peaks(persisted), expected)
        del persisted
        log = client.run_on_scheduler(lambda dask_scheduler: [key for key, *_ in dask_scheduler.transition_log])
        assert any("_search_chunk" in str(key) for key in log)


class Held(Callback):
    """How many chunks of frames are in memory at once, of what Dask's threads hold."""

    def __init__(self) -> None:
        self.most = 0
        super().__init__(posttask=self.look)

    def look(self, _key, _result, _dsk, state, _worker) -> None:
        blocks = [value for value in state["cache"].values() if getattr(value, "ndim", 0) == 3]
        self.most = max(self.most, len(blocks))


def test_only_a_few_chunks_are_in_memory_at_once():
    def frame(block_info):
        return spots((64, 80), 3, seed=block_info[None]["chunk-location"][0])[None]

    lazy = da.map_blocks(frame, chunks=((1,) * 60, (64,), (80,)), dtype=np.uint16, meta=np.empty((0, 0, 0), np.uint16))
    with Held() as held, dask.config.set(scheduler="threads", num_workers=2):
        found = braggflow.find_peaks(lazy, network="none")
    assert found.sizes["frame"] == 60
    assert 0 < held.most <= 4


def broken(error, bad):
    """Eight frames, a chunk each, of which those in `bad` raise."""

    def frame(block_info):
        at = block_info[None]["chunk-location"][0]
        if at in bad:
            raise error
        return spots((64, 80), 3, seed=at)[None]

    return da.map_blocks(frame, chunks=((1,) * N, (64,), (80,)), dtype=np.uint16, meta=np.empty((0, 0, 0), np.uint16))


@pytest.mark.parametrize("error", [OSError("the disk is gone"), ValueError("no such tag"), RuntimeError("decoder")])
def test_frames_that_cannot_be_read_are_named_as_those_in_memory_are(error):
    lazy = xr.DataArray(broken(error, {2, 5}), dims=("frame", "y", "x"))
    config = {"compute": {"retries": 0}}
    with pytest.raises(InputError) as refused:
        braggflow.find_peaks(lazy, network="none", config=config)
    name = type(error).__name__
    assert str(refused.value) == f"frame 2: {name}: {error}; frame 5: {name}: {error}"


def test_what_is_no_trouble_of_reading_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        braggflow.find_peaks(broken(ZeroDivisionError(), {3}), network="none")


def test_frames_that_were_never_written_have_no_peaks(tmp_path):
    frames = np.stack([spots((64, 80), 3, seed=i) for i in range(4)])
    data = braggflow.open_frames(make_store(tmp_path / "scan.zarr", frames, chunk=1))
    data = data.assign_attrs(missing_frames=[[1, 2, "lost"]])
    expected = braggflow.find_peaks(data, network="none")
    assert expected["frame_failed"].values.tolist() == [0, 1, 0, 0]
    xr.testing.assert_identical(braggflow.find_peaks(data.chunk({"frame": 2}), network="none"), expected)


def test_a_wrong_argument_is_refused_as_for_frames_in_memory(data):
    with pytest.raises(TypeError, match="minvalue"):
        braggflow.find_peaks(data.chunk({"frame": 2}), minvalue=3)
    with pytest.raises(InputError, match=r"patches\.size"):
        braggflow.find_peaks(data.chunk({"frame": 2}), patch_size=10)
