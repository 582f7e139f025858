"""What README and documents name: files, series and runs, as they are before the first command of a page."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabio.cbfimage
import fabio.edfimage
import h5py
import numpy as np
import tifffile
from numpy.typing import NDArray

import braggflow
from tests.formats.writers import eiger
from tests.stores import make_store, spots

#: Frames 0 to 17 of the README's series, which turns; the reflection at (512.3, 840.1) comes and goes.
OMEGA = np.arange(18) * 0.25 - 2
PLACE, SIGMA = (512.3, 840.1), 1.4
ROCKING = 4000 * np.exp(-0.5 * (OMEGA / 0.8) ** 2)


def turning_series() -> NDArray[np.uint16]:
    """18 frames (frame, y, x) with some 300 peaks each, and one that the rocking curve brings and takes."""
    y, x = np.mgrid[:520, :848].astype(np.float32)
    places = [(row, column) for row in range(18, 500, 36) for column in range(18, 840, 36)]
    heights = np.geomspace(4, 200, len(places))
    still = np.full(y.shape, 4.0)
    for height, (row, column) in zip(np.random.default_rng(1).permutation(heights), places, strict=True):
        near = np.s_[row - 10 : row + 11, column - 10 : column + 11]
        still[near] += height * np.exp(-((y[near] - row - 0.2) ** 2 + (x[near] - column + 0.3) ** 2) / (2 * SIGMA**2))
    spot = np.exp(-((y - PLACE[0]) ** 2 + (x - PLACE[1]) ** 2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
    rng = np.random.default_rng(2)
    return np.stack([rng.poisson(still + counts * spot) for counts in ROCKING]).astype(np.uint16)


def write_hdf5(path: Path, frames: NDArray[Any], name: str = "/entry/data/data", **columns: NDArray[Any]) -> None:
    """An HDF5 file with the frames at `name`, and columns beside them."""
    with h5py.File(path, "w") as file:
        file[name] = frames
        for column, values in columns.items():
            file[f"{Path(name).parent}/{column}"] = values


def small() -> NDArray[np.uint16]:
    """A series of six small frames with a few spots each."""
    return np.stack([spots((64, 80), 4, seed=seed) for seed in range(6)])


def for_readme(folder: Path) -> None:
    series = turning_series()
    write_hdf5(folder / "scan_0042.h5", series, omega=OMEGA)
    with h5py.File(folder / "scan_0042.h5", "a") as file:
        file["entry/data/omega"].attrs["units"] = "degree"
    write_hdf5(folder / "scan.h5", series)
    settings = {"detect": {"minval": 40}, "output": {"report": False}, "check": {"fraction": 0}}
    braggflow.run(settings, [folder / "scan.h5"], out=folder / "other")
    (folder / "scans").mkdir()
    for name in ("a", "b"):
        make_store(folder / "scans" / f"{name}.zarr", small(), chunk=2)


def for_ingest(folder: Path) -> None:
    frames = small()
    for name in ("scan_0042", "run3", "night", "scans"):
        (folder / name).mkdir()
    for number, frame in enumerate(frames):
        tifffile.imwrite(folder / "scan_0042" / f"frame_{number}.tif", frame)
        for name in ("run3/f", "night/frame"):
            fabio.cbfimage.CbfImage(data=frame.astype(np.int32)).write(str(folder / f"{name}_{number}.cbf"))
    write_hdf5(folder / "scan.h5", frames, omega=np.arange(6.0))
    write_hdf5(folder / "scans" / "first.h5", frames)
    write_hdf5(folder / "scan.nxs", frames, "/entry/eiger/data")
    eiger(folder / "run3", frames)
    tifffile.imwrite(folder / "bad_pixels.tif", np.zeros((64, 80), np.uint8))
    fabio.edfimage.EdfImage(data=np.zeros((64, 80), np.float32)).write(str(folder / "dark.edf"))
    write_hdf5(folder / "flat.h5", np.ones((64, 80)), "/flat")
    make_store(folder / "their_store.zarr", frames, chunk=1)
    np.save(folder / "series.npy", frames)
    tifffile.imwrite(folder / "stack.tif", frames, photometric="minisblack")
    with h5py.File(folder / "aborted.h5", "w") as file:
        scan = file.create_dataset("d", (10, 64, 128), np.uint16, chunks=(1, 64, 128))
        scan[:2] = np.random.default_rng(0).poisson(3, (64, 128))
    starter(folder)


def starter(folder: Path) -> None:
    (folder / "braggflow.yaml").write_text("output: {report: false}\n")


def with_run(folder: Path) -> None:
    starter(folder)
    (folder / "config.yaml").write_text("output: {report: false}\n")
    (folder / "runs").mkdir()
    frames = make_store(folder / "scan.zarr", small(), chunk=2)
    (folder / "scans").mkdir()
    shutil.copytree(frames, folder / "scans" / "a.zarr")
    braggflow.run({"output": {"report": False}}, [frames], out=folder / "runs")


def for_masks(folder: Path) -> None:
    starter(folder)
    make_store(folder / "scan.zarr", small())


def with_file(folder: Path) -> None:
    """A run as in `with_run`, and its frames in a detector's files too."""
    with_run(folder)
    write_hdf5(folder / "scan.h5", small(), omega=np.arange(6.0))
    (folder / "run3").mkdir()
    for number, frame in enumerate(small()):
        fabio.cbfimage.CbfImage(data=frame.astype(np.int32)).write(str(folder / f"run3/f_{number}.cbf"))


def without_store(folder: Path) -> None:
    """The same, where a page makes the frames store itself."""
    with_file(folder)
    shutil.rmtree(folder / "scan.zarr")


def for_geometry(folder: Path) -> None:
    geometry = "distance_mm: 200, beam_centre_px: [32, -40], pixel_size_um: [75, 75], energy_kev: 17.4"
    (folder / "config.yaml").write_text(f"output: {{report: false}}\ngeometry: {{{geometry}}}\n")
    frames = make_store(folder / "scan.zarr", np.stack([small()[0]] * 6))
    braggflow.run(folder / "config.yaml", [frames], out=folder / "runs")
    (folder / "cycler.csv").write_text("time (s),voltage (V)\n0,3.2\n2,3.3\n")


def for_real_data(folder: Path) -> None:
    counts = small()
    counts[:, :3] = 0
    make_store(folder / "laue.zarr", counts, chunk=2)


#: How the folder of a page is filled, by the page's name.
FOLDERS: dict[str, Callable[[Path], None]] = {
    "README": for_readme,
    "geometry": for_geometry,
    "ingest": for_ingest,
    "masks": for_masks,
    "real_data": for_real_data,
    **dict.fromkeys(
        (
            "cluster",
            "exchange",
            "explain",
            "follow",
            "report",
            "selfcheck",
            "sweep",
            "table",
            "tracks",
            "training",
            "view",
        ),
        with_run,
    ),
    **dict.fromkeys(("choose_levels", "on_slurm", "retrain", "use_results"), with_run),
    **dict.fromkeys(("make_masks", "live"), with_file),
    "my_files": without_store,
}
