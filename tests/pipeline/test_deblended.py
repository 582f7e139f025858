"""Rows of peaks that were told apart: parent, order, flags, pixels, at any bin and among other maxima."""

import numpy as np
import pytest

import braggflow
from braggflow import patches, peak_table
from braggflow.fit import Deblended
from braggflow.fit.patch_fits import FIT_DTYPE
from braggflow.peak_table import Flag, Method
from braggflow.pipeline.deblended import further_peaks

#: Pairs as (y, x, height) of the main peak, and (dy, dx, share) of the second; the last peak is alone.
PAIRS = [
    ((40.2, 30.4, 2500.0), (-0.3, 2.6, 0.4)),
    ((90.3, 80.1, 2500.0), (-2.6, 0.4, 0.4)),
    ((60.0, 120.0, 900.0), None),
]


def frame(factor=1, seed=0, pairs=PAIRS, sigma=1.1):
    """Counts (y, x) of 150 × 150 binned pixels, each drawn as `factor`² pixels."""
    side, offset = 150 * factor, (factor - 1) / 2
    y, x = np.mgrid[:side, :side]
    mean = np.full((side, side), 6.0 / factor**2)
    for (py, px, height), second in pairs:
        peaks = [(py, px, height)]
        if second is not None:
            peaks.append((py + second[0], px + second[1], height * second[2]))
        for at_y, at_x, h in peaks:
            q = (y - factor * at_y - offset) ** 2 + (x - factor * at_x - offset) ** 2
            mean += h / factor**2 * np.exp(-q / (2 * (factor * sigma) ** 2))
    return np.random.default_rng(seed).poisson(mean).astype(np.uint16)


def found(counts, **sections):
    config = {
        "detect": {"minval": 60, "minscore": 40, "background": "none"},
        "locate": {"network": "none"},
        "frames": {},
        **sections,
    }
    return braggflow.find_peaks(counts, config=config)


@pytest.mark.parametrize("factor", [1, 2])
def test_each_peak_of_a_pair_has_a_row_and_names_its_parent(factor):
    peaks = found(np.stack([frame(factor), frame(factor, 1)]), frames={"bin": factor})
    assert peaks.sizes["peak"] == 10
    order = np.lexsort([peaks[name].values for name in ("x_pixel", "y_pixel", "peak_frame")])
    np.testing.assert_array_equal(order, np.arange(10))
    parent = peaks["parent"].values
    children = np.flatnonzero(parent >= 0)
    assert len(children) == 4
    main = parent[children]
    np.testing.assert_array_equal(peaks["peak_frame"].values[main], peaks["peak_frame"].values[children])
    for names in (("y", "x"), ("y_fit", "x_fit")):
        place = np.column_stack([peaks[name].values for name in names])
        np.testing.assert_allclose(np.hypot(*(place[main] - place[children]).T), 2.62 * factor, atol=0.25 * factor)
        for (y, x, _), second in PAIRS:
            at = [(y, x)] if second is None else [(y, x), (y + second[0], x + second[1])]
            for truth in at:
                away = np.hypot(*(place - factor * np.array(truth) - (factor - 1) / 2).T)
                assert np.count_nonzero(away < 0.2 * factor) == 2  # of both frames
    flags, several = peaks["flags"].values, np.union1d(main, children)
    assert np.all(flags[several] & Flag.deblended)
    assert not np.any(np.delete(flags, several) & Flag.deblended)
    assert np.all(peaks["method"].values == Method.gaussian)
    assert np.all(peaks["area"].values[children] == 0)
    assert np.all(peaks["score"].values[children] == 0)
    assert np.isnan(peaks["significance"].values[children]).all()
    assert np.all(peaks["birth"].values[children] < peaks["birth"].values[main])
    pixels = np.column_stack([peaks["peak_frame"].values, peaks["y_pixel"].values, peaks["x_pixel"].values])
    assert len(np.unique(pixels, axis=0)) == 10
    away = np.hypot(peaks["y"] - peaks["y_pixel"], peaks["x"] - peaks["x_pixel"]).values
    assert np.all(away[children] <= 1.2 * factor)
    # 2 π σ² × height, a few parts of which lie beyond the patch or its own pixels.
    ratio = peaks["intensity"].values[children] / peaks["intensity"].values[main]
    np.testing.assert_allclose(ratio, 0.4, atol=0.06)
    np.testing.assert_allclose(peaks["intensity"].values[main], 2 * np.pi * 1.21 * 2500, rtol=0.05)
    assert np.all(peaks["snr"].values[several] > 20)


