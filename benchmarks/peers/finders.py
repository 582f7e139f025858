"""Programs that find and place the peaks of frames in memory, each as its users would call it, on one thread.

A finder is made from a case; called, it goes through the case's first `n` frames and returns an array of positions
(peak, 2) as (y, x) in pixels for each. What a program needs once a series is made before, outside its time: frames of
its dtype (but for `labelimage`, which converts them itself), the true background in place of masked pixels where it
knows no mask, the true background to subtract where it estimates none.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from braggflow.pipeline import NetworkResult, complete_peaks, search_chunk

from .cases import Case

Positions = list[NDArray[np.float64]]
Finder = Callable[[int], Positions]


def braggflow(case: Case) -> Finder:
    """A task of the flow, but for reading and writing: correct, detect, cut, fit all peaks, assemble the table."""
    opened, config = case.opened, case.config

    def find(n: int) -> Positions:
        found = [search_chunk(opened, 0, n)]
        table, _ = complete_peaks(config, found, NetworkResult(None))
        positions = np.column_stack([table["y"], table["x"]])
        return np.split(positions, np.searchsorted(table["peak_frame"], case.numbers[1:n]))

    return find


def _imaged11_levels(case: Case) -> tuple[int, int]:
    """Threshold in counts and least number of pixels."""
    return (80, 2) if case.diffuse else (30, 3)


def imaged11(case: Case) -> Finder:
    """ImageD11's compiled functions on float32 frames: connected pixels above the threshold, and their moments."""
    from ImageD11 import cImageD11

    cImageD11.cimaged11_omp_set_num_threads(1)
    images = np.ascontiguousarray(case.patched, np.float32)
    labels = np.zeros(images.shape[1:], np.int32)
    threshold, area = _imaged11_levels(case)

    def find(n: int) -> Positions:
        positions = []
        for image in images[:n]:
            above = image - case.background if case.diffuse else image
            blobs = cImageD11.blobproperties(above, labels, cImageD11.connectedpixels(above, labels, threshold))
            cImageD11.blob_moments(blobs)
            positions.append(blobs[blobs[:, cImageD11.s_1] >= area][:, [cImageD11.s_raw, cImageD11.f_raw]])
        return positions

    return find


def labelimage(case: Case) -> Finder:
    """The same through ImageD11's `labelimage.peaksearch`, as its peak search calls them, on frames as stored."""
    from ImageD11 import cImageD11
    from ImageD11.labelimage import labelimage

    cImageD11.cimaged11_omp_set_num_threads(1)
    images = case.patched
    threshold, area = _imaged11_levels(case)

    class Nowhere:
        """Its peaks are read from memory; nothing is written."""

        def write(self, _: str) -> None:
            pass

    search = labelimage(images.shape[1:], fileout=Nowhere(), sptfile=Nowhere())

    def find(n: int) -> Positions:
        positions = []
        for image in images[:n]:
            search.peaksearch(image - case.background if case.diffuse else image, threshold, 0.0)
            cImageD11.blob_moments(search.res)
            positions.append(search.res[search.res[:, cImageD11.s_1] >= area][:, [cImageD11.s_raw, cImageD11.f_raw]])
        return positions

    return find


def sep(case: Case) -> Finder:
    """Background, extraction with deblending, windowed centroids: SExtractor's XWIN_IMAGE and YWIN_IMAGE."""
    import sep

    images = np.ascontiguousarray(case.counts, np.float32)
    sigmas = 4.0 if case.diffuse else 6.0

    def find(n: int) -> Positions:
        positions = []
        for image in images[:n]:
            background = sep.Background(image, mask=case.mask)
            above = image - background
            found = sep.extract(above, sigmas, err=background.globalrms, mask=case.mask, minarea=3, filter_kernel=None)
            # Its documentation's recipe for the window: the Gaussian of the half-light radius.
            radius, _ = sep.flux_radius(above, found["x"], found["y"], 6 * found["a"], 0.5, mask=case.mask, subpix=5)
            x, y, _ = sep.winpos(above, found["x"], found["y"], radius * 2 / 2.35, mask=case.mask)
            positions.append(np.column_stack([y, x]))
        return positions

    return find


def trackpy(case: Case) -> Finder:
    """Band pass, grey dilation, refined centroids, with its numba engine."""
    import trackpy

    images = case.patched
    least_mass = 300 if case.diffuse else 150

    def find(n: int) -> Positions:
        tables = [trackpy.locate(image, 9, minmass=least_mass, separation=4, engine="numba") for image in images[:n]]
        return [table[["y", "x"]].to_numpy() for table in tables]

    return find


def photutils(case: Case) -> Finder:
    """Background and DAOStarFinder, as its documentation shows them."""
    from photutils.background import Background2D, MedianBackground
    from photutils.detection import DAOStarFinder

    images = np.ascontiguousarray(case.counts, np.float32)
    sigmas = 5.0 if case.diffuse else 6.0

    def find(n: int) -> Positions:
        positions = []
        for image in images[:n]:
            background = Background2D(
                image, (64, 64), filter_size=(3, 3), mask=case.mask, bkg_estimator=MedianBackground()
            )
            finder = DAOStarFinder(sigmas * background.background_rms_median, 3.0)
            table = finder(image - background.background, mask=case.mask)
            positions.append(np.column_stack([table["y_centroid"], table["x_centroid"]]))
        return positions

    return find


def midas_snapshot(case: Case) -> Finder:
    """The detector of midas-snapshot, which lives in midas-peakfit: matched filter, threshold by noise-only images.

    Width and threshold are measured once a series, outside its time; its coarse background, else of rings, is the true.
    """
    from midas_peakfit.snapshot_detect import (
        SPOT_FIELDS,
        SnapshotDetectorConfig,
        calibrate_threshold,
        detect_spots,
        measure_spot_sigma,
    )

    images, known = case.counts.astype(np.float64), ~case.mask
    background = case.background.astype(np.float64)
    settings = SnapshotDetectorConfig(n_null_images=8)
    settings.sigma_px = measure_spot_sigma(images[0], known, background, settings)[0]
    threshold = calibrate_threshold(images[0], known, background, settings)
    place = [list(SPOT_FIELDS).index(name) for name in ("row", "col")]

    def find(n: int) -> Positions:
        return [detect_spots(image, known, background, threshold, settings)[:, place] for image in images[:n]]

    return find


#: The first is the one that the others are compared with.
FINDERS: dict[str, Callable[[Case], Finder]] = {
    "braggflow, Gaussian fit of every peak": braggflow,
    "ImageD11, moments (compiled functions)": imaged11,
    "ImageD11, moments (labelimage)": labelimage,
    "sep, windowed centroids": sep,
    "trackpy.locate": trackpy,
    "photutils, DAOStarFinder": photutils,
    "midas-snapshot, detect_spots": midas_snapshot,
}
