"""NeXus: an NXreflections group, and beside it an NXcollection with our columns as they are.

Names, types and meanings are those of the definition (base_classes/NXreflections.nxdl.xml). It does not say where a
pixel begins; DIALS, whose flags it takes over and whose exporter writes it, calls the middle of the first pixel 0.5 and
that of frame 0 also, and so does this. `flags` has the bits of DIALS that say what ours say; all of ours are in the
collection, with their masks and meanings. No base class has a place for NXreflections: it stands in the NXentry, as
DIALS has it. Every field has a dimension, reflections (n), `bounding_box` a second one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.exchange.conventions import CONVENTIONS
from braggflow.exchange.dials import FRAME_VARIANCE, bounding_boxes, intensity_variance, our_flags, status_flags
from braggflow.exchange.lists import PeakList
from braggflow.exchange.rows import ROWS_AT_ONCE, WRITER, Rows, refuse_without_room, values_of
from braggflow.peak_table import VARIABLES

_MIDDLE, _FRAME_MIDDLE = CONVENTIONS["nexus"].middle, CONVENTIONS["nexus"].frame_middle
_ENTRY, _REFLECTIONS, _OURS = "entry", "reflections", "braggflow"
#: What an HDF5 file needs beside its columns, bytes.
_HDF5_RESERVE = 2**19

#: Fields of NXreflections: dtype, units, meaning, values of our rows.
_FIELDS: dict[str, tuple[str, str, str, Callable[[xr.Dataset], NDArray[Any]]]] = {
    "id": ("i4", "", "experiment of the reflection", lambda rows: np.zeros(rows.sizes["peak"])),
    "det_module": ("i4", "", "detector module", lambda rows: np.zeros(rows.sizes["peak"])),
    "flags": ("i8", "", "status flags, a bit mask as in DIALS", status_flags),
    "observed_frame": (
        "f8",
        "",
        "observed frame; frame 0 spans 0 to 1",
        lambda rows: rows["peak_frame"].values + _FRAME_MIDDLE,
    ),
    "observed_frame_var": ("f8", "", "its variance", lambda rows: np.full(rows.sizes["peak"], FRAME_VARIANCE)),
    "observed_px_x": (
        "f8",
        "",
        "observed pixel along the fast axis; the first spans 0 to 1",
        lambda rows: rows["x"].values + _MIDDLE,
    ),
    "observed_px_x_var": ("f8", "", "its variance", lambda rows: values_of(rows, "x_std") ** 2),
    "observed_px_y": (
        "f8",
        "",
        "observed pixel along the slow axis; the first spans 0 to 1",
        lambda rows: rows["y"].values + _MIDDLE,
    ),
    "observed_px_y_var": ("f8", "", "its variance", lambda rows: values_of(rows, "y_std") ** 2),
    "int_sum": ("f8", "", "intensity above background, counts", lambda rows: values_of(rows, "intensity")),
    "int_sum_var": ("f8", "", "its variance", intensity_variance),
    "background_mean": ("f8", "", "background under the peak, counts a pixel", lambda r: values_of(r, "background")),
    "bounding_box": ("i4", "", "x, y and frame, each from and to", bounding_boxes),
}
#: Fields that stand for coordinates and columns where the table has these.
_MORE = {"omega": ("observed_phi", "degree"), "d": ("d", "angstrom")}


def _write_nexus(path: Path, rows: Rows) -> None:
    import h5py

    ours = [name for name in rows.names if rows.empty[name].dtype.kind in "iuf"]
    row_size = 8 * (len(_FIELDS) + 6 + len(ours) + len(_MORE))
    refuse_without_room(path, _HDF5_RESERVE + rows.n * row_size)
    more = {name: field for name, field in _MORE.items() if name in ours}
    with h5py.File(path, "w") as file:
        file.attrs.update({"default": _ENTRY, "creator": WRITER})
        entry = _group(file, _ENTRY, "NXentry")
        entry["title"] = str(rows.stored.attrs.get("source", ""))
        reflections = _group(entry, _REFLECTIONS, "NXreflections")
        reflections.create_dataset("experiments", data=["0"], dtype=h5py.string_dtype())
        collection = _group(entry, _OURS, "NXcollection")
        for name, (dtype, units, meaning, _) in _FIELDS.items():
            width = (6,) if name == "bounding_box" else ()
            _field(reflections, name, rows.n, width, dtype, {"units": units, "description": meaning})
        for name, (field, units) in more.items():
            _field(reflections, field, rows.n, (), "f8", {"units": units, "description": name})
        for name in ours:
            stated = {key: value for key, value in rows.attributes[name].items() if value is not None}
            _field(collection, name, rows.n, (), rows.empty[name].dtype, stated)
        collection["frame"] = rows.frames
        start = 0
        for chunk in rows.chunks():
            stop = start + chunk.sizes["peak"]
            for name, (*_, values) in _FIELDS.items():
                reflections[name][start:stop] = values(chunk)
            for name, (field, _) in more.items():
                reflections[field][start:stop] = chunk[name].values
            for name in ours:
                collection[name][start:stop] = chunk[name].values
            start = stop


def _group(parent: Any, name: str, kind: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    return group


def _field(parent: Any, name: str, n: int, width: tuple[int, ...], dtype: Any, attributes: dict[str, Any]) -> None:
    packed = {"chunks": (min(ROWS_AT_ONCE, n), *width), "compression": "gzip", "compression_opts": 1, "shuffle": True}
    parent.create_dataset(name, (n, *width), dtype, **(packed if n else {})).attrs.update(attributes)


def _read_nexus(path: Path) -> PeakList:
    """The first NXreflections group; our own columns too, where the file has them of as many rows."""
    import h5py

    with h5py.File(path, "r") as file:
        group = _first_reflections(file)
        if group is None:
            raise InputError(f"{path}: has no group of class NXreflections")
        needed = ("observed_px_y", "observed_px_x", "observed_frame")
        if missing := [name for name in needed if name not in group]:
            raise InputError(f"{path}: {group.name} has no field {', '.join(missing)}; must hold observed reflections")
        y, x, frame = (group[name][:] for name in needed)
        columns = {"y": y - _MIDDLE, "x": x - _MIDDLE, "peak_frame": np.rint(frame - _FRAME_MIDDLE)}
        variances = {"observed_px_y_var": "y_std", "observed_px_x_var": "x_std", "int_sum_var": "intensity_std"}
        for theirs, ours in variances.items():
            if theirs in group:
                with np.errstate(invalid="ignore"):  # a variance below 0 says nothing
                    columns[ours] = np.sqrt(group[theirs][:])
        for theirs, ours in (("int_sum", "intensity"), ("background_mean", "background")):
            if theirs in group:
                columns[ours] = group[theirs][:]
        if "flags" in group:
            columns["flags"] = our_flags(group["flags"][:].astype(np.int64))
        own = group.parent.get(_OURS)
        frames = None
        if own is not None:
            columns |= {
                name: values[:] for name, values in own.items() if name in VARIABLES and values.shape == y.shape
            }
            frames = own["frame"][:] if "frame" in own else None
        read = {*_FIELDS, "experiments", "observed_phi"}
        return PeakList(columns, frames, unread=[name for name in group if name not in read])


def _first_reflections(file: Any) -> Any:
    import h5py

    found: list[Any] = []

    def look(_: str, node: Any) -> None:
        kind = node.attrs.get("NX_class", b"")
        if isinstance(node, h5py.Group) and (kind.decode() if isinstance(kind, bytes) else kind) == "NXreflections":
            found.append(node)

    file.visititems(look)
    return found[0] if found else None


WRITERS = {"nexus": _write_nexus}
READERS = {"nexus": _read_nexus}
