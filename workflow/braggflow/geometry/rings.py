"""The rings of known phases, and which of them a peak lies nearest to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.config import PhaseConfig
from braggflow.errors import InputError

Phases = Mapping[str, PhaseConfig | Mapping[str, Any] | str | Path]
#: Rings that differ by less than this share of q are one.
_SAME = 1e-6


class Rings(NamedTuple):
    """The rings of one phase, by rising q."""

    name: str
    q: NDArray[np.float64]
    """(n,), 1/Å."""
    hkl: NDArray[np.int64]
    """(n, 3): one of the reflections on each."""


def rings_of(phases: Phases, q_max: float) -> list[Rings]:
    """The rings of phases up to `q_max`, 1/Å, by unit cell and space group.

    A phase is a mapping with `cell` (a, b, c in Å, alpha, beta, gamma in degree) and `space_group`, or a CIF file;
    gemmi reads both. Reflections that the space group forbids are left out, not those that only the atoms' places
    forbid. Raises `InputError` naming the phase where gemmi is not installed, or where cell or space group are missing,
    wrong, or do not fit each other.
    """
    return [_rings(name, *_cell_and_group(name, phase), q_max) for name, phase in _given(phases).items()]


def add_rings(peaks: xr.Dataset, phases: Phases) -> xr.Dataset:
    """The peaks with the ring of a known phase that each is nearest to, as further columns.

    Parameters
    ----------
    peaks : xarray.Dataset
        Peaks with the columns `q` and `q_std`, as `add_q` returns them.
    phases : mapping
        By name: a mapping with `cell` (a, b, c in Å, alpha, beta, gamma in degree) and `space_group`, or the path of a
        CIF file; those of a run's configuration: ``braggflow.open_run(RUN).config.geometry.phases``.

    Returns
    -------
    xarray.Dataset
        The same peaks with `phase` (a number each, named by the attributes `flag_values` and `flag_meanings`), `h`,
        `k`, `l` (one of the reflections on the ring), `q_ring` (1/Å), and `ring_distance`, how far the peak is from it
        in units of its own `q_std`. Whether a peak lies on the ring is for the reader to say: |ring_distance| < 3.

    Raises
    ------
    InputError
        Where there are no phases, one has no cell or no space group, or the peaks have no `q`.

    Examples
    --------
    >>> import braggflow
    >>> geometry = {"distance_mm": 200, "beam_centre_px": [32, -400], "pixel_size_um": [75, 75], "energy_kev": 17.4}
    >>> peaks = braggflow.add_q("runs/scan", geometry)
    >>> silicon = {"cell": [5.431, 5.431, 5.431, 90, 90, 90], "space_group": "F d -3 m"}
    >>> ringed = braggflow.add_rings(peaks, {"silicon": silicon})
    >>> ringed["phase"].attrs["flag_meanings"]
    'silicon'
    """
    if "q" not in peaks:
        raise InputError("peaks: has no column q; add_q(peaks) adds it")
    q, std = peaks["q"].values, peaks["q_std"].values
    found = [_beyond(name, phase, float(np.nanmax(q, initial=0.0))) for name, phase in _given(phases).items()]
    rings = np.concatenate([one.q for one in found])
    order = np.argsort(rings, kind="stable")
    rings, phase = rings[order], np.repeat(np.arange(len(found)), [len(one.q) for one in found])[order]
    hkl = np.concatenate([one.hkl for one in found])[order]
    above = np.searchsorted(rings, q).clip(1, len(rings) - 1)
    nearest = np.where(rings[above] - q < q - rings[above - 1], above, above - 1)
    names = {
        "flag_values": list(range(len(found))),
        "flag_meanings": " ".join(one.name.replace(" ", "_") for one in found),
    }
    columns: dict[str, Any] = {
        "phase": ("peak", phase[nearest].astype(np.int8), {"units": "1", "long_name": "nearest ring's phase", **names})
    }
    for index, name in enumerate("hkl"):
        columns[name] = (
            "peak",
            hkl[nearest, index].astype(np.int16),
            {"units": "1", "long_name": "of the nearest ring"},
        )
    columns["q_ring"] = ("peak", rings[nearest], {"units": "angstrom-1", "long_name": "of the nearest ring"})
    columns["ring_distance"] = (
        "peak",
        (q - rings[nearest]) / std,
        {"units": "1", "long_name": "q less q_ring, in standard uncertainties of q"},
    )
    return peaks.assign(columns)


def _given(phases: Phases) -> Phases:
    if not phases:
        raise InputError("phases: none are given; must be {NAME: {cell: [...], space_group: ...}} or {NAME: FILE.cif}")
    return phases


def _beyond(name: str, phase: PhaseConfig | Mapping[str, Any] | str | Path, q: float) -> Rings:
    """The rings of a phase, two at least, up to the first beyond `q`."""
    cell, group = _cell_and_group(name, phase)
    limit = max(q, 2 * np.pi / max(cell.parameters[:3]))
    rings = _rings(name, cell, group, limit)
    while len(rings.q) < 2 or rings.q[-1] <= q:
        limit *= 1.2
        rings = _rings(name, cell, group, limit)
    return rings


def _rings(name: str, cell: Any, group: Any, q_max: float) -> Rings:
    import gemmi

    hkl = np.asarray(gemmi.make_miller_array(cell, group, 2 * np.pi / q_max), np.int64).reshape(-1, 3)
    q = 2 * np.pi / np.asarray(cell.calculate_d_array(hkl.astype(np.int32)), np.float64)
    order = np.argsort(q, kind="stable")
    q, hkl = q[order], hkl[order]
    new = np.diff(q, prepend=0.0) > _SAME * q
    return Rings(name, q[new], hkl[new])


def _cell_and_group(name: str, phase: PhaseConfig | Mapping[str, Any] | str | Path) -> tuple[Any, Any]:
    what = f"phases.{name}"
    try:
        import gemmi
    except ImportError as error:
        raise InputError(f'{what}: needs gemmi, which is not installed: pip install "braggflow[geometry]"') from error
    if isinstance(phase, str | Path):
        return _of_cif(what, Path(phase))
    stated = phase.model_dump() if isinstance(phase, PhaseConfig) else phase
    for key, must in (("cell", "a, b, c (Å), alpha, beta, gamma (degree)"), ("space_group", "a symbol or number")):
        if not stated.get(key):
            raise InputError(f"{what}: has no {key}; must be {must}")
    try:
        lengths = [float(number) for number in stated["cell"]]
        cell = gemmi.UnitCell(*lengths)
        right = len(lengths) == 6 and min(lengths) > 0 and max(lengths[3:]) < 180 and cell.volume > 0
    except (TypeError, ValueError):
        right = False
    if not right:
        raise InputError(f"{what}.cell: {stated['cell']!r} is not accepted; must be a, b, c (Å), alpha, beta, gamma")
    symbol = str(stated["space_group"])
    group = gemmi.find_spacegroup_by_number(int(symbol)) if symbol.isdigit() else gemmi.find_spacegroup_by_name(symbol)
    if group is None:
        raise InputError(f"{what}.space_group: {symbol!r} is not known; must be a symbol or number, e.g. F m -3 m")
    return _fitting(what, cell, group)


def _of_cif(what: str, path: Path) -> tuple[Any, Any]:
    import gemmi

    if not path.is_file():
        raise InputError(f"{what}: {path} is no file; must be a CIF file, or a mapping with cell and space_group")
    try:
        structure = gemmi.read_small_structure(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{what}: {path}: gemmi cannot read it as a CIF file ({error})") from error
    if not structure.cell.is_crystal():
        raise InputError(f"{what}: {path}: states no unit cell")
    group = structure.spacegroup or gemmi.find_spacegroup_by_name(structure.spacegroup_hm)
    if group is None:
        raise InputError(f"{what}: {path}: states no space group that gemmi knows ({structure.spacegroup_hm!r})")
    return _fitting(what, structure.cell, group)


def _fitting(what: str, cell: Any, group: Any) -> tuple[Any, Any]:
    if not cell.is_compatible_with_spacegroup(group):
        raise InputError(f"{what}: the cell {list(cell.parameters)} does not fit the space group {group.xhm()}")
    return cell, group
