"""Where the detector stands, and the scattering angles of its pixels."""

from braggflow.angles.detector_geometry import Geometry
from braggflow.angles.regions import region
from braggflow.angles.stated import stated_geometry

__all__ = ["Geometry", "region", "stated_geometry"]
