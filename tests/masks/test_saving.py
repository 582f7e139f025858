"""A saved mask is the same again, is what runs and other programs read, and leaves a store whole."""

import json
from pathlib import Path

import fabio
import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
from PIL import Image

from braggflow import DrawnMask, InputError
from braggflow.config import RunConfig
from braggflow.frames import damage_of_frames_store, open_frames, open_series
from braggflow.masks import load_mask, save_mask
from tests.stores import make_store, spots

FRAME = (64, 80)


def description(path: Path) -> str:
    """What stands in a TIFF file beside its image."""
    with tifffile.TiffFile(path) as file:
        return file.pages[0].description


def drawn() -> DrawnMask:
    """A mask with a shape of each kind."""
    image = np.random.default_rng(0).normal(size=FRAME)
    return (
        DrawnMask(FRAME)
        .rectangle(0, 0, 3, 79)
        .ellipse((20.5, 30.25), (4, 9), angle=33)
        .polygon([(40, 10), (50.5, 12.25), (44, 30)])
        .ring((32, 40), 0, 5)
        .brush([(60, 2), (55, 20.5)], 1.5)
        .threshold(image, above=3)
        .pixel(63, 79)
        .rectangle(2, 2, 2, 9, erase=True)
    )


def frames() -> np.ndarray:
    return np.stack([spots(FRAME, 4, seed=seed) for seed in range(3)])


def mask_of_run(path: Path, **settings: str) -> np.ndarray:
    """What a run of a store would ignore."""
    config = RunConfig.model_validate({"frames": settings})
    return open_series(open_frames(path), config).correction.mask


def test_a_file_is_the_same_mask_again_with_its_shapes(tmp_path: Path) -> None:
    saved = save_mask(drawn(), tmp_path / "mask.tif")
    again = load_mask(tmp_path / "mask.tif")
    assert again.shapes == drawn().shapes
    assert np.array_equal(again.array, drawn().array)
    assert np.array_equal(again.undo().array, drawn().undo().array)
    assert (again.drawn_by, again.drawn_at) == (saved.drawn_by, saved.drawn_at)
    assert saved.drawn_by
    assert saved.drawn_at.endswith("+00:00")
    assert [path.name for path in tmp_path.iterdir()] == ["mask.tif"]


def test_a_file_is_read_by_the_configuration_and_by_other_programs(tmp_path: Path) -> None:
    file = tmp_path / "mask.tif"
    save_mask(drawn(), file)
    store = make_store(tmp_path / "scan.zarr", frames())
    assert np.array_equal(mask_of_run(store, mask=str(file)), drawn().array)
    for image in (fabio.open(str(file)).data, np.asarray(Image.open(file)), tifffile.imread(file)):
        assert image.dtype == np.uint8
        assert np.array_equal(image, drawn().array)


