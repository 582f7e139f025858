"""What is stated of where the detector stands: by a series of frames, and above that by the configuration."""

from collections.abc import Mapping
from typing import Any

from braggflow.config import GeometryConfig

#: What a configuration sets of the detector's place.
_PLACE = {"distance_mm", "beam_centre_px", "pixel_size_um", "rotation_degree"}


def stated_geometry(found: object, settings: GeometryConfig) -> dict[str, Any]:
    """Where the detector stands: what a series states of it (`found`), and above that what the configuration sets.

    Of a PONI file the values, so that whoever has these needs it no more; raises `InputError` where it cannot be read.
    """
    known = dict(found) if isinstance(found, Mapping) else {}
    asked = settings.model_dump(mode="json", exclude={"phases", "poni"}, exclude_none=True, exclude_defaults=True)
    # A part of one way to state it does not go with the rest of another.
    if settings.poni is not None or ("poni_mm" in known and _PLACE & set(asked)):
        known = {key: value for key, value in known.items() if key == "wavelength_angstrom"}
    if settings.poni is not None:
        from braggflow.formats import read_poni  # here, as it loads the readers of detector files

        known |= read_poni(settings.poni)
    if settings.energy_kev is not None:
        known.pop("wavelength_angstrom", None)
    return known | asked
