"""What earlier versions wrote is read, with the numbers that they wrote: README.md says how each fixture was made."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import braggflow
from braggflow import peak_table
from braggflow.evaluate import load_truth, score, verify
from braggflow.frames import read_raw, sealed
from braggflow.frames.store import FRAMES_VERSION
from braggflow.results import TRACKS_VERSION, data_set_statuses
from braggflow.show import write_report
from braggflow.simulate import TRUTH_VERSION

HERE = Path(__file__).parent
NEWEST = {
    "frames": FRAMES_VERSION,
    "peaks": peak_table.SCHEMA_VERSION,
    "tracks": TRACKS_VERSION,
    "truth": TRUTH_VERSION,
}
#: The name under which the program's modules know each.
CONSTANTS = {"FRAMES_VERSION", "SCHEMA_VERSION", "TRACKS_VERSION", "TRUTH_VERSION"}
NUMBERS = [(name, number) for name, newest in NEWEST.items() for number in range(1, newest + 1)]
RUNS = range(1, peak_table.SCHEMA_VERSION + 1)
UNGUARDED = ("not checked", "not guarded by checksums")
#: What the fixtures hold, as the code of their time found it. Counts of each frame, by number of frames stores:
SUMS = {1: [62690, 85310, 62553], 2: [70331, 98849, 70262]}
#: Peaks of each frame, and (y, x) of the first three, by number of tables.
PEAKS = {
    1: ([7, 10, 6], [1.0310, 15.7743, 24.4384], [53.9841, 28.2576, 15.1632]),
    2: ([7, 10, 6], [1.0083, 15.6532, 22.0157], [54.0369, 28.2923, 37.0382]),
    3: ([7, 10, 6], [1.0485, 15.6376, 22.0000], [54.0351, 28.3104, 37.0000]),
    4: ([7, 10, 6], [1.0485, 15.6376, 22.0000], [54.0351, 28.3104, 37.0000]),
    5: ([7, 10, 6], [1.0485, 15.6376, 22.0000], [54.0351, 28.3104, 37.0000]),
    6: ([7, 10, 6], [1.0485, 15.6376, 22.0000], [54.0351, 28.3104, 37.0000]),
}
#: How the digest of the weights begins, and the settings that differ from today's defaults under today's names.
WEIGHTS = {
    1: "bcebd79b0c003826",
    2: "11c0fe8902c2328e",
    3: "11c0fe8902c2328e",
    4: "11c0fe8902c2328e",
    5: "11c0fe8902c2328e",
    6: "11c0fe8902c2328e",
}
_LEVELS = {"detect.minval": 30, "detect.minscore": 20, "detect.background": "none", "locate.position": "network"}
SETTINGS = {
    1: _LEVELS | {"patches.neighbours": "mask", "patches.flag_snr_below": 4},
    2: _LEVELS,
    3: {"detect.minval": 30},
    4: {},
    5: {},
    6: {},
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """Each fixture, unpacked when it is first asked for: its store, or its run folder."""
    found: dict[tuple[str, int], Path] = {}

    def unpack(name: str, number: int) -> Path:
        if (name, number) not in found:
            folder = tmp_path_factory.mktemp(f"{name}-{number}")
            shutil.unpack_archive(HERE / f"{name}-{number}.tar.xz", folder, filter="data")
            (found[name, number],) = folder.iterdir()
        return found[name, number]

    return unpack


@pytest.mark.parametrize(("name", "number"), NUMBERS)
def test_every_number_that_was_ever_written_has_a_fixture(name, number, unpacked):
    path = HERE / f"{name}-{number}.tar.xz"
    assert path.is_file(), f"{path.name} is missing: make it as README.md says, before the number is raised"
    store = unpacked(name, number) / (f"{name}.zarr" if name in ("peaks", "tracks") else "")
    assert json.loads((store / "zarr.json").read_text())["attributes"]["format_version"] == number


def test_no_format_has_a_number_that_is_not_known_here():
    package = Path(braggflow.__file__).parent
    stated = {
        constant
        for module in package.rglob("*.py")
        for constant in re.findall(r"^([A-Z]\w*_VERSION)\b.*= \d+$", module.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert stated == CONSTANTS


@pytest.mark.parametrize("number", range(1, FRAMES_VERSION + 1))
def test_frames_are_those_that_were_written(number, unpacked):
    path = unpacked("frames", number)
    data = braggflow.open_frames(path)
    frames = read_raw(data, np.arange(3))
    assert (frames.shape, frames.dtype) == ((3, 64, 64), np.uint16)
    assert frames.sum(axis=(1, 2), dtype=np.int64).tolist() == SUMS[number]
    assert int(data["mask"].sum()) == 193
    assert data["time"].values.tolist() == [0, 30, 60]
    assert data.attrs["saturation"] == 65535
    assert bool(sealed(path)) == (number > 1)
    (found,) = verify(path)
    states = {check.what: (check.state, check.said) for check in found.checks}
    assert states["store"] == (("ok", "description and images fit") if number > 1 else UNGUARDED)
    assert states["frames"][0] == "ok"


@pytest.mark.parametrize("number", RUNS)
def test_a_run_opens_with_the_peaks_that_it_had(number, unpacked):
    folder = unpacked("peaks", number)
    run = braggflow.open_run(folder)
    peaks = run.peaks.load()
    counts, y, x = PEAKS[number]
    assert peaks["peak_count"].values.tolist() == counts
    assert run.info["counts"]["peaks"] == peaks.sizes["peak"] == sum(counts)
    np.testing.assert_allclose(peaks["y"].values[:3], y, atol=5e-4)
    np.testing.assert_allclose(peaks["x"].values[:3], x, atol=5e-4)
    assert {*peak_table.VARIABLES} <= {*map(str, peaks.variables)}
    assert "track" not in peaks.variables
    assert ("track_id" in peaks.variables) == (number >= 5)
    late = [name for name, added in peak_table.ADDED.items() if number < added]
    assert all((peaks[name].values == -1).all() if name == "parent" else np.isnan(peaks[name]).all() for name in late)
    assert not peaks.bragg.to_dataframe().empty
    (state,) = data_set_statuses(folder)
    assert (state.name, state.status, state.peaks, state.parts_done) == ("scan", "complete", sum(counts), 3)


@pytest.mark.parametrize("number", RUNS)
def test_the_peaks_of_a_run_are_followed_whatever_wrote_it(number, unpacked, tmp_path):
    folder = shutil.copytree(unpacked("peaks", number), tmp_path / "scan")
    shutil.rmtree(folder / "tracks.zarr", ignore_errors=True)
    made = braggflow.track(folder)
    assert made.sizes["track"] == braggflow.open_tracks(folder).sizes["track"] > 0
    on_tracks = np.bincount(1 + braggflow.open_peaks(folder)["track_id"].values)[1:]
    np.testing.assert_array_equal(on_tracks, made["length"])


@pytest.mark.parametrize("number", RUNS)
def test_a_run_is_verified_as_far_as_it_was_guarded(number, unpacked):
    (found,) = verify(unpacked("peaks", number), frames=0)
    states = {check.what: (check.state, check.said) for check in found.checks}
    assert not found.damaged
    assert states["parts"] == ("ok", "3 files")
    guarded = number >= peak_table.GUARDED_SINCE
    assert states["peaks.zarr"] == (("ok", "every chunk fits") if guarded else UNGUARDED)
    assert states["run.json"][0] == ("ok" if guarded else "not checked")


@pytest.mark.parametrize("number", RUNS)
def test_a_run_says_what_it_was_made_of(number, unpacked, tmp_path):
    folder = unpacked("peaks", number)
    made = braggflow.provenance(folder)
    assert (made.data_set, made.code["version"], made.changed_settings) == ("scan", "0.1.0", SETTINGS[number])
    assert made.model["sha256"].startswith(WEIGHTS[number])
    assert [found.role for found in made.inputs] == ["frames", "source"]
    # The table alone, moved away, knows the run and the network; of today's all that made the rows.
    alone = braggflow.provenance(shutil.copytree(folder / "peaks.zarr", tmp_path / "moved.zarr"))
    assert (alone.data_set, alone.run, alone.model) == ("scan", made.run, made.model)
    if number >= 4:
        assert (alone.settings, alone.code, alone.inputs) == (made.settings, made.code, made.inputs)
    else:
        assert "settings  not stated" in repr(alone)


@pytest.mark.parametrize("number", range(1, TRACKS_VERSION + 1))
def test_tracks_are_those_that_were_written(number, unpacked):
    folder = unpacked("tracks", number)
    tracks = braggflow.open_tracks(folder)
    assert tracks["length"].values.tolist() == [3] * 5
    followed = braggflow.open_peaks(folder)["track_id"].values
    assert np.bincount(followed[followed >= 0]).tolist() == [3] * 5
    assert {*peak_table.FOLLOWED} <= {*map(str, braggflow.open_peaks(folder).variables)}


def test_settings_have_the_names_of_today(unpacked):
    config = braggflow.open_run(unpacked("peaks", 1)).config
    assert (config.locate.network, config.locate.position) == ("compact", "network")
    assert (config.patches.neighbours, config.patches.flag_snr_below) == ("mask", 4)


def test_a_report_is_made_of_the_oldest_run(unpacked, tmp_path):
    folder = shutil.copytree(unpacked("peaks", 1), tmp_path / "scan")
    page = write_report(folder).read_text("utf-8")
    assert "network: compact, compact_11.safetensors, sha256 bcebd79b0c003826" in page
    assert "<td>source</td><td>simulated (n_frames: 3, peaks: 4, seed: 1" in page


@pytest.mark.parametrize("number", range(1, TRUTH_VERSION + 1))
def test_a_run_is_scored_against_a_truth_of_its_time(number, unpacked):
    found = score(braggflow.open_peaks(unpacked("peaks", number)), load_truth(unpacked("truth", number)))
    assert found.recall["all"] == (13, 13)
