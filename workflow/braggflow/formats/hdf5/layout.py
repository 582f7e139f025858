"""Which axes of an HDF5 data set count frames: (y, x), (frame, y, x), a grid of scan points, or a panel of several."""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.hdf5.deflated import read_deflated
from braggflow.formats.hdf5.tree import LINK_ERRORS, Node, Tree, attribute_text, attribute_texts, join
from braggflow.formats.metadata import grid_coords
from braggflow.peak_table import RESERVED

#: The registered number of the filter, and which of its values is the size of an element.
_BITSHUFFLE, _ELEMENT_SIZE = 32008, 2
_PANEL = re.compile(r"(.+)/panel_(\d+)")
_PANEL_AXIS = re.compile(r"panel|module|tile|asic|segment", re.I)
#: What is called so in a frames store, or computed from there, is no coordinate of a file.
_TAKEN = RESERVED | {"frame", "frames", "mask", "dark", "flat", "y", "x", "time", "scan_y", "scan_x"}

Coords = dict[str, tuple[NDArray[Any], dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the axes of a data set make frames."""

    lead: tuple[int, ...]
    """Lengths of the axes before (y, x)."""
    panel: int | None = None
    """Which panel is meant, counted along the axis before (y, x)."""

    @property
    def grid(self) -> tuple[int, ...]:
        """Lengths of the axes that count frames, in C order: (), (frame,) or (scan_y, scan_x)."""
        return self.lead if self.panel is None else self.lead[:-1]

    @property
    def frames(self) -> int:
        """How many frames."""
        return math.prod(self.grid)

    def of_cells(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Of values for each (y, x) image of the data set, in C order, those of the frames."""
        return cells if self.panel is None else cells.reshape(self.lead)[..., self.panel].ravel()


def split_panel(file: Any, name: str) -> tuple[str, int | None]:
    """`/path/panel_2` as data set and panel, if `/path` is a data set; any other name as it is."""
    match = _PANEL.fullmatch(name)
    try:
        if match and hasattr(file[match[1]], "dtype"):
            return match[1], int(match[2])
    except LINK_ERRORS:
        pass
    return name, None


def layout_of(data_set: Any, name: str, panel: int | None = None) -> Layout:
    """How a data set's axes make frames, with the panel asked for; `name` is for messages."""
    shape = getattr(data_set, "shape", None)
    if shape is None or not 2 <= len(shape) <= 4:
        raise InputError(f"{name}: has shape {shape}, must be (frame, y, x), (y, x), or a grid (scan_y, scan_x, y, x)")
    if panel is not None and (len(shape) < 3 or panel >= shape[-3]):
        raise InputError(f"{name}: has shape {shape}, so it has no panel {panel} (they count from 0)")
    _refuse_deadly_filter(data_set, name)
    return Layout(tuple(shape[:-2]), panel)


def _refuse_deadly_filter(data_set: Any, name: str) -> None:
    """Refuse what the code of bitshuffle, which divides by the size of an element, would end the process for."""
    filters = data_set.id.get_create_plist()
    for at in range(filters.get_nfilters()):
        code, _, values, _ = filters.get_filter(at)
        if code == _BITSHUFFLE and len(values) > _ELEMENT_SIZE and values[_ELEMENT_SIZE] == 0:
            raise InputError(f"{name}: is damaged: its filter, bitshuffle, states elements of 0 bytes")


def read_layout(data_set: Any, layout: Layout, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi, shape (hi - lo, y, x); of a grid its rows are read whole where they are asked for whole."""
    at = () if layout.panel is None else (layout.panel,)
    if len(layout.lead) == 1 and (images := read_deflated(data_set, lo, hi)) is not None:
        return images
    if len(layout.grid) < 2:
        return np.asarray(data_set[(slice(lo, hi), *at)] if layout.grid else data_set[at or ()][np.newaxis])
    columns, shape = layout.grid[1], (-1, *data_set.shape[-2:])
    first, last = -(-lo // columns), hi // columns  # the whole rows
    if first > last:  # within one row
        return np.asarray(data_set[last, lo % columns : hi % columns])
    parts = [data_set[first - 1, lo % columns :]] if lo % columns else []
    parts += [data_set[first:last].reshape(shape)] if last > first else []
    parts += [data_set[last, : hi % columns]] if hi % columns else []
    return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)


def frames_in_chunk(chunks: tuple[int, ...], layout: Layout) -> int:
    """Frames in a row that are decoded together; those of whole rows where chunks span several rows of a grid."""
    if not layout.grid or len(chunks) != len(layout.lead) + 2:
        return 1
    if len(layout.grid) == 2 and chunks[0] > 1:
        return int(min(chunks[0], layout.grid[0]) * layout.grid[1])
    return int(chunks[len(layout.grid) - 1])


def checked_panels(file: Any, tree: Tree, node: Node | None, data_set: Any, layout: Layout, name: str) -> Layout:
    """The layout of a data set of whole frames, or of its only panel; raises `InputError` where it has several."""
    if len(layout.lead) != 2 or layout.panel is not None:
        return layout
    names = axis_names(file, tree, node, data_set)[0]
    n_panels = layout.lead[1]
    if _PANEL_AXIS.match(names[0]):
        raise InputError(
            f"{name}: its axes are {', '.join(names)} with shape {data_set.shape}; must be (frame, panel, y, x)"
        )
    stated = names[1] not in ("", ".")
    if not (_PANEL_AXIS.match(names[1]) if stated else _modules(tree, node) == n_panels):
        return layout
    if n_panels == 1:
        return Layout(layout.lead, 0)
    listed = f"{name.removeprefix('source ')}/panel_0"
    raise InputError(
        f"{name}: has shape {data_set.shape}, {n_panels} panels of a detector in each frame, and a series holds one; "
        f"name the panel: {listed} to panel_{n_panels - 1}"
    )


def _modules(tree: Tree, node: Node | None) -> int:
    """How many NXdetector_module groups the data set's detector has (that of the file, if it has only one)."""
    detectors = [n for n in tree.nodes if n.nx_class == "NXdetector"]
    held = [n for n in detectors if node is not None and holds(n, node)]
    detectors = held or detectors
    if len(detectors) != 1:
        return 0
    return sum(n.nx_class == "NXdetector_module" and holds(detectors[0], n) for n in tree.nodes)


def holds(group: Node, node: Node) -> bool:
    """Whether any path of `node` leads through the group."""
    return any(name.startswith(f"{above.rstrip('/')}/") for above in group.names for name in node.names)


def axis_names(file: Any, tree: Tree, node: Node | None, data_set: Any) -> tuple[list[str], str]:
    """Names of a data set's axes, empty where not stated, and the NXdata group that states them."""
    rank = len(data_set.shape)
    stated = [label for text in attribute_texts(data_set, "axes") for label in re.split(r"[:,]", text.strip("[]"))]
    if len(stated) == rank:
        return [label.strip() for label in stated], ""
    for group in tree.nodes:
        if node is None or not group.is_group or not (group.signal or group.nx_class == "NXdata"):
            continue
        above = group.names[0]
        if any(tree.by_name.get(join(above, own.rpartition("/")[2])) is node for own in node.names) or (
            group.signal and tree.find(file, join(above, group.signal)) is node
        ):
            stated = attribute_texts(file[above], "axes")
            if len(stated) == rank:
                return stated, above
    try:
        return [dimension.label for dimension in data_set.dims], ""
    except LINK_ERRORS:
        return [""] * rank, ""


def axis_coords(file: Any, tree: Tree, node: Node | None, data_set: Any, layout: Layout) -> Coords:
    """Where in a grid each frame was taken: row and column, and the values of the axes that its NXdata group names."""
    if len(layout.grid) != 2:
        return {}
    coords: Coords = {**grid_coords(*layout.grid)}
    names, group = axis_names(file, tree, node, data_set)
    for axis, name in enumerate(names[:2] if group else ()):
        axis_node = tree.find(file, join(group, name))
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or name in _TAKEN or axis_node is None or not axis_node.is_numeric:
            continue
        item = file[join(group, name)]
        if item.shape == layout.grid:
            values = item[()]
        elif item.shape == (layout.grid[axis],):
            values = item[()].reshape((-1, 1) if axis == 0 else (1, -1))
        else:
            continue
        attrs = {key: text for key in ("units", "long_name") if (text := attribute_text(item, key))}
        flat = np.broadcast_to(values, layout.grid).ravel()
        coords[name] = (flat.astype(flat.dtype.newbyteorder("=")), attrs)
    return coords
