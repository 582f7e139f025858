"""What NeXus groups say of the frames: geometry, saturation, the detector's own mask."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from braggflow.errors import InputError
from braggflow.formats.hdf5.choice import may_be_frames
from braggflow.formats.hdf5.layout import holds
from braggflow.formats.hdf5.transformations import placed_detector
from braggflow.formats.hdf5.tree import LINK_ERRORS, Node, Tree, attribute_text, why_broken
from braggflow.formats.metadata import HC_KEV_ANGSTROM, Facts

_METRES = {
    "m": 1.0,
    "metre": 1.0,
    "meter": 1.0,
    "cm": 1e-2,
    "mm": 1e-3,
    "millimeter": 1e-3,
    "um": 1e-6,
    "µm": 1e-6,
    "μm": 1e-6,
    "micron": 1e-6,
    "micrometer": 1e-6,
    "nm": 1e-9,
    "angstrom": 1e-10,
    "å": 1e-10,
    "a": 1e-10,
}
#: A detector that is turned by less, degree, stands across the beam.
_STRAIGHT = 1e-6
_KEV = {"ev": 1e-3, "kev": 1.0}
_SATURATION = (
    "saturation_value",
    "countrate_correction_count_cutoff",
    "detectorSpecific/countrate_correction_count_cutoff",
)
_PIXEL_MASK = ("pixel_mask", "detectorSpecific/pixel_mask")


@dataclass(slots=True)
class _Statements:
    """Numbers of one file; those that cannot be true are left out, with a note."""

    notes: list[str] = field(default_factory=list)

    def number(self, group: Any, name: str) -> tuple[float, str] | None:
        """One finite number and its unit in lower case."""
        item = _data_set(group, name)
        if item is None or item.dtype.kind not in "iuf" or item.size != 1:
            return None
        value = float(np.ravel(item[()])[0])
        if not np.isfinite(value):
            self.doubt(item, value, "a finite number")
            return None
        return value, attribute_text(item, "units").strip().lower()

    def positive(self, group: Any, name: str) -> tuple[float, str] | None:
        """One number above 0 and its unit; detectors write 0 for what nobody told them, which needs no note."""
        found = self.number(group, name)
        if found and found[0] < 0:
            self.doubt(group[name], found[0], "above 0")
        return found if found and found[0] > 0 else None

    def metres(self, group: Any, name: str, default_units: str) -> float | None:
        """A length in metres, in `default_units` where the file has none; None where absent or in an unknown unit."""
        found = self.positive(group, name)
        metres = found and _METRES.get(found[1] or default_units)
        return found[0] * metres if found and metres else None

    def doubt(self, item: Any, value: Any, must: str) -> None:
        """Note that a value is not used."""
        self.notes.append(f"{item.file.filename}:{item.name} is {value}, must be {must}: not used")


def facts_from_nexus(file: Any, tree: Tree, name: str, shape: tuple[int, int], panel: int | None = None) -> Facts:
    """Facts of a NeXus file on the frames, shape (y, x), of the data set `name`: NXdetector, NXbeam, NXmonochromator.

    With several detectors, the one that holds the data set; if none does, nothing is taken from any. Raises
    `InputError` where the detector's mask has another shape than the frames.
    """
    node = tree.find(file, name)
    detectors = [n for n in tree.nodes if n.nx_class == "NXdetector"]
    if len(detectors) > 1:
        detectors = [n for n in detectors if node is not None and holds(n, node)]
    of_detector = detectors[0] if len(detectors) == 1 else None
    detector = file[of_detector.names[0]] if of_detector is not None else {}
    stated = _Statements()
    pixel = [stated.metres(detector, f"{axis}_pixel_size", "m") for axis in "yx"]
    distance = stated.metres(detector, "distance", "m") or stated.metres(detector, "detector_distance", "m")
    saturation, source = _saturation(stated, detector)
    geometry = {
        "wavelength_angstrom": _wavelength(stated, file, tree),
        "distance_mm": distance and distance * 1e3,
        "pixel_size_um": [size * 1e6 for size in pixel if size] if None not in pixel else None,
        "beam_centre_px": _beam_centre(stated, detector, pixel, shape),
    }
    placed = placed_detector(file, detector)
    plain = all(geometry[key] for key in ("distance_mm", "pixel_size_um", "beam_centre_px"))
    if placed and (not plain or np.max(np.abs(placed["rotation_degree"])) > _STRAIGHT):
        # Distance and centre are of the detector before it was turned, or not all there.
        geometry = {"wavelength_angstrom": geometry["wavelength_angstrom"], **placed}
    return Facts(
        geometry={key: value for key, value in geometry.items() if value},
        saturation=saturation,
        saturation_source=source,
        pixel_mask=_pixel_mask(stated, file, tree, of_detector, node, shape, panel),
        underload=_underload(stated, detector, saturation),
        notes=tuple(stated.notes),
    )


def _saturation(stated: _Statements, detector: Any) -> tuple[float | None, str]:
    """Counts at which a pixel is saturated, and the name of the entry that says so."""
    for name in _SATURATION:
        found = stated.number(detector, name)
        if found and found[0] > 0:
            return found[0], name.rpartition("/")[2]
        if found:
            stated.doubt(detector[name], found[0], "above 0")
    return None, ""


def _underload(stated: _Statements, detector: Any, saturation: float | None) -> float | None:
    """Counts below which a pixel holds no measurement."""
    found = stated.number(detector, "underload_value")
    if found and saturation is not None and found[0] >= saturation:
        stated.doubt(detector["underload_value"], found[0], f"below the saturation of {saturation:g}")
        return None
    return found[0] if found else None


def _beam_centre(
    stated: _Statements, detector: Any, pixel: list[float | None], shape: tuple[int, int]
) -> list[float] | None:
    """[y, x] in pixels; lengths are counted from the outer edge of the first pixel."""
    beam = [stated.number(detector, f"beam_center_{axis}") for axis in "yx"]
    centre = []
    for found, size in zip(beam, pixel, strict=True):
        if found is None or (found[1] in _METRES and not size):
            return None
        centre.append(found[0] * _METRES[found[1]] / size - 0.5 if size and found[1] in _METRES else found[0])
    if all(found and found[0] == 0 for found in beam):  # nobody told the detector
        return None
    # A detector can stand beside the beam, but a centre further away than it is large is one in other units.
    far = max(shape)
    if any(not -far <= at <= length + far for at, length in zip(centre, shape, strict=True)):
        at = [round(value, 3) for value in centre]
        stated.doubt(detector["beam_center_y"], f"with beam_center_x at {at} px", f"near the frame, {shape}")
        return None
    return centre


def _pixel_mask(
    stated: _Statements,
    file: Any,
    tree: Tree,
    of_detector: Node | None,
    node: Node | None,
    shape: tuple[int, int],
    panel: int | None,
) -> tuple[str, str] | None:
    """File and path of the detector's own mask; of one panel where the frames are of one."""
    if of_detector is None:
        return None
    detector = file[of_detector.names[0]]
    for name in _PIXEL_MASK:
        mask = _data_set(detector, name)
        if mask is None:
            if why := _dangling(file, f"{detector.name}/{name}"):
                stated.notes.append(f"{file.filename}: the detector's mask is not used: {why}")
            continue
        place = (mask.file.filename, mask.name)
        if mask.dtype.kind not in "biuf":
            stated.doubt(mask, mask.dtype, "a mask of whole numbers")
            return None
        if panel is not None and mask.shape[-2:] == shape and len(mask.shape) == 3 and panel < mask.shape[0]:
            return place[0], f"{place[1]}/panel_{panel}"
        if mask.shape[-2:] == shape and set(mask.shape[:-2]) <= {1} and len(mask.shape) <= 4:
            return place
        own = any(holds(of_detector, n) for n in tree.nodes if may_be_frames(n, tree.below) and len(n.shape) > 2)
        if own and not (node is not None and holds(of_detector, node)):
            stated.doubt(mask, mask.shape, f"{shape} for frames that the detector does not hold itself")
            return None
        raise InputError(
            f"source {place[0]}:{place[1]}: the detector's mask has shape {mask.shape}, the frames {shape}; it must be "
            f"(y, x) of the frames, or (1, y, x)"
        )
    return None


def _dangling(file: Any, name: str) -> str:
    why = why_broken(file, name)
    return why if " links to " in why else ""


def _data_set(group: Any, name: str) -> Any:
    try:
        item = group[name]
        return item if item.dtype is not None and item.shape is not None else None
    except (AttributeError, *LINK_ERRORS):
        return None


def _wavelength(stated: _Statements, file: Any, tree: Tree) -> float | None:
    """Wavelength in Å from NXbeam or NXmonochromator, if only one value is stated."""
    for nx_class in ("NXbeam", "NXmonochromator"):
        found: set[float] = set()
        for group in [file[node.names[0]] for node in tree.nodes if node.nx_class == nx_class]:
            for name in ("incident_wavelength", "wavelength"):
                if length := stated.metres(group, name, "angstrom"):
                    found.add(round(length * 1e10, 9))
            for name in ("incident_energy", "energy"):
                energy = stated.positive(group, name)
                if energy and energy[1] in _KEV and not found:
                    found.add(HC_KEV_ANGSTROM / (energy[0] * _KEV[energy[1]]))
        if found:
            return found.pop() if len(found) == 1 else None
    return None
