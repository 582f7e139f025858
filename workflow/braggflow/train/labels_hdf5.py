"""Labels from two HDF5 files as the published BraggNN is trained on: one of frames, one of peaks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from braggflow import patches, peak_table
from braggflow.config import FitConfig, PatchesConfig
from braggflow.detect import cut_patches
from braggflow.errors import InputError
from braggflow.fit import fit_patches
from braggflow.formats import open_hdf5
from braggflow.frames import Correction, correct_frame
from braggflow.peak_table import Flag
from braggflow.pipeline import sum_counts
from braggflow.train.labels import Collected, block_of, by_frame, check_number, collected, made, thinned, trusted

#: Data sets of the file of peaks, one value a peak each.
PEAK_DATA = ("peak_fidx", "peak_row", "peak_col", "npeaks", "deviations")
_LISTED_DTYPE = np.dtype([("frame", "i8"), ("y", "f8"), ("x", "f8"), ("single", "?")])


def labels_from_hdf5(
    frames_file: str | Path,
    peaks_file: str | Path,
    *,
    size: Literal[9, 11, 13, 15] = 11,
    counts_per_photon: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Collected:
    """Labels for patches of `size` from the two files; `counts_per_photon` is the frames' counts per photon.

    `frames_file` holds `frames` (frame, y, x). `peaks_file` holds, of each peak, `peak_fidx`, the index of its frame
    from 0; `peak_row` and `peak_col`, its position on the whole frame (pixel centres at whole numbers); `npeaks`, the
    number of peaks in its patch; `deviations`, how far its fit lies from its maximum, negative where there is none. As
    the published code does (github.com/lzhengchun/BraggNN, dataset.py), peaks with npeaks 1 and 0 <= deviations < 1 are
    taken.

    A patch is cut around the brightest of the 3 × 3 pixels at the position, as a run would cut it. The files state no
    standard error: that of a Gaussian fit made here is taken, which has to be trusted as a run's (`labels.untrusted`).
    `progress` is called with (frames done, frames in all) after each. Raises `InputError` naming the file and what is
    wrong with it.
    """
    with _open(frames_file) as file:
        images = _data_set(file, frames_file, "frames", ("frames",), ndim=3)
        listed, dropped = _read_peaks(peaks_file, images.shape)
        single = np.flatnonzero(listed["single"])
        check_number(peaks_file, len(single), dropped)
        read = single[thinned(listed["frame"][single], len(images))]
        dropped["not_read"] = len(single) - len(read)
        parts = []
        for own in by_frame(listed["frame"], read, progress):
            number = listed["frame"][own[0]]
            first, stop = np.searchsorted(listed["frame"], (number, number + 1))
            table, cut, row = _measured(images[number], listed[first:stop], size, counts_per_photon)
            kept, reasons = trusted(table[own - first], counts_per_photon=counts_per_photon, scale=1)
            dropped = sum_counts([dropped, reasons])
            taken = own[kept] - first
            block = block_of(np.full(len(taken), number), len(images))
            parts.append(made(table[taken], cut, row[taken], block, counts_per_photon=counts_per_photon, scale=1))
    return collected(f"{frames_file}, {peaks_file}", parts, dropped)


def _read_peaks(path: str | Path, shape: tuple[int, int, int]) -> tuple[NDArray[np.void], dict[str, int]]:
    """The peaks on frames of `shape`, in order of their frame, and the number of those that no label is made of."""
    with _open(path) as file:
        column = {name: _data_set(file, path, name, PEAK_DATA, ndim=1)[:] for name in PEAK_DATA}
    if len({len(values) for values in column.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in column.items())
        raise InputError(f"{path}: its data sets must be of one length, have {lengths}")
    single = column["npeaks"] == 1
    fitted = (column["deviations"] >= 0) & (column["deviations"] < 1)
    wanted = single & fitted
    inside = np.ones(len(single), bool)
    for name, length in zip(PEAK_DATA[:3], shape, strict=True):
        within = (column[name] >= 0) & (column[name] <= length - 1)
        if (wrong := np.flatnonzero(wanted & ~within)).size:
            value = column[name][wrong[0]]
            raise InputError(f"{path}: {name}[{wrong[0]}] is {value}, the frames allow 0 to {length - 1}")
        inside &= within
    listed = np.empty(np.count_nonzero(inside), _LISTED_DTYPE)
    for name, source in zip(("frame", "y", "x"), PEAK_DATA[:3], strict=True):
        listed[name] = column[source][inside]
    listed["single"] = wanted[inside]
    dropped = {"several_peaks": int((~single).sum()), "deviation": int((single & ~fitted).sum())}
    return listed[np.argsort(listed["frame"], kind="stable")], dropped


def _measured(
    image: NDArray[Any], listed: NDArray[np.void], size: Literal[9, 11, 13, 15], counts_per_photon: float
) -> tuple[peak_table.Table, patches.Patches, NDArray[np.int64]]:
    """The listed peaks of one frame with errors from our fits, their patches, and the row of each in these."""
    position = np.stack([listed["y"], listed["x"]], axis=1)
    pixel = _brightest(image, np.rint(position).astype(np.int64))
    order = np.lexsort((pixel[:, 1], pixel[:, 0]))
    table = peak_table.empty(len(listed))
    table["peak_frame"] = listed["frame"]
    table["y_pixel"], table["x_pixel"] = pixel.T
    as_it_is = Correction(np.zeros(image.shape, bool), None, None, 1, np.inf, -np.inf)
    cut, table = cut_patches(
        correct_frame(image, as_it_is), table[order], PatchesConfig(size=size), counts_per_photon=counts_per_photon
    )
    fits = fit_patches(cut.counts, cut.state, cut.neighbours, FitConfig(), counts_per_photon=counts_per_photon)
    for name in ("amplitude", "background", "fwhm_major", "fwhm_minor", "chi2"):
        table[name] = fits[name]
    table["y_fit"], table["x_fit"] = position[order].T
    table["y_fit_std"], table["x_fit_std"] = fits["y_std"], fits["x_std"]
    table["flags"][~fits["converged"]] |= np.uint16(Flag.fit_failed)
    row = np.argsort(order)
    return table[row], cut, row


def _brightest(image: NDArray[Any], pixel: NDArray[np.int64]) -> NDArray[np.int64]:
    """The brightest of the 3 × 3 pixels around each of `pixel` (n, 2)."""
    around = np.full(np.add(image.shape, 2), -np.inf)
    around[1:-1, 1:-1] = np.where(np.isnan(image), -np.inf, image)
    step = np.arange(3)
    window = around[pixel[:, 0, None, None] + step[:, None], pixel[:, 1, None, None] + step]
    dy, dx = np.divmod(window.reshape(-1, 9).argmax(axis=1), 3)
    return np.asarray(pixel + np.stack([dy - 1, dx - 1], axis=1))


def _open(path: str | Path) -> Any:
    try:
        return open_hdf5(str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read as HDF5 ({error})") from error


def _data_set(file: Any, path: str | Path, name: str, needed: tuple[str, ...], *, ndim: int) -> Any:
    if name not in file:
        has = ", ".join(file) or "nothing"
        raise InputError(f"{path}: has no data set {name} (it has {has}); must hold {', '.join(needed)}")
    if (shape := getattr(file[name], "shape", None)) is None or len(shape) != ndim:
        raise InputError(f"{path}: {name} has shape {shape}, must have {ndim} axes")
    return file[name]