@pytest.mark.parametrize("sections", [{"fit": {"deblend": False}}, {"fit": {"fraction": 0.0}}])
def test_without_the_test_a_pair_is_one_row(sections):
    peaks = found(frame(), **sections)
    assert peaks.sizes["peak"] == 3
    assert np.all(peaks["parent"].values == -1)
    assert not np.any(peaks["flags"].values & Flag.deblended)


@pytest.mark.parametrize("neighbours", ["fit_together", "mask", "ignore"])
def test_a_peak_with_a_maximum_of_its_own_is_found_once(neighbours):
    pairs = [((40.0, 30.0, 1500.0), (0.3, 4.2, 0.8)), ((90.0, 80.0, 1500.0), (4.0, 0.2, 0.5))]
    peaks = found(frame(pairs=pairs), patches={"neighbours": neighbours})
    place = np.column_stack([peaks["y"].values, peaks["x"].values])
    apart = np.hypot(*(place[:, None] - place).transpose(2, 0, 1)) + 9 * np.eye(len(place))
    assert peaks.sizes["peak"] == 4
    assert neighbours == "ignore" or apart.min() > 3


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_a_peak_found_in_the_patches_of_two_maxima_is_one_row_and_a_detected_one_none(order):
    table = peak_table.empty(4)
    table["peak_frame"] = [7, 7, 7, 8]
    table["y_pixel"], table["x_pixel"] = [20, 20, 30, 20], [20, 26, 20, 20]
    # In frame 7, the first two see one at (20, 23), the third the first one's maximum.
    fits = np.zeros(4, FIT_DTYPE)
    fits["y"], fits["x"] = [5, 5, -5, 5], [8, 2.2, 5, 8]
    fits["y_std"] = fits["x_std"] = [0.2, 0.1, 0.1, 0.2]
    cut = patches.Patches(
        np.zeros((4, 11, 11), np.float32),
        np.zeros((4, 11, 11), np.uint8),
        np.full((4, 3, 2), np.nan, np.float32),
        np.full((4, 2), 5.0),
    )
    inverse = np.argsort(order)
    apart = Deblended(fits, np.ones(4, bool), np.zeros(4, bool), fits[order], np.arange(4))
    further = further_peaks(table[order], cut, np.ones(4, bool), apart)
    assert sorted(further.row) == sorted(inverse[[1, 3]])
    at = {int(order[row]): pixel.tolist() for row, pixel in zip(further.row, further.pixel, strict=True)}
    assert at == {1: [20, 23], 3: [20, 23]}


def test_the_pixel_is_one_of_the_peaks_own_and_no_others():
    table = peak_table.empty(1)
    table["peak_frame"], table["y_pixel"], table["x_pixel"] = 0, 20, 20
    fits = np.zeros(2, FIT_DTYPE)
    fits["y"], fits["x"] = [5.1, 5.2], [6.2, 5.4]  # the nearest pixels: one that is masked, and the maximum
    state = np.zeros((1, 11, 11), np.uint8)
    state[0, 5, 6] = patches.State.MISSING
    cut = patches.Patches(
        np.zeros((1, 11, 11), np.float32), state, np.full((1, 3, 2), np.nan, np.float32), np.full((1, 2), 5.0)
    )
    apart = Deblended(fits[:1], np.ones(1, bool), np.zeros(1, bool), fits, np.zeros(2, np.int64))
    further = further_peaks(table, cut, np.ones(1, bool), apart)
    assert further.pixel.tolist() == [[20, 22], [21, 20]]
