"""Reflections of a scan: centre, width and counts are those that were put in, also across a frame that is missing."""

import numpy as np
import pytest
from scipy.stats import norm

from braggflow.config import TrackConfig
from braggflow.tracks import follow_peaks, rocking_curves
from tests.tracks.peak_tables import plain_table

N, STEP = 400, 0.5


@pytest.fixture(scope="module")
def curves():
    """Of 400 reflections the frames in which they are seen: starts, angle, counts, errors, and the truth."""
    rng = np.random.default_rng(0)
    centre, sigma = rng.uniform(10, 11, N), rng.uniform(0.5, 1.0, N)
    total = np.exp(rng.uniform(np.log(3e3), np.log(1e5), N))
    angle = np.arange(5, 16, STEP)
    share = norm.cdf((angle + STEP / 2 - centre[:, None]) / sigma[:, None]) - norm.cdf(
        (angle - STEP / 2 - centre[:, None]) / sigma[:, None]
    )
    error = np.sqrt(total[:, None] * share + 400)
    counts = total[:, None] * share + error * rng.standard_normal(error.shape)
    there = share * total[:, None] > 60
    there[: N // 2, 11] = False  # within the curve
    rows = np.nonzero(there)
    starts = np.searchsorted(rows[0], np.arange(N + 1))
    return starts, angle[rows[1]], counts[rows], error[rows], centre, sigma, total


def test_centres_widths_and_counts_are_within_their_errors(curves):
    starts, angle, counts, error, centre, sigma, total = curves
    found = rocking_curves(starts, angle, counts, error, STEP)
    assert found.fitted.mean() > 0.95
    for value, std, true in (
        (found.centre, found.centre_std, centre),
        (found.fwhm, found.fwhm_std, 2.3548 * sigma),
        (found.intensity, found.intensity_std, total),
    ):
        for half in (slice(0, N // 2), slice(N // 2, N)):
            pull = ((value - true) / std)[half][found.fitted[half]]
            assert abs(np.median(pull)) < 0.35
            assert 0.55 < np.mean(np.abs(pull) < 1) < 0.8


def test_of_one_frame_the_centre_lies_somewhere_within_it():
    found = rocking_curves(np.array([0, 1]), np.array([3.0]), np.array([100.0]), np.array([10.0]), 0.6)
    assert (found.centre[0], found.fitted[0]) == (3.0, False)
    assert found.centre_std[0] == pytest.approx(0.6 / np.sqrt(12))
    assert np.isnan(found.fwhm[0])


def scan(numbers, angle):
    """Two reflections in a scan: in frames 3 to 9 and 12 to 18 at nearly one place, and one at another."""
    frame = np.concatenate([np.arange(3, 10), np.arange(12, 19), np.arange(5, 8)])
    middle = np.repeat([6.2, 15.0, 6.0], [7, 7, 3])
    counts = 5000 * np.exp(-((frame - middle) ** 2) / 2)
    y = np.repeat([50.0, 50.3, 90.0], [7, 7, 3])
    kept = np.isin(frame, numbers)
    table = plain_table(frame[kept], y[kept], np.full(kept.sum(), 40.0), len(numbers), intensity=counts[kept])
    return table.assign_coords(frame=numbers, omega=("frame", angle, {"units": "degree"}))


def test_spots_of_neighbouring_frames_are_one_reflection_and_others_are_not():
    numbers = np.arange(24)
    found = follow_peaks(scan(numbers, 10 + 0.25 * numbers), TrackConfig())
    assert found.attrs["kind"] == "rotation"
    assert sorted(found["length"].values.tolist()) == [3, 7, 7]
    np.testing.assert_allclose(sorted(found["omega"].values), [11.5, 11.55, 13.75], atol=0.03)
    assert found["omega"].attrs["units"] == "degree"


def test_a_missing_frame_parts_no_reflection():
    numbers = np.delete(np.arange(24), 6)
    found = follow_peaks(scan(numbers, 10 - 0.25 * numbers), TrackConfig())
    assert sorted(found["length"].values.tolist()) == [2, 6, 7]
    fitted = found.isel(track=int(np.argmax(found["omega"].values * (found["length"].values == 6))))
    assert float(fitted["omega"]) == pytest.approx(10 - 0.25 * 6.2, abs=0.03)
    assert float(fitted["integrated_intensity"]) == pytest.approx(5000 * np.sqrt(2 * np.pi), rel=0.05)


def test_the_error_of_a_reflection_is_that_of_its_peaks_and_of_older_tables_what_their_snr_says():
    numbers = np.arange(24)
    older = scan(numbers, 10 + 0.25 * numbers)
    stated = older.assign(intensity_std=("peak", np.full(older.sizes["peak"], 5.0)))
    for table, std in ((stated, np.full(3, 5.0)), (older, older["intensity"].values[-3:] / 30)):
        found = follow_peaks(table, TrackConfig())
        short = found.isel(track=int(np.argmin(found["length"].values)))  # three peaks: a sum, not a fit
        assert float(short["integrated_intensity_std"]) == pytest.approx(np.sqrt((std**2).sum()), rel=1e-6)


def test_what_lies_on_both_sides_of_a_jump_is_not_one():
    numbers = np.arange(24)
    angle = np.where(numbers < 6, numbers, numbers + 90.0)
    found = follow_peaks(scan(numbers, angle), TrackConfig())
    assert sorted(found["length"].values.tolist()) == [1, 2, 3, 4, 7]
