"""What detector files say about themselves: geometry, saturation, angles and times, from text headers and NeXus groups.

Only what a file states is taken over, converted to one set of units; nothing is guessed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

#: hc in keV Å (CODATA 2018), from photon energy to wavelength.
HC_KEV_ANGSTROM = 12.398419843

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
_KEV = {"ev": 1e-3, "kev": 1.0}


@dataclass(frozen=True, slots=True)
class Facts:
    """What one file states about its frames."""

    geometry: dict[str, Any] = field(default_factory=dict)
    """Any of wavelength_angstrom, distance_mm, pixel_size_um [y, x], beam_centre_px [y, x]."""
    saturation: float | None = None
    """Counts at which a pixel is saturated."""
    saturation_source: str = ""
    """Name of the header entry that says so."""
    coords: dict[str, tuple[Any, dict[str, str]]] = field(default_factory=dict)
    """Per-frame values, shape (frame,), and attributes; `time` is in seconds since 1970."""
    pixel_mask: tuple[str, str] | None = None
    """File and data set of the detector's own mask."""
    underload: float | None = None
    """Counts below which a pixel holds no measurement (NXmx `underload_value`)."""
    notes: tuple[str, ...] = ()
    """What the file states that cannot be true and is therefore not used, a sentence each."""


def facts_from_text(header: Mapping[str, Any], n_frames: int) -> Facts:
    """Facts of a file with a text header as fabio or tifffile give it: Pilatus (CBF, TIFF), ADSC, or none."""
    contents = str(header.get("_array_data.header_contents", ""))
    if contents:
        return _pilatus(contents, n_frames)
    if "CCD_IMAGE_SATURATION" in header or "OSC_START" in header:
        return _adsc(header, n_frames)
    return Facts()


def _pilatus(text: str, n_frames: int) -> Facts:
    """The `# Key value unit` lines of DECTRIS detectors (header convention SLS/DECTRIS)."""

    def values(pattern: str) -> list[float] | None:
        match = re.search(pattern, text)
        numbers = [_number(group) for group in match.groups()] if match else [None]
        return None if None in numbers else [float(number) for number in numbers if number is not None]

    distance, wavelength = values(r"Detector_distance\s+(\S+)\s+m\b"), values(r"Wavelength\s+(\S+)\s+A\b")
    pixel = values(r"Pixel_size\s+(\S+)\s+m\s+x\s+(\S+)\s+m\b")
    beam = values(r"Beam_xy\s+\(\s*([^,\s]+)\s*,\s*([^)\s]+)\s*\)")
    cutoff = values(r"Count_cutoff\s+(\S+)")
    start, increment = values(r"Start_angle\s+(\S+)\s+deg"), values(r"Angle_increment\s+(\S+)\s+deg")
    exposure, period = values(r"Exposure_time\s+(\S+)\s+s\b"), values(r"Exposure_period\s+(\S+)\s+s\b")
    moment = re.search(r"#\s*(\d{4}-\w+-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?)", text)
    when = _moment(moment[1], ("%Y-%m-%dT%H:%M:%S.%f", "%Y-%b-%dT%H:%M:%S.%f")) if moment else None
    return Facts(
        geometry=_geometry(
            wavelength_angstrom=wavelength and wavelength[0],
            distance_mm=distance and distance[0] * 1e3,
            pixel_size_um=pixel and [pixel[1] * 1e6, pixel[0] * 1e6],
            beam_centre_px=beam and [beam[1], beam[0]],
        ),
        saturation=cutoff[0] if cutoff else None,
        saturation_source="Count_cutoff" if cutoff else "",
        coords=_coords(
            n_frames,
            rotation_angle=start and (start[0], increment[0] if increment else None, "degree", "Start_angle"),
            time=when and (when, period[0] if period else None, "s", "start of exposure"),
            exposure=exposure and (exposure[0], 0.0, "s", "Exposure_time"),
        ),
    )


