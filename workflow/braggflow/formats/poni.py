"""PONI files, pyFAI's calibrations, which it reads itself."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from braggflow.errors import InputError


def read_poni(path: str | Path) -> dict[str, Any]:
    """What a PONI file states, as the keys of a geometry: distance_mm, poni_mm, pixel_size_um, rotation_degree, ...

    Raises `InputError` where pyFAI is not installed, or where the file is none, says too little, or describes a
    detector whose pixels are not a flat, regular grid.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"geometry.poni: {path} is no file; must be a PONI file of pyFAI")
    loggers = [logging.getLogger(name) for name in ("pyFAI", "silx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:  # what they log while they are loaded is of displays and OpenCL, which are not used
        logger.setLevel(logging.CRITICAL)
    try:
        from pyFAI.io.ponifile import PoniFile

        poni = PoniFile(str(path))
        facts = {key: getattr(poni, f"_{key}") for key in ("dist", "poni1", "poni2", "rot1", "rot2", "rot3")}
        detector, wavelength, parallax = poni.detector, poni.wavelength, poni.parallax
    except ImportError as error:
        raise InputError(
            f'geometry.poni: {path}: needs pyFAI, which is not installed: pip install "braggflow[geometry]"'
        ) from error
    except Exception as error:
        raise InputError(f"geometry.poni: {path}: pyFAI cannot read it ({type(error).__name__}: {error})") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    missing = [key for key, value in facts.items() if value is None]
    if missing or detector is None:
        lacks = ", ".join(missing or ["the detector"])
        raise InputError(
            f"geometry.poni: {path}: lacks {lacks}; must be a whole PONI file, as pyFAI's calibration writes"
        )
    return _fields(path, facts, detector, wavelength, parallax=bool(parallax))


def _fields(
    path: Path, facts: Mapping[str, float], detector: Any, wavelength: float | None, *, parallax: bool
) -> dict[str, Any]:
    sizes = (detector.pixel1, detector.pixel2)
    if not (detector.IS_FLAT and detector.uniform_pixel and all(sizes)) or getattr(detector, "splinefile", None):
        raise InputError(
            f"geometry.poni: {path}: its detector, {detector.name}, is no flat, regular grid of pixels of a known size"
        )
    if parallax:
        raise InputError(f"geometry.poni: {path}: asks for pyFAI's parallax correction, which is not made here")
    orientation = int(detector.orientation or 3)
    flipped = (orientation in (1, 2), orientation in (1, 4))
    if any(flipped) and not detector.shape:
        raise InputError(f"geometry.poni: {path}: its orientation {orientation} needs the detector's shape (max_shape)")
    poni = []
    for key, side, size, flip in zip(("poni1", "poni2"), detector.shape or (0, 0), sizes, flipped, strict=True):
        # Rows that are counted from the other end have the PONI as far from the first edge as it was from the last.
        poni.append((side * size - facts[key] if flip else facts[key]) * 1e3)
    stated = {
        "distance_mm": facts["dist"] * 1e3,
        "poni_mm": poni,
        "pixel_size_um": [size * 1e6 for size in sizes],
        "rotation_degree": [math.degrees(facts[key]) for key in ("rot1", "rot2", "rot3")],
        "flipped": list(flipped),
    }
    return stated | ({"wavelength_angstrom": wavelength * 1e10} if wavelength else {})
