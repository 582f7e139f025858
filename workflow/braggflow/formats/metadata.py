"""What detector files say about themselves: geometry, saturation, angles and times; here from text headers.

Only what a file states is taken over, converted to one set of units; nothing is guessed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

#: hc in keV Å (CODATA 2018), from photon energy to wavelength.
HC_KEV_ANGSTROM = 12.398419843


@dataclass(frozen=True, slots=True)
class Facts:
    """What one file states about its frames."""

    geometry: dict[str, Any] = field(default_factory=dict)
    """Any of wavelength_angstrom, distance_mm, pixel_size_um [y, x], beam_centre_px [y, x]."""
    saturation: float | None = None
    """Counts at which a pixel is saturated."""
    saturation_source: str = ""
    """Name of the header entry that says so."""
    coords: dict[str, tuple[Any, dict[str, str]]] = field(default_factory=dict, compare=False)
    """Per-frame values, shape (frame,), and attributes; `time` is in seconds since 1970. Arrays: not compared."""
    pixel_mask: tuple[str, str] | None = None
    """File and data set of the detector's own mask."""
    underload: float | None = None
    """Counts below which a pixel holds no measurement (NXmx `underload_value`)."""
    notes: tuple[str, ...] = ()
    """What the file states that cannot be true and is therefore not used, a sentence each."""


def grid_coords(rows: int, columns: int) -> dict[str, tuple[Any, dict[str, str]]]:
    """Row and column of each frame of a scan over a grid, whose frames are numbered row by row."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    return {
        "scan_y": (row, {"long_name": "row of the scan"}),
        "scan_x": (column, {"long_name": "column of the scan"}),
    }


def facts_from_text(header: Mapping[str, Any], n_frames: int, shape: tuple[int, int]) -> Facts:
    """Facts of a file with a text header as fabio or tifffile give it: Pilatus (CBF, TIFF), ADSC, or none.

    `shape` is (y, x) of the frames. What cannot be true is not used, and said in `notes`.
    """
    contents = str(header.get("_array_data.header_contents", ""))
    if contents:
        return _pilatus(contents, n_frames)
    if "CCD_IMAGE_SATURATION" in header or "OSC_START" in header:
        return _adsc(header, n_frames, shape)
    return Facts()


class _Stated:
    """Numbers that a header states; those that cannot be true are left out and noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def positive(self, name: str, value: float | None, *, zero_is_unset: bool = True) -> float | None:
        """A value that must be above 0; programs write 0 for what nobody told them."""
        if value is None or value > 0 or (value == 0 and zero_is_unset):
            return value or None
        self.notes.append(f"{name} is {value:g}, which cannot be true, and is not used")
        return None


def _pilatus(text: str, n_frames: int) -> Facts:
    """The `# Key value unit` lines of DECTRIS detectors (header convention SLS/DECTRIS)."""
    stated = _Stated()

    def values(pattern: str) -> list[float] | None:
        match = re.search(pattern, text)
        numbers = [_number(group) for group in match.groups()] if match else [None]
        return None if None in numbers else [float(number) for number in numbers if number is not None]

    def positive(name: str, pattern: str, *, zero_is_unset: bool = True) -> float | None:
        found = values(rf"{name}\s+{pattern}")
        return stated.positive(name, found[0] if found else None, zero_is_unset=zero_is_unset)

    distance, wavelength = positive("Detector_distance", r"(\S+)\s+m\b"), positive("Wavelength", r"(\S+)\s+A\b")
    pixel = values(r"Pixel_size\s+(\S+)\s+m\s+x\s+(\S+)\s+m\b")
    pixel = pixel if pixel and None not in [stated.positive("Pixel_size", size) for size in pixel] else None
    beam = values(r"Beam_xy\s+\(\s*([^,\s]+)\s*,\s*([^)\s]+)\s*\)")
    cutoff = positive("Count_cutoff", r"(\S+)", zero_is_unset=False)
    start, increment = values(r"Start_angle\s+(\S+)\s+deg"), values(r"Angle_increment\s+(\S+)\s+deg")
    exposure, period = positive("Exposure_time", r"(\S+)\s+s\b"), positive("Exposure_period", r"(\S+)\s+s\b")
    moment = re.search(r"#\s*(\d{4}-\w+-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?)", text)
    when = _moment(moment[1], ("%Y-%m-%dT%H:%M:%S.%f", "%Y-%b-%dT%H:%M:%S.%f")) if moment else None
    return Facts(
        geometry=_geometry(
            wavelength_angstrom=wavelength,
            distance_mm=distance and distance * 1e3,
            pixel_size_um=pixel and [pixel[1] * 1e6, pixel[0] * 1e6],
            beam_centre_px=beam and [beam[1], beam[0]],
        ),
        saturation=cutoff,
        saturation_source="Count_cutoff" if cutoff else "",
        coords=_coords(
            n_frames,
            rotation_angle=start and (start[0], increment[0] if increment else None, "degree", "Start_angle"),
            time=when and (when, period, "s", "start of exposure"),
            exposure=exposure and (exposure, 0.0, "s", "Exposure_time"),
        ),
        notes=tuple(stated.notes),
    )


