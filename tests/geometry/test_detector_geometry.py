"""Where the detector stands: equal to pyFAI, read from PONI files and plain keys, and back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from braggflow.config import resolve_config
from braggflow.errors import InputError
from braggflow.geometry import Geometry
from tests.geometry.places import PLAIN, geometries, tilted

SHAPE = (400, 500)


def with_pyfai(rng: np.random.Generator, folder: Path) -> tuple[Any, Path]:
    """A random geometry of pyFAI with tilts, in any of its orientations, and its PONI file."""
    detectors = pytest.importorskip("pyFAI.detectors")
    from pyFAI.geometry import Geometry as PyFAI

    pixels = rng.uniform(2e-5, 3e-4, 2)
    detector = detectors.Detector(*pixels, max_shape=SHAPE, orientation=int(rng.integers(1, 5)))
    place = rng.uniform(0.05, 2), *rng.uniform(-0.05, 0.1, 2), *rng.uniform(-0.6, 0.6, 3)
    theirs = PyFAI(*place, detector=detector, wavelength=rng.uniform(0.1, 2) * 1e-10)
    path = folder / f"{rng.integers(2**40)}.poni"
    theirs.save(str(path))
    return theirs, path


def test_angles_and_q_are_those_of_pyfai(tmp_path: Path) -> None:
    rng = np.random.default_rng(16)
    for _ in range(100):
        theirs, path = with_pyfai(rng, tmp_path)
        ours = Geometry.from_poni(path)
        y, x = np.meshgrid(rng.uniform(0, SHAPE[0] - 1, 9), rng.uniform(0, SHAPE[1] - 1, 11), indexing="ij")
        close: dict[str, float] = {"rtol": 1e-9, "atol": 0}
        np.testing.assert_allclose(np.radians(ours.two_theta(y, x)), theirs.tth(y, x), **close)
        np.testing.assert_allclose(np.radians(ours.azimuth(y, x)), theirs.chi(y, x), **close)
        np.testing.assert_allclose(ours.q(y, x), theirs.qFunction(y, x) / 10, **close)
        np.testing.assert_allclose(ours.solid_angle(y, x), theirs.diffSolidAngle(y, x), **close)


def test_whole_images_are_those_of_pyfai(tmp_path: Path) -> None:
    theirs, path = with_pyfai(np.random.default_rng(1), tmp_path)
    ours, (y, x) = Geometry.from_poni(path), np.mgrid[: SHAPE[0], : SHAPE[1]]
    np.testing.assert_allclose(ours.q(y, x), theirs.center_array(SHAPE, unit="q_A^-1"), rtol=1e-9, atol=0)
    np.testing.assert_allclose(ours.azimuth(y, x), theirs.center_array(SHAPE, unit="chi_deg"), rtol=1e-9, atol=0)
    # pyFAI's image of two-theta is 1e-8 from what its own q says, and from its `tth`.
    np.testing.assert_allclose(ours.two_theta(y, x), np.degrees(theirs.tth(y, x)), rtol=1e-9, atol=0)
    np.testing.assert_allclose(ours.polarization(y, x, 0.9), theirs.polarization(SHAPE, 0.9), rtol=1e-5)  # in float32


@given(geometries(), st.floats(0, 500), st.floats(0, 500))
def test_a_place_is_found_again_from_its_angles(geometry: Geometry, y: float, x: float) -> None:
    found = geometry.position(geometry.two_theta(y, x), geometry.azimuth(y, x))
    np.testing.assert_allclose(found, (y, x), atol=1e-6)


@given(geometries())
@settings(max_examples=50)
def test_attributes_hold_the_whole_geometry(geometry: Geometry) -> None:
    assert Geometry.from_attributes(geometry.to_attributes()) == geometry


@given(geometries(), st.floats(10, 400), st.floats(600, 900))
def test_derivatives_are_those_of_small_steps(geometry: Geometry, y: float, x: float) -> None:
    step = 1e-3
    for axis, (dy, dx) in enumerate(((step, 0), (0, step))):
        for row, function in enumerate((geometry.two_theta, geometry.azimuth)):
            by_step = _turn(function(y + dy, x + dx) - function(y - dy, x - dx)) / (2 * step)
            np.testing.assert_allclose(geometry.jacobian(y, x)[row, axis], by_step, rtol=1e-4, atol=1e-9)


@given(geometries(), st.floats(10, 400), st.floats(600, 900))
def test_derivatives_by_the_geometrys_parameters_too(geometry: Geometry, y: float, x: float) -> None:
    exact, step = geometry.parameter_jacobian(y, x), 1e-5
    for column in range(6):
        for row, name in enumerate(("two_theta", "azimuth")):
            up, down = (getattr(moved(geometry, column, by), name)(y, x) for by in (step, -step))
            np.testing.assert_allclose(exact[row, column], _turn(up - down) / (2 * step), rtol=1e-3, atol=1e-6)


def moved(geometry: Geometry, parameter: int, by: float) -> Geometry:
    values = np.array([geometry.distance_mm, *geometry.poni_mm, *geometry.rotation_degree])
    values[parameter] += by
    distance, poni_y, poni_x, *rotation = values.tolist()
    return Geometry(
        distance,
        (poni_y, poni_x),
        geometry.pixel_size_um,
        (rotation[0], rotation[1], rotation[2]),
        geometry.wavelength_angstrom,
        geometry.flipped,
    )


def _turn(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    return (difference + 180) % 360 - 180


def test_the_direct_beam_of_plain_keys_is_where_they_say_however_the_detector_is_turned() -> None:
    geometry = Geometry.from_config({**PLAIN, "rotation_degree": [10, -20, 30]})
    assert geometry.beam_centre_px == pytest.approx(PLAIN["beam_centre_px"], abs=1e-9)
    assert float(geometry.two_theta(*PLAIN["beam_centre_px"])) == pytest.approx(0, abs=1e-6)
    # Along the beam, not along the detector's normal.
    y, x = PLAIN["beam_centre_px"]
    (place,) = geometry._place([y], [x])
    np.testing.assert_allclose(place, (0, 0, PLAIN["distance_mm"]), atol=1e-9)


def test_pixel_centres_lie_at_whole_numbers() -> None:
    geometry = Geometry(100.0, (0.05, 0.05), (100.0, 100.0))  # the PONI is at the middle of the first pixel
    assert float(geometry.two_theta(0, 0)) == 0
    assert float(geometry.two_theta(0, 1)) == pytest.approx(np.degrees(np.arctan(0.1 / 100)))
    assert float(geometry.azimuth(0, 1)) == 0
    assert float(geometry.azimuth(1, 0)) == 90


def test_keys_that_are_set_stand_above_what_the_files_state() -> None:
    found = {"distance_mm": 300, "beam_centre_px": [10, 20], "pixel_size_um": [75, 75], "wavelength_angstrom": 1.5}
    geometry = Geometry.from_config({"distance_mm": 310, "energy_kev": 12.398419843}, found)
    assert geometry.distance_mm == 310
    assert geometry.wavelength_angstrom == pytest.approx(1)
    assert geometry.beam_centre_px == pytest.approx((10, 20))


def test_a_poni_file_stands_above_what_the_files_state_but_for_a_wavelength_that_it_lacks(tmp_path: Path) -> None:
    theirs, path = with_pyfai(np.random.default_rng(2), tmp_path)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("Wavelength")))
    found = {"distance_mm": 300, "wavelength_angstrom": 1.5, "beam_centre_px": [0, 0], "pixel_size_um": [75, 75]}
    geometry = Geometry.from_config({"poni": str(path)}, found)
    assert geometry.distance_mm == pytest.approx(theirs.dist * 1e3)
    assert geometry.wavelength_angstrom == 1.5
    with pytest.raises(InputError, match="lacks the wavelength"):
        Geometry.from_poni(path).q(0, 0)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, ["geometry: is incomplete", "distance_mm", "beam_centre_px", "pixel_size_um"]),
        ({"distance_mm": 200}, ["has distance_mm", "lacks beam_centre_px, pixel_size_um"]),
        ({**PLAIN, "distance_mm": -2}, ["geometry.distance_mm", "-2", "greater than 0"]),
        ({**PLAIN, "beam_centre_px": [1]}, ["geometry.beam_centre_px"]),
        ({**PLAIN, "wavelength_angstrom": 1}, ["energy_kev", "wavelength_angstrom", "one of them"]),
        ({**PLAIN, "rotation_degree": [170, 0, 0]}, ["geometry.rotation_degree", "back to the beam"]),
        ({**PLAIN, "distance": 1}, ["distance", "Did you mean distance_mm"]),
        ({**PLAIN, "std": {"distance": 1}}, ["geometry.std.distance", "distance_mm"]),
        ({**PLAIN, "std": {"beam_centre_px": [-1, 0]}}, ["geometry.std.beam_centre_px", "0 or more"]),
        ({**PLAIN, "std": {"beam_centre_px": 1}}, ["geometry.std.beam_centre_px", "2 numbers"]),
        ({"poni": "nowhere.poni"}, ["geometry.poni", "nowhere.poni", "no file"]),
    ],
)
def test_a_wrong_or_incomplete_geometry_is_refused_with_the_key(keys: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(InputError) as error:
        Geometry.from_config(keys)
    assert [text for text in said if text not in str(error.value)] == []


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ([1, 2], "must be a mapping"),
        ("no JSON", "must be a mapping"),
        ({**PLAIN, "pixel_size_um": "75"}, "geometry.pixel_size_um: '75' is not accepted; must be 2 numbers above 0"),
        ({**PLAIN, "distance_mm": None}, "geometry.distance_mm: None is not accepted; must be a number above 0"),
        ({**PLAIN, "distance_mm": float("nan")}, "geometry.distance_mm: nan"),
        ({**PLAIN, "tilt": 1}, "geometry.tilt: is not a key"),
        ({"poni_mm": [1, 2]}, "has poni_mm, lacks distance_mm, pixel_size_um"),
        ({**PLAIN, "covariance": [[0.0] * 7]}, "geometry.covariance: has 1 rows; must have 7"),
    ],
)
def test_what_a_store_states_wrongly_is_refused(attributes: object, said: str) -> None:
    with pytest.raises(InputError) as error:
        Geometry.from_attributes(attributes)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: "nonsense", "lacks"),
        (lambda text: text.replace("Distance:", "Length:"), "lacks dist"),
        (lambda text: text.replace("poni_version: 2.1", "poni_version: 3") + "\nParallax: True\n", "parallax"),
        (lambda text: text.replace('"orientation": ', '"orientation": 9'), "pyFAI cannot read it"),
    ],
)
def test_a_poni_file_that_cannot_be_used_is_refused_with_its_name(tmp_path: Path, change: Any, said: str) -> None:
    _, path = with_pyfai(np.random.default_rng(3), tmp_path)
    text = path.read_text()
    path.write_text(change(text))
    with pytest.raises(InputError) as error:
        Geometry.from_poni(path)
    assert "geometry.poni" in str(error.value)
    assert path.name in str(error.value)
    assert said in str(error.value)


def test_without_pyfai_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.poni"
    path.write_text("Distance: 0.1\n")
    for name in ("pyFAI", "pyFAI.io", "pyFAI.io.ponifile"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(InputError, match=r"needs pyFAI.*braggflow\[geometry\]"):
        Geometry.from_poni(path)


def test_the_uncertainties_of_plain_keys_are_those_of_many_geometries_drawn_from_them() -> None:
    std = {"distance_mm": 0.3, "beam_centre_px": [0.4, 0.2], "rotation_degree": [0.1, 0.05, 0.2]}
    keys = {**PLAIN, "rotation_degree": [12, -7, 4]}
    stated = np.sqrt(np.diag(np.array(Geometry.from_config({**keys, "std": std}).covariance)))
    rng, drawn = np.random.default_rng(4), []
    for _ in range(4000):
        changed = {key: np.asarray(keys[key]) + rng.normal(size=np.shape(value)) * value for key, value in std.items()}
        one = Geometry.from_attributes({**keys, **{key: value.tolist() for key, value in changed.items()}})
        drawn.append([one.distance_mm, *one.poni_mm, *one.rotation_degree])
    np.testing.assert_allclose(stated[:6], np.std(drawn, axis=0), rtol=0.04)


def test_configurations_state_geometry_and_what_is_wrong_in_them_is_said() -> None:
    config = resolve_config({"geometry": tilted()})
    assert Geometry.from_config(config.geometry).rotation_degree == tuple(tilted()["rotation_degree"])
    with pytest.raises(InputError, match=r"geometry\.phases\.lfp"):
        resolve_config({"geometry": {"phases": {"lfp": {"cell": [10.3, 6, 4.7, 90, 90, 90]}}}})
