"""Positions as physics: scattering angles, q and d with their uncertainties, strain, and rings of known phases."""

from braggflow.angles import Geometry, region
from braggflow.geometry.changes import change, place_groups, strain, strain_of
from braggflow.geometry.derived import Peaks, add_q, geometry_of, known_geometry
from braggflow.geometry.rings import Phases, Rings, add_rings, rings_of

__all__ = [
    "Geometry",
    "Peaks",
    "Phases",
    "Rings",
    "add_q",
    "add_rings",
    "change",
    "geometry_of",
    "known_geometry",
    "place_groups",
    "region",
    "rings_of",
    "strain",
    "strain_of",
]
