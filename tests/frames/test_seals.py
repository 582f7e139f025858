"""Whatever is changed, cut off or removed of a frames store is named; what was added or never guarded is read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from braggflow.errors import InputError
from braggflow.frames import create_store, finish_store, open_frames, read_raw
from braggflow.frames import store as store_module
from braggflow.frames.reader import FrameReader
from braggflow.frames.seals import CHECKSUMS, chunk_keys, is_guarded

IMAGES = np.random.default_rng(0).poisson(5, (6, 40, 30)).astype(np.uint16)


def new_store(path: Path) -> Path:
    """A frames store with a mask, dark counts of zero and a coordinate."""
    mask = np.zeros((40, 30), bool)
    mask[3, 4] = True
    array = create_store(
        path,
        n_frames=6,
        shape=(40, 30),
        dtype=IMAGES.dtype,
        coords={"time": (np.arange(6.0), {"units": "s"})},
        images={"mask": mask, "dark": np.zeros((40, 30))},
        attributes={"saturation": 500, "simulation": {"seed": 1}},
    )
    array[:] = IMAGES
    finish_store(path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_store(tmp_path_factory.mktemp("made") / "a.zarr")


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "a.zarr"))


def turn(file: Path, at: int = -1) -> None:
    """Turn a bit of a file."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def described(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_every_chunk_of_every_array_is_there_and_ends_with_its_checksum(store: Path) -> None:
    for folder in (file.parent for file in store.glob("*/zarr.json")):
        array = json.loads((folder / "zarr.json").read_text())
        assert is_guarded(array), folder.name
        assert [*chunk_keys(array)] == sorted(
            str(p.relative_to(folder)) for p in folder.rglob("*") if p.parent.name[0] in "c0123" and p.is_file()
        )


def test_a_store_that_is_as_it_was_made_is_read(store: Path) -> None:
    data = open_frames(store)
    np.testing.assert_array_equal(data["frames"], IMAGES)
    assert data["frames"].attrs == {"units": "count"}
    assert data.encoding["source"] == str(store)
    assert CHECKSUMS not in data.attrs


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("mask/c/0/0", "mask/c/0/0 is damaged (its checksum does not fit)"),
        ("frame/c/0", "frame/c/0 is damaged"),
        ("time/c/0", "time/c/0 is damaged"),
        ("dark/c/0/0", "dark/c/0/0 is damaged"),
    ],
)
def test_a_turned_bit_beside_the_frames_is_refused_by_the_name_of_its_file(store: Path, file: str, part: str) -> None:
    turn(store / file, 3)
    with pytest.raises(InputError) as refused:
        open_frames(store)
    assert f"frames store {store}: {part}" in str(refused.value)
    assert f"braggflow verify --accept {store}" in str(refused.value)