def _adsc(header: Mapping[str, Any], n_frames: int, shape: tuple[int, int]) -> Facts:
    """The `KEY=value;` header of ADSC detectors (SMV).

    BEAM_CENTER_X and _Y are in mm from the outer edge of the first pixel, and X runs down the rows (the convention of
    MOSFLM). On real frames the background's centre of symmetry lies there, and not where X along a row would put it.
    """
    stated = _Stated()
    number = {key: _number(str(value).split(";")[0]) for key, value in header.items()}
    pixel = stated.positive("PIXEL_SIZE", number.get("PIXEL_SIZE"))
    start = number.get("OSC_START") if number.get("OSC_START") is not None else number.get("PHI")
    axis = re.sub(r"\W", "", str(header.get("AXIS", ""))).lower() or "phi"
    when = _moment(str(header.get("DATE", "")).strip(), ("%a %b %d %H:%M:%S %Y.%f",))
    exposure = stated.positive("TIME", number.get("TIME"))
    saturation = stated.positive("CCD_IMAGE_SATURATION", number.get("CCD_IMAGE_SATURATION"), zero_is_unset=False)
    wavelength = stated.positive("WAVELENGTH", number.get("WAVELENGTH"))
    distance = stated.positive("DISTANCE", number.get("DISTANCE"))
    centre = _adsc_centre(number.get("BEAM_CENTER_X"), number.get("BEAM_CENTER_Y"), pixel, shape, stated)
    return Facts(
        geometry=_geometry(
            wavelength_angstrom=wavelength,
            distance_mm=distance,
            pixel_size_um=pixel and [pixel * 1e3, pixel * 1e3],
            beam_centre_px=centre,
        ),
        saturation=saturation,
        saturation_source="CCD_IMAGE_SATURATION" if saturation is not None else "",
        coords=_coords(
            n_frames,
            **{axis: start is not None and (start, number.get("OSC_RANGE"), "degree", "start of the oscillation")},
            time=when and (when, None, "s", "DATE of the header"),
            exposure=exposure is not None and (exposure, 0.0, "s", "TIME of the header"),
        ),
        notes=tuple(stated.notes),
    )


def _adsc_centre(
    x: float | None, y: float | None, pixel: float | None, shape: tuple[int, int], stated: _Stated
) -> list[float] | None:
    """Beam centre [y, x] in pixels from mm; none where that is beyond the frame: some programs write pixels there."""
    if x is None or y is None or not pixel or not (x or y):
        return None
    centre = [round(mm / pixel - 0.5, 6) for mm in (x, y)]
    if all(-0.5 <= place <= length - 0.5 for place, length in zip(centre, shape, strict=True)):
        return centre
    stated.notes.append(
        f"BEAM_CENTER_X, BEAM_CENTER_Y ({x:g}, {y:g}) as mm are beyond the frame of {shape[0]} x {shape[1]} pixels of "
        f"{pixel:g} mm (perhaps they are pixels), and are not used"
    )
    return None


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


def text_of(value: Any) -> str:
    """An HDF5 attribute's text: bytes or str, by the program that wrote it."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
