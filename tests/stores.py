"""Frames and frames stores that several tests are made of, and the comparison of peak tables."""

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.frames import create_store, finish_store


def spots(shape: tuple[int, int], n: int, *, seed: int, background: float = 4.0) -> NDArray[np.uint16]:
    """A noisy frame (y, x) with n round spots, some of them cut by its edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, float(background))
    for _ in range(n):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        image += rng.uniform(100, 900) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * rng.uniform(0.8, 1.8) ** 2))
    return rng.poisson(image).astype(np.uint16)


def make_store(
    path: Path,
    images: NDArray[np.generic],
    *,
    numbers: NDArray[np.int64] | None = None,
    chunk: int | None = None,
    mask: NDArray[np.bool_] | None = None,
    attributes: dict[str, object] | None = None,
) -> Path:
    """A frames store of the given images, as a user's own script would write it (chunk given) or as ours are."""
    n = len(images)
    numbers = np.arange(n) if numbers is None else numbers
    time = numbers * 0.5
    if chunk is None:
        array = create_store(
            path,
            n_frames=n,
            shape=images.shape[1:],
            dtype=images.dtype,
            coords={"frame": (numbers, {}), "time": (time, {"units": "s"})},
            images={} if mask is None else {"mask": mask},
            attributes=attributes,
        )
        array[:] = images
        finish_store(path)
        return path
    variables = {"frames": (("frame", "y", "x"), images)}
    if mask is not None:
        variables["mask"] = (("y", "x"), mask)
    data = xr.Dataset(variables, coords={"frame": numbers, "time": ("frame", time)}, attrs=attributes or {})
    data.to_zarr(path, zarr_format=3, consolidated=False, encoding={"frames": {"chunks": (chunk, *images.shape[1:])}})
    return path


def assert_same_table(a: xr.Dataset, b: xr.Dataset) -> None:
    """Check that two peak tables are equal, bit for bit."""
    assert a.sizes == b.sizes
    for name in [*peak_table.VARIABLES, "frame", "peak_count", "frame_failed", "time"]:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


def empty_stores(folder: Path, *names: str) -> None:
    """Folders that are named like stores: naming a data set does not open it."""
    for name in names:
        (folder / name).mkdir(parents=True)


def one_frame(path: Path) -> Path:
    """A frames store of one frame."""
    return make_store(path, np.stack([spots((64, 64), 2, seed=1)]))


def relative(paths: list[Path], folder: Path) -> list[str]:
    """Paths as they are called from a folder."""
    return [str(path.relative_to(folder)) for path in paths]
