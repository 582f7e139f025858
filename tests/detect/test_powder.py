"""Powder rings: the level by two-theta and azimuth is that of the frame, and no part of a ring is a peak."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import braggflow
from braggflow.angles import Geometry
from braggflow.config import DetectConfig
from braggflow.detect import detect, detect_each, detect_stack, judge_maxima
from braggflow.detect.noise import Noise
from braggflow.detect.shapes.powder import circles_of, radial_level
from braggflow.errors import InputError
from braggflow.peak_table import Flag
from tests.stores import make_store

SIDE = 400
SHAPE = (SIDE, SIDE)
STATED = {
    "distance_mm": 200.0,
    "beam_centre_px": [170.0, 210.0],
    "pixel_size_um": [75.0, 75.0],
    "rotation_degree": [3.0, -5.0, 0.0],
    "energy_kev": 17.4,
}
GEOMETRY = Geometry.from_config(STATED)
NO_MASK = np.zeros(SHAPE, bool)
Y, X = np.mgrid[:SIDE, :SIDE]
#: A pixel's two-theta, degree.
PIXEL = float(np.degrees(0.075 / 200))
RADIAL = DetectConfig(background="radial")
#: Two-theta (degree), width (sigma, pixels), height (counts).
RINGS = ((2.0, 2.0, 50.0), (3.0, 1.2, 200.0), (4.2, 10.0, 300.0))


def mean_of(rings: Any = RINGS, *, level: float = 10.0) -> Any:
    """Rings of a polarised beam on a slope."""
    angle, azimuth = GEOMETRY.two_theta(Y, X), GEOMETRY.azimuth(Y, X)
    mean = level * np.exp(-angle / 5) + 1
    for at, width, height in rings:
        mean += (
            height * np.exp(-(((angle - at) / (width * PIXEL)) ** 2) / 2) * (1 + 0.2 * np.cos(np.radians(2 * azimuth)))
        )
    return mean


def with_spots(mean: Any, rng: np.random.Generator, n: int = 16) -> tuple[Any, Any]:
    """Spots of 8 standard deviations and more of their place, 3 × 3 pixels, away from one another; their places."""
    y, x = (np.linspace(40, SIDE - 40, 4).repeat(4), np.tile(np.linspace(40, SIDE - 40, 4), 4))
    places = np.stack([y, x], 1)[:n] + rng.uniform(-15, 15, (n, 2))
    for at in places:
        height = 8 * np.sqrt(mean[tuple(np.rint(at).astype(int))]) + 10
        mean = mean + height * np.exp(-((Y - at[0]) ** 2 + (X - at[1]) ** 2) / 2)
    return mean, places


def apart(table: Any, places: Any) -> Any:
    return np.hypot(table["y_pixel"][:, None] - places[:, 0], table["x_pixel"][:, None] - places[:, 1])


@pytest.mark.parametrize(("counts_per_photon", "stated", "most"), [(1.0, 1.0, 0), (4.0, 4.0, 0), (4.0, 1.0, 10)])
def test_spots_on_rings_are_found_and_rings_are_not(counts_per_photon: float, stated: float, most: int) -> None:
    false, false_of_local = 0, 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        mean, places = with_spots(mean_of(), rng)
        frame = (rng.poisson(mean) * counts_per_photon).astype(np.uint16)
        found = detect(frame, NO_MASK, RADIAL, geometry=GEOMETRY, counts_per_photon=stated).table
        assert (apart(found, places).min(axis=0) < 2).all()
        false += np.count_nonzero(apart(found, places).min(axis=1) > 4)
        of_local = detect(frame, NO_MASK, DetectConfig(), counts_per_photon=stated).table
        false_of_local += np.count_nonzero(apart(of_local, places).min(axis=1) > 4)
    assert false <= most  # a gain that nobody stated is known as far as cells show it
    assert false_of_local > 60


@pytest.mark.parametrize(("at", "width", "height"), [(2.5, 1.0, 2000.0), (3.0, 3.0, 5000.0)])
def test_strong_and_sharp_rings_are_no_peaks_either(at: float, width: float, height: float) -> None:
    frames = np.random.default_rng(1).poisson(mean_of([(at, width, height)]), (3, *SHAPE)).astype(np.uint16)
    assert len(detect_stack(frames, NO_MASK, RADIAL, geometry=GEOMETRY).table) <= 1


def test_grains_of_a_ring_must_stand_out_of_its_own_scatter() -> None:
    rng = np.random.default_rng(3)
    mean = mean_of([(3.0, 2.0, 300.0)])
    frame = rng.poisson(mean * rng.gamma(5, 1 / 5, SHAPE)).astype(np.uint16)
    false_of_local = len(detect(frame, NO_MASK, DetectConfig()).table)
    assert len(detect(frame, NO_MASK, RADIAL, geometry=GEOMETRY).table) < false_of_local / 20


def test_the_level_is_that_of_the_rings() -> None:
    mean = mean_of()
    frame = np.random.default_rng(0).poisson(mean).astype(np.uint16)
    noise = Noise(np.zeros((1, 1, 1), np.float32), SIDE, np.ones(1), np.zeros(1))
    found = radial_level(frame[None], NO_MASK, GEOMETRY, noise)
    off = (found.level[0] - mean) / np.sqrt(mean)
    assert np.sqrt(np.mean(off**2)) < 0.25  # as 64 pixels of a cell, and more about the corners, can tell
    assert abs(off.mean()) < 0.02
    assert np.percentile(found.dispersion, 99) < 1.7


def test_what_is_masked_has_a_level_and_no_peak() -> None:
    mean, places = with_spots(mean_of(), np.random.default_rng(0))
    mask = NO_MASK.copy()
    mask[100:120], mask[:, 240:250] = True, True
    mask |= GEOMETRY.within(Y, X, two_theta=(1.9, 2.1))
    frame = np.random.default_rng(1).poisson(mean).astype(np.float32)
    frame[mask] = np.nan
    table = detect(frame, mask, RADIAL, geometry=GEOMETRY).table
    assert not mask[table["y_pixel"], table["x_pixel"]].any()
    whole = ~np.array([mask[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].any() for y, x in np.rint(places)])
    assert whole.sum() > 8
    assert (apart(table, places).min(axis=0)[whole] < 2).all()
    assert (apart(table, places).min(axis=1) < 6).all()


def test_a_peak_beside_which_the_level_changes_is_flagged_ring() -> None:
    y, x = GEOMETRY.position([3.0, 3.5], [-30.0, -30.0])  # on a ring, and far from each
    mean = mean_of([(3.0, 2.0, 300.0)])
    for at in zip(y, x, strict=True):
        mean += 400 * np.exp(-((Y - at[0]) ** 2 + (X - at[1]) ** 2) / 3)
    table = detect(np.random.default_rng(0).poisson(mean), NO_MASK, RADIAL, geometry=GEOMETRY).table
    nearest = apart(table, np.stack([y, x], 1)).argmin(axis=0)
    assert (table["flags"][nearest] & Flag.ring != 0).tolist() == [True, False]


def test_a_ring_under_a_peak_does_not_draw_its_position_along() -> None:
    rng = np.random.default_rng(0)
    mean = mean_of([(3.0, 8.0, 100.0)])
    angle, azimuth = rng.uniform(2.7, 3.3, 60), np.linspace(-170, 170, 60)
    places = np.stack(GEOMETRY.position(angle, azimuth), 1)
    places = places[((places > 20) & (places < SIDE - 20)).all(axis=1)]
    for at in places:
        mean += 200 * np.exp(-((Y - at[0]) ** 2 + (X - at[1]) ** 2) / 2.5)
    found = braggflow.find_peaks(
        rng.poisson(mean),
        config={"detect": {"background": "radial"}, "geometry": STATED, "locate": {"network": "none"}},
    )
    y, x = found["y"].values, found["x"].values
    nearest = np.hypot(y[:, None] - places[:, 0], x[:, None] - places[:, 1]).argmin(axis=0)
    off = np.stack([y[nearest], x[nearest]], 1) - places
    assert len(places) > 30
    pull = off / np.stack([found["y_std"].values[nearest], found["x_std"].values[nearest]], 1)
    assert np.median(np.abs(off)) < 0.1
    assert np.mean(np.abs(pull) < 1) == pytest.approx(0.68, abs=0.12)
    radial = (GEOMETRY.two_theta(y[nearest], x[nearest]) - GEOMETRY.two_theta(*places.T)) / PIXEL
    inner, outer = GEOMETRY.two_theta(*places.T) < 2.95, GEOMETRY.two_theta(*places.T) > 3.05
    assert abs(radial[inner].mean() - radial[outer].mean()) < 0.1  # else towards the ring from both sides


def test_frames_of_a_stack_several_settings_and_explanations_agree_with_each_frame() -> None:
    mean, _ = with_spots(mean_of(), np.random.default_rng(0))
    frames = np.random.default_rng(2).poisson(mean, (2, *SHAPE)).astype(np.uint16)
    other = RADIAL.model_copy(update={"minval": 20.0})
    together = detect_stack(frames, NO_MASK, RADIAL, geometry=GEOMETRY).table
    for k, frame in enumerate(frames):
        alone = detect(frame, NO_MASK, RADIAL, geometry=GEOMETRY).table
        np.testing.assert_array_equal(together[["y_pixel", "x_pixel", "significance"]][together["peak_frame"] == k],
                                      alone[["y_pixel", "x_pixel", "significance"]])  # fmt: skip
        for config, found in zip(
            (RADIAL, other), detect_each(frame, NO_MASK, [RADIAL, other], geometry=GEOMETRY), strict=True
        ):
            expected = detect(frame, NO_MASK, config, geometry=GEOMETRY).table
            np.testing.assert_array_equal(found.table[["y_pixel", "x_pixel"]], expected[["y_pixel", "x_pixel"]])
        judged = judge_maxima(frame, NO_MASK, RADIAL, near=(200, 200), geometry=GEOMETRY)
        kept = np.sort(judged.table[judged.dropped_by == ""], order=["y_pixel", "x_pixel"])
        np.testing.assert_array_equal(kept[["y_pixel", "x_pixel"]], alone[["y_pixel", "x_pixel"]])


def test_levels_alone_are_above_the_rings_too() -> None:
    config = RADIAL.model_copy(update={"false_peaks": None, "minval": 40.0, "minscore": 40.0})
    mean, places = with_spots(mean_of([(3.0, 1.5, 100.0)], level=4.0), np.random.default_rng(0))
    table = detect(np.random.default_rng(1).poisson(mean), NO_MASK, config, geometry=GEOMETRY).table
    assert len(table)
    assert (apart(table, places).min(axis=1) < 4).all()
    assert (table["birth"] >= 40).all()


@settings(max_examples=20)
@given(
    centre=st.tuples(st.floats(-300, 500), st.floats(-300, 500)),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    turned=st.tuples(*[st.floats(-60, 60)] * 3),
)
def test_any_detector_is_parted_into_cells(centre: Any, shape: Any, turned: Any) -> None:
    try:
        geometry = Geometry.from_config({**STATED, "beam_centre_px": centre, "rotation_degree": turned})
    except InputError:
        return
    circles = circles_of(geometry, shape)
    np.testing.assert_array_equal(np.sort(circles.order), np.arange(shape[0] * shape[1]))
    np.testing.assert_array_equal(
        np.bincount(circles.cell.ravel(), minlength=circles.first[-1]), np.diff(circles.start)
    )
    ring = np.searchsorted(circles.first, circles.cell, side="right") - 1
    np.testing.assert_array_equal(ring, circles.ring.astype(int))
    frames = np.random.default_rng(0).poisson(7, (1, *shape)).astype(np.float32)
    noise = Noise(np.zeros((1, 1, 1), np.float32), 32, np.ones(1), np.zeros(1))
    level = radial_level(frames, np.zeros(shape, bool), geometry, noise).level
    assert np.isfinite(level).all()
    assert (level >= 0).all()


@pytest.mark.parametrize("centre", [(64.0, 64.0), (63.5, 63.5), (64.0, 63.5)])
def test_a_beam_on_the_detector_leaves_rings_of_half_a_pixel(centre: tuple[float, float]) -> None:
    geometry = Geometry.from_config({**STATED, "beam_centre_px": centre, "rotation_degree": [0, 0, 0]})
    rings = len(circles_of(geometry, (128, 128)).first) - 1
    assert 170 < rings < 200  # twice the distance of the corner, 90.5 pixels


# ---- filters of angles ----


@pytest.mark.parametrize(
    ("key", "value", "inside"),
    [
        ("q_range", (0.3, 0.5), True),
        ("two_theta_range", (2.0, 3.0), True),
        ("azimuth_range", (150.0, -100.0), True),
        ("exclude_q", ((0.1, 0.3), (0.4, 0.5)), False),
        ("exclude_two_theta", ((2.0, 3.0),), False),
    ],
)
def test_maxima_are_dropped_by_their_angles_and_counted(key: str, value: Any, inside: bool) -> None:
    frame = np.random.default_rng(0).poisson(with_spots(mean_of(()), np.random.default_rng(1))[0])
    whole = detect(frame, NO_MASK, DetectConfig(), geometry=GEOMETRY)
    found = detect(frame, NO_MASK, DetectConfig.model_validate({key: value}), geometry=GEOMETRY)
    name = key.removeprefix("exclude_").removesuffix("_range")
    lies = np.zeros(len(whole.table), bool)
    for part in value if key.startswith("exclude") else (value,):
        lies |= GEOMETRY.within(whole.table["y_pixel"], whole.table["x_pixel"], **{name: part})
    np.testing.assert_array_equal(found.table["y_pixel"], whole.table["y_pixel"][lies == inside])
    assert found.removed[key] == np.count_nonzero(lies != inside)
    assert 0 < len(found.table) < len(whole.table)


def a_store(path: Path, rings: Any = RINGS, **attributes: Any) -> Path:
    mean, _ = with_spots(mean_of(rings), np.random.default_rng(0))
    frames = np.random.default_rng(2).poisson(mean, (2, *SHAPE)).astype(np.uint16)
    return make_store(path, frames, attributes=attributes)


def run(path: Path, out: Path, **sections: Any) -> Any:
    rest = {"locate": {"network": "none"}, "output": {"report": False}, "check": {"fraction": 0}}
    return braggflow.run({**rest, **sections}, [path], out=out)[0]


def test_a_run_takes_the_geometry_of_its_frames_and_goes_on_with_no_other(tmp_path: Path) -> None:
    path = a_store(tmp_path / "scan.zarr", geometry=GEOMETRY.to_attributes())
    asked = {"background": "radial", "q_range": (0.1, 0.6)}
    done = run(path, tmp_path / "out", detect=asked)
    assert done.status == "complete"
    peaks = braggflow.open_peaks(tmp_path / "out" / "scan")
    stored = braggflow.open_frames(path)
    in_memory = braggflow.find_peaks(stored, config={"detect": asked, "locate": {"network": "none"}})
    np.testing.assert_array_equal(peaks["y"], in_memory["y"])
    q = GEOMETRY.q(peaks["y_pixel"].values, peaks["x_pixel"].values)
    assert len(q)
    assert ((q >= 0.1) & (q <= 0.6)).all()
    assert "q_range" in braggflow.open_run(tmp_path / "out" / "scan").info["counts"]["removed"]
    with pytest.raises(InputError, match=r"geometry\.distance_mm: 198\.9.* → 208\.9"):
        run(path, tmp_path / "out", detect=asked, geometry={"distance_mm": 210})


def test_bins_keep_places_and_angles(tmp_path: Path) -> None:
    rings = [(3.0, 8.0, 100.0)]  # sums of 2 × 2 pixels still show their course
    frames = braggflow.open_frames(a_store(tmp_path / "scan.zarr", rings, geometry=GEOMETRY.to_attributes()))
    rest = {"locate": {"network": "none"}, "detect": {"background": "radial", "two_theta_range": (1.0, 4.0)}}
    whole, binned = (braggflow.find_peaks(frames, config={**rest, "frames": {"bin": n}}) for n in (1, 2))
    angle = GEOMETRY.two_theta(binned["y"].values, binned["x"].values)
    assert ((angle > 0.99) & (angle < 4.01)).all()
    distance = np.hypot(
        whole["y"].values[:, None] - binned["y"].values, whole["x"].values[:, None] - binned["x"].values
    )
    distance[whole["peak_frame"].values[:, None] != binned["peak_frame"].values] = np.inf
    assert (distance.min(axis=0) < 1).mean() > 0.9
    assert (distance.min(axis=1) < 1).mean() > 0.7  # sums of pixels show less of sharp peaks


@pytest.mark.parametrize(
    ("detect_keys", "geometry", "said"),
    [
        ({"background": "radial"}, {}, "detect.background: goes by angles; geometry: is incomplete; has nothing"),
        (
            {"azimuth_range": (0, 90), "exclude_two_theta": [[0, 1]]},
            {"distance_mm": 200},
            "detect.azimuth_range, detect.exclude_two_theta: go by angles; geometry: is incomplete; has distance_mm, ",
        ),
        (
            {"exclude_q": [[1.6, 1.7]]},
            {key: STATED[key] for key in ("distance_mm", "beam_centre_px", "pixel_size_um")},
            "detect.exclude_q: goes by angles; geometry: lacks the wavelength",
        ),
    ],
)
def test_what_angles_need_and_nobody_states_is_one_clear_refusal(
    tmp_path: Path, detect_keys: Any, geometry: Any, said: str
) -> None:
    path = a_store(tmp_path / "scan.zarr")
    with pytest.raises(InputError, match=re.escape(said)):
        run(path, tmp_path / "out", detect=detect_keys, geometry=geometry)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=re.escape(said)):
        braggflow.find_peaks(np.zeros(SHAPE, np.uint16), config={"detect": detect_keys, "geometry": geometry})


def test_a_range_must_rise() -> None:
    with pytest.raises(InputError, match=r"detect\.q_range: .*\[2\.0, 1\.0\] is not accepted; must be from a value"):
        braggflow.find_peaks(np.zeros(SHAPE, np.uint16), config={"detect": {"q_range": [2, 1]}})