@pytest.mark.parametrize(
    "file", ["mask/c/0/0", "mask/zarr.json", "frame/c/0", "dark/c/0/0", "zarr.json", "frames/zarr.json"]
)
def test_a_file_that_was_removed_is_named(store: Path, file: str) -> None:
    (store / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing"):
        open_frames(store)


def test_a_description_that_was_changed_is_named(store: Path) -> None:
    file = store / "frames" / "zarr.json"
    described(file, data_type="int16")
    with pytest.raises(InputError, match=r"frames/zarr\.json was changed"):
        open_frames(store)
    file.write_text(file.read_text()[:-5])
    with pytest.raises(InputError, match=r"frames/zarr\.json is damaged"):
        open_frames(store)


@pytest.mark.parametrize(
    ("name", "value"),
    [("saturation", 501), ("format", "other"), ("format_version", 1), (CHECKSUMS, None), (CHECKSUMS, 3)],
)
def test_an_attribute_that_was_changed_or_removed_is_noticed(store: Path, name: str, value: object) -> None:
    attributes = json.loads((store / "zarr.json").read_text())["attributes"] | {name: value}
    described(store / "zarr.json", attributes={key: value for key, value in attributes.items() if value is not None})
    with pytest.raises(InputError, match=r"zarr\.json (was changed|has lost the attribute checksums)"):
        open_frames(store)


def test_arrays_that_were_added_are_no_damage_and_attributes_that_went_with_it_are(store: Path) -> None:
    group = zarr.open_group(store, mode="r+")
    group.create_array("omega", data=np.arange(6.0), dimension_names=("frame",))
    assert open_frames(store)["frames"].attrs == {"units": "count"}
    angles = xr.Dataset({"chi": ("frame", np.arange(6.0))}, attrs=group.attrs.asdict())
    angles.to_zarr(store, mode="a", consolidated=False)
    assert open_frames(store).attrs["saturation"] == 500
    angles.drop_attrs().to_zarr(store, mode="a", consolidated=False)
    with pytest.raises(InputError, match="the attributes of the store are gone; xarray's to_zarr in mode 'a'"):
        open_frames(store)


def test_another_chunk_in_the_place_of_ours_is_noticed(store: Path) -> None:
    zarr.open_group(store, mode="r+")["mask"][:] = True
    with pytest.raises(InputError, match="mask/c was changed"):
        open_frames(store)


def test_a_digest_that_was_changed_is_not_taken_for_damage_of_what_it_is_of(store: Path) -> None:
    text = (store / "zarr.json").read_text()
    stated = json.loads(text)["attributes"][CHECKSUMS]["arrays"]["time"]["chunks"]
    (store / "zarr.json").write_text(text.replace(stated, f"{'1' if stated[0] == '0' else '0'}{stated[1:]}"))
    with pytest.raises(InputError, match=r"a\.zarr: zarr\.json was changed \(the attribute checksums\)\. "):
        open_frames(store)


def test_a_damaged_frame_is_an_error_that_names_its_chunk_however_it_is_read(store: Path) -> None:
    turn(store / "frames" / "c" / "2" / "0" / "0", 300)
    data = open_frames(store)
    with pytest.raises(ValueError, match="frames/c/2/0/0 is damaged"):
        FrameReader(data).read(np.array([2]))
    with pytest.raises(ValueError, match="frames/c/2/0/0 is damaged"):
        read_raw(data, np.array([2]))
    with pytest.raises(ValueError, match=r"a\.zarr/frames/c/2/0/0: is damaged"):
        data["frames"].sel(frame=2).load()
    np.testing.assert_array_equal(FrameReader(data).read(np.array([3])), IMAGES[3:4])
    (store / "frames" / "c" / "3" / "0" / "0").unlink()
    with pytest.raises(ValueError, match=r"a\.zarr/frames/c/3/0/0: is missing"):
        data["frames"].sel(frame=3).load()


def test_a_damaged_shard_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_CHUNK_FILES", 2)
    store = new_store(tmp_path / "a.zarr")
    assert open_frames(store)["frames"].encoding["shards"] == (3, 40, 30)
    whole = (store / "frames" / "c" / "0" / "0" / "0").read_bytes()
    for at in (5, len(whole) // 2, -5):
        turn(store / "frames" / "c" / "0" / "0" / "0", at)
        with pytest.raises(ValueError, match="frames/c/0/0/0 is damaged"):
            read_raw(open_frames(store), np.arange(3))
        (store / "frames" / "c" / "0" / "0" / "0").write_bytes(whole)


def test_a_store_of_before_is_read(store: Path) -> None:
    group = zarr.open_group(store, mode="r+")
    del group.attrs[CHECKSUMS]
    group.attrs["format_version"] = 1
    old = group.create_array(
        "frames",
        shape=IMAGES.shape,
        dtype=IMAGES.dtype,
        chunks=(1, 40, 30),
        compressors=zarr.codecs.BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=2),
        dimension_names=("frame", "y", "x"),
        overwrite=True,
    )
    old[:] = IMAGES
    data = open_frames(store)
    np.testing.assert_array_equal(data["frames"], IMAGES)
    np.testing.assert_array_equal(FrameReader(data).read(np.array([2])), IMAGES[2:3])