def test_a_mask_is_saved_again_but_no_other_file_is_replaced(tmp_path: Path) -> None:
    save_mask(drawn(), tmp_path / "mask.tif")
    save_mask(drawn().undo(), tmp_path / "mask.tif")
    assert load_mask(tmp_path / "mask.tif").shapes == drawn().shapes[:-1]
    tifffile.imwrite(tmp_path / "frame.tif", frames()[0])
    with pytest.raises(InputError, match=r"frame\.tif: is there, and no mask that was drawn with braggflow"):
        save_mask(drawn(), tmp_path / "frame.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "frame.tif"), frames()[0])


def test_masks_of_other_programs_become_one_shape(tmp_path: Path) -> None:
    pixels = drawn().array
    np.save(tmp_path / "mask.npy", pixels)
    fabio.edfimage.EdfImage(data=pixels.astype(np.int8)).write(str(tmp_path / "mask.edf"))
    tifffile.imwrite(tmp_path / "mask.tif", 255 * pixels.astype(np.uint8))
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["entry/mask"] = pixels.astype(np.uint32)
    for name in ("mask.npy", "mask.edf", "mask.tif", "mask.h5:/entry/mask"):
        mask = load_mask(tmp_path / name)
        assert [shape.kind for shape in mask.shapes] == ["pixels"], name
        assert np.array_equal(mask.array, pixels), name
    save_mask(drawn(), tmp_path / "mine.tif")
    text = description(tmp_path / "mine.tif")
    tifffile.imwrite(tmp_path / "mine.tif", np.zeros(FRAME, np.uint8), description=text, metadata=None)
    changed = load_mask(tmp_path / "mine.tif")
    assert not changed.array.any()
    assert changed.shapes[0].numbers["said"] == "as another program left it"


def test_a_store_gets_what_is_drawn_beside_its_own_mask_and_stays_whole(tmp_path: Path) -> None:
    own = np.zeros(FRAME, bool)
    own[:, 40:44] = True
    store = make_store(tmp_path / "scan.zarr", frames(), mask=own)
    save_mask(drawn(), store)
    assert not [*damage_of_frames_store(store)]
    assert np.array_equal(mask_of_run(store), own | drawn().array)
    assert load_mask(store).shapes == drawn().shapes
    assert load_mask(store).drawn_by
    # Another mask takes the place of what was drawn, and the series' own pixels stay.
    save_mask(drawn().undo().undo(), store)
    assert np.array_equal(mask_of_run(store), own | drawn().undo().undo().array)
    save_mask(DrawnMask(FRAME), store)
    assert np.array_equal(mask_of_run(store), own)
    assert not load_mask(store).shapes
    assert not [*damage_of_frames_store(store)]
    assert [path.name for path in tmp_path.iterdir()] == ["scan.zarr"]
    assert np.array_equal(open_frames(store)["frames"].values, frames())


def test_a_store_without_a_mask_gets_one(tmp_path: Path) -> None:
    store = make_store(tmp_path / "scan.zarr", frames())
    assert not load_mask(store).array.any()
    save_mask(drawn(), store)
    assert np.array_equal(mask_of_run(store), drawn().array)


def test_a_store_is_refused_that_is_not_ready_or_not_ours(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is being written, or not there"):
        save_mask(drawn(), tmp_path / "none.zarr")
    store = make_store(tmp_path / "scan.zarr", frames())
    with pytest.raises(InputError, match=r"has frames of \(64, 80\), the mask is \(3, 3\)"):
        save_mask(DrawnMask((3, 3)), store)
    (tmp_path / "scan.zarr.wip").mkdir()
    with pytest.raises(InputError, match="is being written"):
        save_mask(drawn(), store)
    (tmp_path / "scan.zarr.wip").rmdir()
    (tmp_path / "scan.zarr.mask.wip").mkdir()
    with pytest.raises(InputError, match="another mask is being saved"):
        save_mask(drawn(), store)
    (tmp_path / "scan.zarr.mask.wip").rmdir()
    theirs = make_store(tmp_path / "theirs.zarr", frames(), chunk=1)
    with pytest.raises(InputError, match="was not made by this version of braggflow; save to a file"):
        save_mask(drawn(), theirs)
    content = (store / "zarr.json").read_text()
    (store / "zarr.json").write_text(content.replace('"saturation"', '"saturated"').replace("braggflow-frames", "x", 1))
    with pytest.raises(InputError):
        save_mask(drawn(), store)


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mask mask.png: must be a file NAME.tif, or a frames store"):
        save_mask(drawn(), "mask.png")
    with pytest.raises(InputError, match="does not exist"):
        load_mask(tmp_path / "none.tif")
    np.save(tmp_path / "series.npy", frames())
    with pytest.raises(InputError, match="holds 3 frames, must be one image"):
        load_mask(tmp_path / "series.npy")
    save_mask(drawn(), tmp_path / "mask.tif")
    described = json.loads(description(tmp_path / "mask.tif"))
    for wrong, said in (
        ({"format_version": 9}, "format_version 9 is not 1"),
        ({"drawn_shapes": [{"kind": "star", "erase": False}]}, "its drawn shapes cannot be read .*star"),
        ({"drawn_shapes": [{"kind": "ring", "erase": False, "radius": 3}]}, "its drawn shapes cannot be read"),
        ({"drawn_shapes": [3]}, "its drawn shapes cannot be read"),
        ({"drawn_shapes": None}, "its drawn shapes cannot be read"),
    ):
        text = json.dumps({**described, **wrong})
        tifffile.imwrite(tmp_path / "odd.tif", np.zeros(FRAME, np.uint8), description=text, metadata=None)
        with pytest.raises(InputError, match=said):
            load_mask(tmp_path / "odd.tif")


@pytest.mark.parametrize("own", [None, np.eye(*FRAME, dtype=bool)], ids=["no mask", "a mask"])
def test_a_store_is_as_before_where_saving_was_interrupted(
    own: np.ndarray | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "scan.zarr", frames(), mask=own)

    def stopped(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("braggflow.masks.saving.seal", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_mask(drawn(), store)
    assert not [*damage_of_frames_store(store)]
    assert np.array_equal(mask_of_run(store), np.zeros(FRAME, bool) if own is None else own)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.zarr"]
    # A process that is killed in between leaves a store that is refused, with what to do.
    (store / "mask").mkdir(exist_ok=True)
    (store / "mask" / "zarr.json").write_text("{}")
    if own is not None:
        with pytest.raises(InputError, match=r"mask/zarr.json was changed.*verify --accept|is damaged"):
            open_frames(store)


def test_a_mask_survives_xarray(tmp_path: Path) -> None:
    store = make_store(tmp_path / "scan.zarr", frames())
    save_mask(drawn(), store)
    with xr.open_zarr(store, consolidated=False) as data:
        assert np.array_equal(data["mask"].values != 0, drawn().array)
        assert data["mask"].attrs["flag_meanings"] == "series drawn"
