"""Rings of known phases, and the nearest to each peak."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from braggflow.config import PhaseConfig
from braggflow.errors import InputError
from braggflow.geometry import add_q, add_rings, rings_of
from tests.geometry.places import PLAIN, table_of

gemmi = pytest.importorskip("gemmi")
NICKEL = {"cell": [3.524, 3.524, 3.524, 90, 90, 90], "space_group": "F m -3 m"}
SILICON = {"cell": [5.431, 5.431, 5.431, 90, 90, 90], "space_group": "227"}
CIF = """data_x
_cell_length_a 5.431
_cell_length_b 5.431
_cell_length_c 5.431
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F d -3 m'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Si 0 0 0
"""


def test_rings_of_a_face_centred_cell_are_those_of_the_book() -> None:
    (rings,) = rings_of({"nickel": NICKEL}, 7.0)
    squares = np.array([3, 4, 8, 11, 12])  # h² + k² + l² of all odd or all even
    np.testing.assert_allclose(rings.q, 2 * np.pi / 3.524 * np.sqrt(squares), rtol=1e-7)
    assert (np.square(rings.hkl).sum(axis=1) == squares).all()


def test_forms_of_one_phase_are_alike(tmp_path: Path) -> None:
    path = tmp_path / "si.cif"
    path.write_text(CIF)
    forms: list[Any] = [SILICON, PhaseConfig(**SILICON), path, str(path), {**SILICON, "space_group": "F d -3 m"}]
    found = [rings_of({"silicon": form}, 6.0)[0].q for form in forms]
    for one in found[1:]:
        np.testing.assert_allclose(one, found[0], rtol=1e-9)


def test_each_peak_gets_its_nearest_ring_with_the_distance_in_its_own_uncertainty() -> None:
    rng = np.random.default_rng(0)
    y, x = rng.uniform(0, 400, (2, 200))
    peaks = add_q(table_of(y, x, y_std=0.1, x_std=0.1), PLAIN)
    found = add_rings(peaks, {"nickel": NICKEL, "silicon": SILICON})
    phases = rings_of({"nickel": NICKEL, "silicon": SILICON}, 20)
    for row in range(0, 200, 7):
        off = [np.abs(one.q - float(peaks["q"][row])).min() for one in phases]
        nearest = int(np.argmin(off))
        assert int(found["phase"][row]) == nearest
        assert abs(float(found["ring_distance"][row])) == pytest.approx(min(off) / float(peaks["q_std"][row]))
        hkl = [int(found[name][row]) for name in "hkl"]
        cell = gemmi.UnitCell(*(NICKEL, SILICON)[nearest]["cell"])
        assert 2 * np.pi / cell.calculate_d(hkl) == pytest.approx(float(found["q_ring"][row]), rel=1e-6)
    assert found["phase"].attrs["flag_meanings"] == "nickel silicon"


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ({"space_group": "F m -3 m"}, "phases.x: has no cell; must be a, b, c"),
        ({"cell": NICKEL["cell"]}, "phases.x: has no space_group"),
        ({**NICKEL, "cell": [3.5, 3.5, 3.5]}, "phases.x.cell"),
        ({**NICKEL, "cell": [3.5, 3.5, -3.5, 90, 90, 90]}, "phases.x.cell"),
        ({**NICKEL, "cell": [3.5, 3.5, 4.5, 90, 90, 90]}, "does not fit the space group F m -3 m"),
        ({**NICKEL, "space_group": "F m m m m"}, "phases.x.space_group: 'F m m m m' is not known"),
        ({**NICKEL, "space_group": "999"}, "phases.x.space_group"),
        ("nowhere.cif", "nowhere.cif is no file"),
    ],
)
def test_a_phase_that_says_too_little_or_what_cannot_be_is_named(phase: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        rings_of({"x": phase}, 5)
    assert said in str(error.value)


@pytest.mark.parametrize(("change", "said"), [("_cell_length", "no unit cell"), ("_symmetry", "no space group")])
def test_a_cif_file_without_cell_or_group_is_named(tmp_path: Path, change: str, said: str) -> None:
    path = tmp_path / "si.cif"
    path.write_text("\n".join(line for line in CIF.splitlines() if not line.startswith(change)))
    with pytest.raises(InputError, match=said):
        rings_of({"silicon": path}, 5)


def test_no_phases_no_q_and_no_gemmi_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = add_q(table_of([1], [2]), PLAIN)
    with pytest.raises(InputError, match="phases: none are given"):
        add_rings(peaks, {})
    with pytest.raises(InputError, match="has no column q"):
        add_rings(table_of([1], [2]), {"nickel": NICKEL})
    monkeypatch.setitem(__import__("sys").modules, "gemmi", None)
    with pytest.raises(InputError, match=r"needs gemmi.*braggflow\[geometry\]"):
        add_rings(peaks, {"nickel": NICKEL})
