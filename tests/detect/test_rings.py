"""Ridges are told from peaks: rings, arcs and streaks are, and no peak is, however long its tails or near its like."""

import numpy as np
import pytest
from numpy.typing import NDArray

from braggflow.detect import arcs
from braggflow.simulate.profiles import PROFILE_DTYPE, render

SHAPE = (256, 256)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
CENTRE = (128.3, 127.6)


def ring(radius: float, sigma: float, height: float, *, start: float = 0, length: float = 360) -> NDArray[np.float64]:
    """Expected counts of a ring, or of its arc of so many degrees."""
    image = height * np.exp(-((np.hypot(Y - CENTRE[0], X - CENTRE[1]) - radius) ** 2) / (2 * sigma**2))
    turn = (np.degrees(np.arctan2(Y - CENTRE[0], X - CENTRE[1])) - start) % 360
    return np.where(turn < length, image, 0)


def streak(length: float, width: float, height: float, angle: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along, across = (X - CENTRE[1]) * cosine + (Y - CENTRE[0]) * sine, (Y - CENTRE[0]) * cosine - (X - CENTRE[1]) * sine
    return height * (np.abs(along) < length / 2) * np.exp(-4 * np.log(2) * (across / width) ** 2)


def peaks(n: int, rng: np.random.Generator, **ranges: tuple[float, float]) -> NDArray[np.void]:
    """Peaks all over a frame."""
    low_high = {"y": (6, SHAPE[0] - 6), "x": (6, SHAPE[1] - 6), "angle": (-90, 90), "eta": (0, 0), **ranges}
    drawn = np.zeros(n, PROFILE_DTYPE)
    for name in ("y", "x", "angle", "eta"):
        drawn[name] = rng.uniform(*low_high[name], n)
    drawn["height"] = np.exp(rng.uniform(*np.log(ranges.get("height", (100, 2000))), n))
    sigma, ratio = rng.uniform(*ranges.get("sigma", (0.9, 1.8)), n), rng.uniform(*ranges.get("ratio", (1, 1.5)), n)
    drawn["sigma_major"], drawn["sigma_minor"] = sigma * np.sqrt(ratio), sigma / np.sqrt(ratio)
    return drawn


def judged(
    counts: NDArray[np.int64], at: NDArray[np.int64], background: float, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    mask = np.zeros(counts.shape, bool) if mask is None else mask
    level, noise = np.full(len(at), float(background)), np.full(len(at), max(background, 0.1) ** 0.5)
    return arcs(counts, mask, at[:, 0], at[:, 1], level, noise)


def maxima(counts: NDArray[np.int64], expected: NDArray[np.float64], above: float) -> NDArray[np.int64]:
    """Every maximum of the counts where more than so much is expected, (n, 2)."""
    highest = np.ones(counts.shape, bool)
    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        highest &= counts >= np.roll(counts, (dy, dx), (0, 1))
    return np.argwhere(highest & (expected > above))


@pytest.mark.parametrize(("radius", "sigma"), [(15, 1.2), (40, 1.2), (100, 1.5), (100, 3.0)])
@pytest.mark.parametrize(("height", "background"), [(20, 0.5), (100, 5), (100, 30), (1000, 5)])
def test_every_maximum_of_a_ring_is_on_one_ridge(radius: float, sigma: float, height: float, background: float) -> None:
    expected = ring(radius, sigma, height)
    counts = np.random.default_rng(1).poisson(background + expected)
    at = maxima(counts, expected, 0.9 * height)
    assert len(at) > 10
    arc = judged(counts, at, background)
    assert (arc >= 0).all()
    assert len(np.unique(arc)) == 1
    # It is the highest: of the means of 3 × 3 pixels around it.
    kept = (arc < 0) | (arc == np.arange(len(at)))
    assert np.count_nonzero(kept) == 1


@pytest.mark.parametrize("length", [12, 20, 60])
def test_arcs_that_do_not_touch_are_two(length: float) -> None:
    expected = ring(100, 1.5, 200, length=length) + ring(100, 1.5, 200, start=120, length=length)
    counts = np.random.default_rng(2).poisson(5 + expected)
    arc = judged(counts, maxima(counts, expected, 180), 5)
    assert (arc >= 0).all()
    assert len(np.unique(arc)) == 2


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("length", [20, 40])
@pytest.mark.parametrize("angle", [0, 30, 45, 90, 117])
def test_a_streak_is_a_ridge(length: float, width: float, angle: float) -> None:
    counts = np.random.default_rng(3).poisson(5 + streak(length, width, 400, angle))
    at = np.array([np.unravel_index(counts.argmax(), SHAPE)])
    assert judged(counts, at, 5).tolist() == [0]


@pytest.mark.parametrize("gap", [1, 2])
def test_a_ring_goes_on_across_a_narrow_gap(gap: int) -> None:
    expected, mask = ring(40, 1.5, 200), np.zeros(SHAPE, bool)
    mask[120 : 120 + gap], mask[:, 100 : 100 + gap] = True, True
    counts = np.random.default_rng(4).poisson(5 + expected)
    counts[mask] = -1
    at = maxima(counts, np.where(mask, 0, expected), 180)
    assert len(np.unique(judged(counts, at, 5, mask))) == 1


def test_a_ring_cut_by_wide_gaps_is_one_ridge_a_piece() -> None:
    expected, mask = ring(60, 1.5, 200), np.zeros(SHAPE, bool)
    mask[115:140], mask[:, 115:140] = True, True
    counts = np.random.default_rng(5).poisson(5 + expected)
    arc = judged(counts, maxima(counts, np.where(mask, 0, expected), 180), 5, mask)
    assert (arc >= 0).all()
    assert len(np.unique(arc)) == 4


@pytest.mark.parametrize(("times", "spot"), [(1.6, True), (5, True), (0.5, False)])
def test_what_rises_above_a_ring_by_more_than_the_rings_own_level_is_a_spot(times: float, spot: bool) -> None:
    drawn = np.zeros(8, PROFILE_DTYPE)
    turn = np.linspace(0, 2 * np.pi, 8, endpoint=False) + 0.2
    drawn["y"], drawn["x"] = CENTRE[0] + 80 * np.sin(turn), CENTRE[1] + 80 * np.cos(turn)
    # In means of 3 × 3, which lower a spot more than a ring.
    drawn["height"], drawn["sigma_major"], drawn["sigma_minor"] = 200 * times, 1.6, 1.6
    counts = np.random.default_rng(6).poisson(5 + ring(80, 1.6, 200) + render(SHAPE, drawn))
    at = np.rint(np.stack([drawn["y"], drawn["x"]], 1)).astype(int)
    assert (judged(counts, at, 5) < 0).tolist() == [spot] * 8


@pytest.mark.parametrize(
    "ranges",
    [
        {},
        {"sigma": (0.5, 0.9)},
        {"sigma": (1.8, 3.0)},
        {"ratio": (1.8, 2.5)},
        {"eta": (0.2, 0.8)},
        {"height": (20, 100)},
        {"eta": (0.5, 1.0), "sigma": (2.0, 3.0), "height": (2000, 20000)},
        {"ratio": (2.4, 2.5), "height": (1000, 10000)},
    ],
)
def test_no_peak_is_a_ridge(ranges: dict[str, tuple[float, float]]) -> None:
    rng = np.random.default_rng(7)
    flagged = 0
    for background in (0.5, 5, 30):
        for _ in range(8):
            drawn = peaks(20, rng, **ranges)  # type: ignore[arg-type]
            counts = rng.poisson(render(SHAPE, drawn, background=background))
            at = np.rint(np.stack([drawn["y"], drawn["x"]], 1)).astype(int)
            flagged += int((judged(counts, at, background) >= 0).sum())
    assert flagged <= 1  # of 480: three in a line


def test_pairs_and_triples_are_no_ridges() -> None:
    rng = np.random.default_rng(8)
    for distance in (2.5, 3, 4, 6):
        for number in (2, 3):
            drawn = np.repeat(peaks(1, rng, y=(128, 128), x=(128, 128), height=(500, 501), ratio=(1, 1)), number)
            drawn["x"] += distance * np.arange(number)
            counts = rng.poisson(render(SHAPE, drawn, background=5))
            at = np.rint(np.stack([drawn["y"], drawn["x"]], 1)).astype(int)
            assert (judged(counts, at, 5) < 0).all(), (distance, number)


def test_a_dense_pattern_is_none() -> None:
    rng = np.random.default_rng(9)
    flagged = number = 0
    for _ in range(6):
        drawn = peaks(150, rng, eta=(0, 0.6), sigma=(0.7, 1.5))  # one in 440 pixels
        counts = rng.poisson(render(SHAPE, drawn, background=20))
        at = np.rint(np.stack([drawn["y"], drawn["x"]], 1)).astype(int)
        flagged, number = flagged + int((judged(counts, at, 20) >= 0).sum()), number + len(at)
    assert flagged <= 0.002 * number


def test_a_disk_and_a_halo_are_none() -> None:
    r = np.hypot(Y - CENTRE[0], X - CENTRE[1])
    for image in (400.0 * (r < 5), 400 * np.exp(-((r / 30) ** 2))):
        counts = np.random.default_rng(10).poisson(5 + image)
        assert judged(counts, maxima(counts, image, 300), 5).max(initial=-1) < 0


def test_the_order_of_the_maxima_changes_nothing() -> None:
    expected = ring(60, 1.5, 100) + ring(100, 1.5, 300, length=50)
    counts = np.random.default_rng(11).poisson(5 + expected)
    at = maxima(counts, expected, 50)
    order = np.random.default_rng(12).permutation(len(at))
    straight, shuffled = judged(counts, at, 5), judged(counts, at[order], 5)
    assert (np.where(shuffled >= 0, order[shuffled], -1) == straight[order]).all()


def test_no_maxima_give_an_empty_answer() -> None:
    assert judged(np.ones(SHAPE, np.int64), np.empty((0, 2), np.int64), 1.0).shape == (0,)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_a_ring_at_the_frames_edge_is_judged_in_any_type(dtype: type) -> None:
    counts = np.random.default_rng(13).poisson(5 + ring(124, 1.5, 100)).astype(dtype)
    at = maxima(counts.astype(np.int64), ring(124, 1.5, 100), 90)
    assert (judged(counts, at, 5) >= 0).all()