def _adsc(header: Mapping[str, Any], n_frames: int) -> Facts:
    """The `KEY=value;` header of ADSC detectors (SMV).

    BEAM_CENTER_X and _Y are in mm from the outer edge of the first pixel, and X runs down the rows (the convention of
    MOSFLM). On real frames the background's centre of symmetry lies there, and not where X along a row would put it.
    """
    number = {key: _number(str(value).split(";")[0]) for key, value in header.items()}
    pixel = number.get("PIXEL_SIZE")
    beam = (number.get("BEAM_CENTER_X"), number.get("BEAM_CENTER_Y"))
    start = number.get("OSC_START") if number.get("OSC_START") is not None else number.get("PHI")
    axis = re.sub(r"\W", "", str(header.get("AXIS", ""))).lower() or "phi"
    when = _moment(str(header.get("DATE", "")).strip(), ("%a %b %d %H:%M:%S %Y.%f",))
    exposure, saturation = number.get("TIME"), number.get("CCD_IMAGE_SATURATION")
    return Facts(
        geometry=_geometry(
            wavelength_angstrom=number.get("WAVELENGTH"),
            distance_mm=number.get("DISTANCE"),
            pixel_size_um=pixel and [pixel * 1e3, pixel * 1e3],
            beam_centre_px=pixel and None not in beam and [round(mm / pixel - 0.5, 6) for mm in beam if mm is not None],
        ),
        saturation=saturation,
        saturation_source="CCD_IMAGE_SATURATION" if saturation is not None else "",
        coords=_coords(
            n_frames,
            **{axis: start is not None and (start, number.get("OSC_RANGE"), "degree", "start of the oscillation")},
            time=when and (when, None, "s", "DATE of the header"),
            exposure=exposure is not None and (exposure, 0.0, "s", "TIME of the header"),
        ),
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _moment(text: str, patterns: tuple[str, ...]) -> float | None:
    """Seconds since 1970 of a date without time zone (only differences are used), or None."""
    text = text.replace(" ", "T", 1) if re.match(r"\d{4}-", text) else text
    for pattern in patterns:
        try:
            return datetime.strptime(text if "." in text else text + ".0", pattern).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    return None


def _geometry(**entries: Any) -> dict[str, Any]:
    """Only what is stated and can be true: detectors write 0 for what nobody told them."""
    return {name: value for name, value in entries.items() if value and np.max(value) > 0}


def _coords(n_frames: int, **entries: Any) -> dict[str, tuple[Any, dict[str, str]]]:
    """Per-frame values from (first, step or None, units, long name); without a step only a lone frame has a value."""
    coords: dict[str, tuple[Any, dict[str, str]]] = {}
    for name, entry in entries.items():
        if entry and (n_frames == 1 or entry[1] is not None):
            first, step, units, long_name = entry
            coords[name] = (first + (step or 0.0) * np.arange(n_frames), {"units": units, "long_name": long_name})
    return coords


def facts_from_nexus(groups: Iterator[tuple[str, Any]], data_set: str, shape: tuple[int, int]) -> Facts:
    """Facts of a NeXus file from its (path, group) pairs: NXdetector, NXbeam, NXmonochromator.

    With several detectors, the one that holds `data_set`; if none does, nothing is taken from any.
    """
    of_class: dict[str, list[tuple[str, Any]]] = {}
    for path, group in groups:
        of_class.setdefault(text_of(group.attrs.get("NX_class", "")), []).append((path, group))
    detectors = of_class.get("NXdetector", [])
    if len(detectors) > 1:
        detectors = [(path, group) for path, group in detectors if data_set.startswith(path + "/")]
    detector = detectors[0][1] if len(detectors) == 1 else {}
    pixel = [_length(detector, f"{axis}_pixel_size", "m") for axis in "yx"]
    beam = [_scalar(detector, f"beam_center_{axis}") for axis in "yx"]
    centre = [
        value if units not in _METRES else value * _METRES[units] / size - 0.5 if size else None
        for (value, units), size in zip([b for b in beam if b], pixel, strict=False)
    ]
    distance = _length(detector, "distance", "m") or _length(detector, "detector_distance", "m")
    saturation, name = None, ""
    for name in (
        "saturation_value",
        "countrate_correction_count_cutoff",
        "detectorSpecific/countrate_correction_count_cutoff",
    ):
        if found := _scalar(detector, name):
            saturation = found[0]
            break
    mask = next((detector[n] for n in ("pixel_mask", "detectorSpecific/pixel_mask") if n in detector), None)
    return Facts(
        geometry=_geometry(
            wavelength_angstrom=_wavelength(of_class),
            distance_mm=distance and distance * 1e3,
            pixel_size_um=None not in pixel and [size * 1e6 for size in pixel if size],
            beam_centre_px=len(centre) == 2 and None not in centre and centre,
        ),
        saturation=saturation,
        saturation_source=name.rpartition("/")[2] if saturation is not None else "",
        pixel_mask=(mask.file.filename, mask.name) if mask is not None and mask.shape == shape else None,
    )


def _wavelength(of_class: dict[str, list[tuple[str, Any]]]) -> float | None:
    """Wavelength in Å from NXbeam or NXmonochromator, if only one value is stated."""
    found: set[float] = set()
    for path_class in ("NXbeam", "NXmonochromator"):
        for _, group in of_class.get(path_class, []):
            for name in ("incident_wavelength", "wavelength"):
                if length := _length(group, name, "angstrom"):
                    found.add(round(length * 1e10, 9))
            for name in ("incident_energy", "energy"):
                energy = _scalar(group, name)
                if energy and energy[0] > 0 and energy[1] in _KEV and not found:
                    found.add(HC_KEV_ANGSTROM / (energy[0] * _KEV[energy[1]]))
        if found:
            break
    return found.pop() if len(found) == 1 else None


def _length(group: Any, name: str, default_units: str) -> float | None:
    """A length in metres, in `default_units` where the file has none; None if absent, or in a unit not known here."""
    found = _scalar(group, name)
    metres = found and _METRES.get(found[1] or default_units)
    return found[0] * metres if found and metres else None


def _scalar(group: Any, name: str) -> tuple[float, str] | None:
    """One finite number and its unit in lower case."""
    item = group.get(name)
    if item is None or not hasattr(item, "dtype") or item.dtype.kind not in "iuf" or item.size != 1:
        return None
    value = float(np.ravel(item[()])[0])
    return (value, text_of(item.attrs.get("units", "")).strip().lower()) if np.isfinite(value) else None


def text_of(value: Any) -> str:
    """An HDF5 attribute's text: bytes or str, by the program that wrote it."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
