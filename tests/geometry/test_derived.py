"""What positions and shapes mean: columns, and their uncertainties by Monte Carlo."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import braggflow
from braggflow.errors import InputError
from braggflow.geometry import Geometry, add_q
from tests.geometry.places import PLAIN, table_of, tilted

NAMES = ("two_theta", "azimuth", "q", "d")
DRAWS = 20_000


def peaks(n: int = 6) -> xr.Dataset:
    rng = np.random.default_rng(0)
    y, x = rng.uniform(0, 400, (2, n))
    return table_of(
        y,
        x,
        y_std=rng.uniform(0.02, 0.3, n),
        x_std=rng.uniform(0.02, 0.3, n),
        fwhm_major=rng.uniform(3, 6, n),
        fwhm_minor=rng.uniform(2, 3, n),
        angle=rng.uniform(-90, 90, n),
    )


def test_columns_are_those_of_the_geometry() -> None:
    found, geometry = add_q(peaks(), tilted()), Geometry.from_config(tilted())
    for name in NAMES:
        np.testing.assert_array_equal(found[name], getattr(geometry, name)(found["y"].values, found["x"].values))
    np.testing.assert_allclose(found["q"] * found["d"], 2 * np.pi)
    assert {found[name].attrs["units"] for name in NAMES} == {"degree", "angstrom-1", "angstrom"}
    assert set(peaks().variables) <= set(found.variables)
    assert "q_std_geometry" not in found


def test_uncertainties_agree_with_those_of_places_drawn_at_random() -> None:
    found, geometry = add_q(peaks(), tilted()), Geometry.from_config(tilted())
    rng = np.random.default_rng(1)
    # Errors that have the shape of the fitted ellipse, as those of counts do.
    angle = np.radians(found["angle"].values)
    ratio = found["fwhm_minor"].values / found["fwhm_major"].values
    along, across = rng.normal(size=(DRAWS, 6)), ratio * rng.normal(size=(DRAWS, 6))
    errors = {"y": along * np.sin(angle) + across * np.cos(angle), "x": along * np.cos(angle) - across * np.sin(angle)}
    size = {"y": np.hypot(np.sin(angle), ratio * np.cos(angle)), "x": np.hypot(np.cos(angle), ratio * np.sin(angle))}
    y, x = (found[axis].values + found[f"{axis}_std"].values * errors[axis] / size[axis] for axis in "yx")
    for name in NAMES:
        scatter = getattr(geometry, name)(y, x).std(axis=0)
        np.testing.assert_allclose(found[f"{name}_std"], scatter, rtol=0.03, err_msg=name)


def test_without_an_ellipse_the_errors_of_y_and_x_are_independent() -> None:
    table = peaks().drop_vars(["fwhm_major"]).assign(fwhm_major=("peak", np.full(6, np.nan, np.float32)))
    found, geometry = add_q(table, tilted()), Geometry.from_config(tilted())
    slope = geometry.jacobian(found["y"].values, found["x"].values)[:, 0]
    expected = np.hypot(slope[:, 0] * found["y_std"].values, slope[:, 1] * found["x_std"].values)
    np.testing.assert_allclose(found["two_theta_std"], expected, rtol=1e-6)
    assert np.isnan(found["fwhm_q"]).all()


def test_uncertainties_of_the_geometry_are_added_and_stand_alone_too() -> None:
    std = {"distance_mm": 0.2, "beam_centre_px": [0.3, 0.5], "rotation_degree": [0.05, 0.04, 0.1]}
    keys = {**{key: value for key, value in tilted().items() if key != "energy_kev"}, "wavelength_angstrom": 0.7}
    found = add_q(peaks(), {**keys, "std": {**std, "wavelength_angstrom": 1e-3}})
    rng, y, x = np.random.default_rng(2), found["y"].values, found["x"].values
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for _ in range(DRAWS // 4):
        keys_now = {
            key: (np.asarray(keys[key]) + rng.normal(size=np.shape(by)) * by).tolist() for key, by in std.items()
        }
        geometry = Geometry.from_attributes({**keys, **keys_now, "wavelength_angstrom": 0.7 + 1e-3 * rng.normal()})
        for name in NAMES:
            drawn[name].append(getattr(geometry, name)(y, x))
    own = add_q(peaks(), keys)
    for name in NAMES:
        common = found[f"{name}_std_geometry"].values
        np.testing.assert_allclose(common, np.std(drawn[name], axis=0), rtol=0.03, err_msg=name)
        np.testing.assert_allclose(found[f"{name}_std"], np.hypot(common, own[f"{name}_std"]), rtol=1e-6)


def test_widths_are_those_of_points_drawn_from_the_fitted_ellipse() -> None:
    found, geometry = add_q(peaks(), tilted()), Geometry.from_config(tilted())
    rng, to_sigma = np.random.default_rng(3), 1 / np.sqrt(8 * np.log(2))
    angle = np.radians(found["angle"].values)
    # Small ellipses of the same shape: the curvature of rings is no width.
    along, across = (
        1e-2 * to_sigma * found[name].values * rng.normal(size=(DRAWS, 6)) for name in ("fwhm_major", "fwhm_minor")
    )
    y = found["y"].values + along * np.sin(angle) + across * np.cos(angle)
    x = found["x"].values + along * np.cos(angle) - across * np.sin(angle)
    for name in ("two_theta", "azimuth", "q"):
        width = getattr(geometry, name)(y, x).std(axis=0) / to_sigma / 1e-2
        np.testing.assert_allclose(found[f"fwhm_{name}"], width, rtol=0.03, err_msg=name)


def test_the_instruments_width_is_taken_off_in_squares() -> None:
    u, v, w = 0.02, -0.01, 0.004
    y = np.linspace(0, 400, 80)
    standard = add_q(table_of(y, y, flags=0), PLAIN)
    tangent = np.tan(np.radians(standard["two_theta"].values / 2))
    standard["fwhm_two_theta"] = ("peak", np.sqrt(u * tangent**2 + v * tangent + w))
    standard["fwhm_two_theta"][7] = 3.0  # no reflection of the standard
    sample = add_q(peaks(), PLAIN, standard=standard)
    at = np.tan(np.radians(sample["two_theta"].values / 2))
    instrument = u * at**2 + v * at + w
    left = sample["fwhm_two_theta"].values ** 2 - instrument
    assert 0 < np.count_nonzero(left > 0) < len(left)
    expected = np.sqrt(np.where(left > 0, left, np.nan))
    np.testing.assert_allclose(sample["fwhm_two_theta_sample"], expected, rtol=1e-6)
    np.testing.assert_allclose(
        sample["fwhm_q_sample"] / sample["fwhm_q"], sample["fwhm_two_theta_sample"] / sample["fwhm_two_theta"]
    )
    beyond = add_q(table_of([300], [900]), PLAIN, standard=standard)
    assert np.isnan(beyond["fwhm_q_sample"]).all()


def test_a_standard_without_widths_is_refused() -> None:
    with pytest.raises(InputError, match="standard: has no column two_theta"):
        add_q(peaks(), PLAIN, standard=peaks())
    with pytest.raises(InputError, match="standard: has 0 peaks with a fitted width"):
        add_q(peaks(), PLAIN, standard=add_q(table_of([1, 2], [3, 4]), PLAIN))


def test_factors_of_intensities_where_they_are_asked_for() -> None:
    found = add_q(peaks(), PLAIN, polarization=0.95, solid_angle=True)
    geometry, y, x = Geometry.from_config(PLAIN), found["y"].values, found["x"].values
    np.testing.assert_array_equal(found["polarization"], geometry.polarization(y, x, 0.95))
    np.testing.assert_array_equal(found["solid_angle"], geometry.solid_angle(y, x))
    assert "polarization" not in add_q(peaks(), PLAIN)
    with pytest.raises(InputError, match="polarization: 2 is not accepted; must be from -1 to 1"):
        add_q(peaks(), PLAIN, polarization=2)


def test_the_geometry_of_the_table_is_used_and_what_is_given_stands_above_it() -> None:
    known = {"distance_mm": 150, "beam_centre_px": [1, 2], "pixel_size_um": [75, 75], "wavelength_angstrom": 1}
    table = table_of([10], [20], attributes={"geometry": json.dumps(known)})
    of_table = add_q(table)
    np.testing.assert_array_equal(of_table["q"], Geometry.from_config(known).q([10], [20]))
    nearer = add_q(table, {"distance_mm": 100})
    np.testing.assert_array_equal(nearer["q"], Geometry.from_config({**known, "distance_mm": 100}).q([10], [20]))
    assert Geometry.from_attributes(nearer.attrs["geometry"]).distance_mm == pytest.approx(100)
    xr.testing.assert_identical(add_q(nearer), nearer)


def test_no_geometry_and_no_table_are_refused() -> None:
    with pytest.raises(InputError, match="geometry: the table has none"):
        add_q(peaks())
    with pytest.raises(InputError, match="geometry: is incomplete; has wavelength_angstrom, lacks distance_mm"):
        add_q(table_of([1], [2], attributes={"geometry": json.dumps({"wavelength_angstrom": 1.0})}))
    with pytest.raises(InputError, match="peaks: is no peak table"):
        add_q(xr.Dataset(), PLAIN)
    with pytest.raises(InputError, match="holds no peak table"):
        add_q(Path("nowhere"), PLAIN)


def test_a_table_without_peaks_has_the_columns_too() -> None:
    found = add_q(table_of([], []), PLAIN, polarization=1)
    assert found["q"].shape == found["q_std"].shape == found["fwhm_q"].shape == (0,)


def test_columns_go_into_data_frames() -> None:
    table = braggflow.to_dataframe(add_q(peaks(), PLAIN), ["q", "q_std", "d"])
    assert table.columns.to_list() == ["peak_frame", "q", "q_std", "d"]
