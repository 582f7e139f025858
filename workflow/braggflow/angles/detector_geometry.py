"""Where the detector stands, and from that the scattering angles of places on it, with their derivatives.

The conventions are pyFAI's: axis 1 runs along rows' numbers (y), axis 2 along columns' (x), axis 3 along the beam, and
the detector, first perpendicular to the beam, is turned about the sample by rot1 about axis 1, rot2 about axis 2, rot3
about axis 3. Pixel centres lie at whole numbers, as everywhere here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from braggflow.angles.facts import as_mapping, checked_facts
from braggflow.angles.stated import stated_geometry
from braggflow.config import GeometryConfig, resolve_config
from braggflow.errors import InputError

Floats = NDArray[np.float64]
Range = tuple[float, float]

#: Of what a geometry's covariance is, in its order.
PARAMETERS = (
    "distance_mm",
    "poni_y_mm",
    "poni_x_mm",
    "rot1_degree",
    "rot2_degree",
    "rot3_degree",
    "wavelength_angstrom",
)


@dataclass(frozen=True)
class Geometry:
    """Where a flat detector stands, and the beam's wavelength.

    Attributes
    ----------
    distance_mm : float
        From the sample to the plane of the detector, along its normal (pyFAI's `dist`).
    poni_mm : tuple of float
        (y, x) of the foot of that normal, from the outer edge of the first pixel (pyFAI's `poni1`, `poni2`).
    pixel_size_um : tuple of float
        (y, x) of a pixel.
    rotation_degree : tuple of float
        pyFAI's rot1, rot2, rot3.
    wavelength_angstrom : float, optional
        None: only angles can be had.
    flipped : tuple of bool
        Whether rows, columns are counted against axis 1, 2 (pyFAI's orientations other than 3).
    covariance : tuple of tuples, optional
        7 × 7, of distance, PONI (y, x), rotations and wavelength, in the units above; None: not known.

    Examples
    --------
    >>> from braggflow.geometry import Geometry
    >>> geometry = Geometry.from_config(
    ...     {"distance_mm": 200, "beam_centre_px": [512, 512], "pixel_size_um": [75, 75], "energy_kev": 12.4}
    ... )
    >>> float(geometry.two_theta(512, 1512).round(6))
    20.556045
    >>> float(geometry.q(512, 1512).round(6))
    2.242438
    """

    distance_mm: float
    poni_mm: tuple[float, float]
    pixel_size_um: tuple[float, float]
    rotation_degree: tuple[float, float, float] = (0.0, 0.0, 0.0)
    wavelength_angstrom: float | None = None
    flipped: tuple[bool, bool] = (False, False)
    covariance: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def from_poni(cls, path: str | Path) -> Self:
        """The geometry that a PONI file holds, read by pyFAI.

        Raises `InputError` where pyFAI is not installed, or where the file is none, says too little, or describes a
        detector whose pixels are not a flat, regular grid.
        """
        from braggflow.formats import read_poni  # here, as it loads the readers of detector files

        return cls.from_attributes(read_poni(path))

    @classmethod
    def from_config(cls, settings: GeometryConfig | Mapping[str, Any], found: object = None) -> Self:
        """The geometry of a configuration's section `geometry`, and, below it, of what a series states (`found`).

        Raises `InputError` naming the key where one is missing or not accepted.
        """
        if not isinstance(settings, GeometryConfig):
            settings = resolve_config({"geometry": dict(settings)}, source="geometry").geometry
        known = as_mapping(found)
        if isinstance(known, Mapping) and "poni_mm" in known:
            known = cls.from_attributes(known)._keys()
        return cls.from_attributes(stated_geometry(known, settings))

    @classmethod
    def from_frames(cls, data: xr.Dataset) -> Self:
        """The geometry that a series of frames states of itself, as `braggflow.open_frames` opens it.

        Raises `InputError` where it states too little.
        """
        return cls.from_attributes(data.attrs.get("geometry", {}))

    @classmethod
    def from_attributes(cls, attributes: object) -> Self:
        """The geometry that `to_attributes` wrote, or that of plain keys, as files and configurations state them.

        Raises `InputError` naming the key where one is missing or not accepted.
        """
        facts = checked_facts(attributes)
        if "poni" in facts:  # of a table of an earlier version
            of_file = cls.from_poni(facts["poni"])
            wavelength = facts.get("wavelength_angstrom", of_file.wavelength_angstrom)
            return replace(of_file, wavelength_angstrom=wavelength)._with_std(facts.get("std", {}))
        place = "poni_mm" if "poni_mm" in facts else "beam_centre_px"
        lacking = [key for key in ("distance_mm", place, "pixel_size_um") if key not in facts]
        if lacking:
            raise InputError(
                f"geometry: is incomplete; has {', '.join(facts) or 'nothing'}, lacks {', '.join(lacking)}. Set them "
                "in the section geometry of the configuration, or name a PONI file there (docs/geometry.md)"
            )
        if "poni_mm" in facts:
            whole = cls(**{one.name: facts[one.name] for one in fields(cls) if one.name in facts})
            return whole._with_std(facts.get("std", {}))
        rotation = facts.get("rotation_degree", (0.0, 0.0, 0.0))
        # `distance_mm` is along the beam here, which the detector's normal through the sample need not be.
        normal = facts["distance_mm"] * _rotation(rotation)[2]
        if normal[2] <= 0:
            raise InputError(f"geometry.rotation_degree: {[*rotation]} turns the detector's back to the beam")
        flipped = facts.get("flipped", (False, False))
        sizes, centre = np.array(facts["pixel_size_um"]) / 1e3, np.array(facts["beam_centre_px"])
        poni_y, poni_x = ((centre + 0.5) * sizes - _signs(flipped) * normal[:2]).tolist()
        wavelength = facts.get("wavelength_angstrom")
        found = cls(float(normal[2]), (poni_y, poni_x), facts["pixel_size_um"], rotation, wavelength, flipped)
        return found._with_std(facts.get("std", {}))

    def to_attributes(self) -> dict[str, Any]:
        """The geometry as plain data, which `from_attributes` reads."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {key: _plain(value) for key, value in values.items() if value not in (None, (False, False))}

    @cached_property
    def beam_centre_px(self) -> tuple[float, float]:
        """(y, x) where the direct beam meets the detector's plane."""
        y, x = self.position(0.0, 0.0)
        return float(y), float(x)

    def two_theta(self, y: ArrayLike, x: ArrayLike) -> Floats:
        """Scattering angle, degree, of places (pixels); shapes broadcast, as in all that follows."""
        return np.asarray(np.degrees(_polar(self._place(y, x))[0]))

    def azimuth(self, y: ArrayLike, x: ArrayLike) -> Floats:
        """Angle about the beam from axis 2 towards axis 1, degree, in (-180, 180] (pyFAI's chi)."""
        return np.asarray(np.degrees(_polar(self._place(y, x))[1]))

    def q(self, y: ArrayLike, x: ArrayLike) -> Floats:
        """Length of the scattering vector, 4π sin θ / λ, 1/Å; raises `InputError` where the wavelength is not known."""
        return np.asarray(4 * np.pi / self._wavelength * np.sin(_polar(self._place(y, x))[0] / 2))

    def d(self, y: ArrayLike, x: ArrayLike) -> Floats:
        """Lattice spacing, 2π / q, Å; infinite in the beam; raises as `q` does."""
        with np.errstate(divide="ignore"):
            return np.asarray(2 * np.pi / self.q(y, x))

    def within(
        self,
        y: ArrayLike,
        x: ArrayLike,
        *,
        q: Range | None = None,
        two_theta: Range | None = None,
        azimuth: Range | None = None,
    ) -> NDArray[np.bool_]:
        """Which places lie within all ranges given: q (1/Å), two-theta, azimuth (degree, may go round through 180)."""
        inside = np.ones(np.broadcast_shapes(np.shape(y), np.shape(x)), bool)
        for values, limits in ((self.q, q), (self.two_theta, two_theta)):
            if limits is not None:
                at = values(y, x)
                inside &= (at >= limits[0]) & (at <= limits[1])
        if azimuth is not None:
            inside &= (self.azimuth(y, x) - azimuth[0]) % 360 <= (azimuth[1] - azimuth[0]) % 360
        return inside

    def binned(self, bin: int) -> Self:  # noqa: A002 - the configuration's word
        """The geometry of frames of which each pixel is `bin` × `bin` of the detector's."""
        y, x = self.pixel_size_um
        return replace(self, pixel_size_um=(y * bin, x * bin))

    def position(self, two_theta: ArrayLike, azimuth: ArrayLike) -> tuple[Floats, Floats]:
        """(y, x), pixels, of a ray with these angles (degree) on the detector's plane; NaN where it never meets it."""
        angle, about = np.radians(two_theta), np.radians(azimuth)
        ray = np.stack(np.broadcast_arrays(np.sin(angle) * np.sin(about), np.sin(angle) * np.cos(about), np.cos(angle)))
        along = np.tensordot(_rotation(self.rotation_degree).T, ray, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(along[2] > 0, self.distance_mm / along[2], np.nan)
        y, x = (
            (sign * along[axis] * scale + self.poni_mm[axis]) / (self.pixel_size_um[axis] / 1e3) - 0.5
            for axis, sign in enumerate(self._signs)
        )
        return y, x

    def jacobian(self, y: ArrayLike, x: ArrayLike) -> Floats:
        """Derivatives of two-theta and azimuth (degree) by y and x (pixels), shape (..., 2, 2); NaN in the beam."""
        sizes = np.array(self.pixel_size_um) / 1e3 * self._signs
        steps = _rotation(self.rotation_degree)[:, :2] * sizes
        return _angle_derivatives(self._place(y, x), steps)

    def parameter_jacobian(self, y: ArrayLike, x: ArrayLike) -> Floats:
        """Derivatives of two-theta and azimuth (degree) by the `PARAMETERS`, in their units, (..., 2, 7)."""
        on_detector, rotation = self._on_detector(y, x), _rotation(self.rotation_degree)
        by_length = np.stack(
            [rotation[:, 2], *(-sign * rotation[:, axis] for axis, sign in enumerate(self._signs))], -1
        )
        by_angle = np.stack([_apply(turn, on_detector) for turn in _rotation_derivatives(self.rotation_degree)], -1)
        lengths = np.broadcast_to(by_length, by_angle.shape)
        by_wavelength = np.zeros((*by_angle.shape[:-1], 1))
        return _angle_derivatives(self._place(y, x), np.concatenate([lengths, by_angle, by_wavelength], -1))

    def polarization(self, y: ArrayLike, x: ArrayLike, factor: float) -> Floats:
        """Factor that the polarisation of the beam puts on intensities, by which they are divided.

        `factor` is (Ih - Iv) / (Ih + Iv) of its parts along axis 2 and axis 1: about 0.99 at a synchrotron whose orbit
        lies along x, 0 of a tube without monochromator. Raises `InputError` where it is not within -1 and 1.
        """
        if not -1 <= factor <= 1:
            raise InputError(f"polarization: {factor} is not accepted; must be from -1 to 1")
        angle, about = _polar(self._place(y, x))
        cosine = np.cos(angle) ** 2
        return np.asarray(0.5 * (1 + cosine - factor * np.cos(2 * about) * (1 - cosine)))

    def solid_angle(self, y: ArrayLike, x: ArrayLike) -> Floats:
        """Solid angle of a pixel, relative to one at the PONI, by which intensities are divided."""
        on_detector = self._on_detector(y, x)
        return np.asarray((self.distance_mm / np.linalg.norm(on_detector, axis=-1)) ** 3)

    @property
    def _wavelength(self) -> float:
        if self.wavelength_angstrom is None:
            raise InputError(
                "geometry: lacks the wavelength, without which there is no q; set geometry.wavelength_angstrom or "
                "geometry.energy_kev"
            )
        return self.wavelength_angstrom

    @property
    def _signs(self) -> NDArray[np.int64]:
        return _signs(self.flipped)

    def _keys(self) -> dict[str, Any]:
        """The geometry by the keys of a configuration, as far as these can hold it: without uncertainties."""
        along = self.distance_mm / _rotation(self.rotation_degree)[2, 2]
        plain = self.to_attributes()
        keys = {key: plain[key] for key in plain if key not in ("distance_mm", "poni_mm", "covariance")}
        meets = {"distance_mm": along, "beam_centre_px": [*self.beam_centre_px]} if along > 0 else {}
        return keys | meets

    def _on_detector(self, y: ArrayLike, x: ArrayLike) -> Floats:
        """Places before the detector is turned, mm along the three axes, (..., 3)."""
        along = [
            sign * ((np.asarray(at, np.float64) + 0.5) * (size / 1e3) - poni)
            for at, size, poni, sign in zip((y, x), self.pixel_size_um, self.poni_mm, self._signs, strict=True)
        ]
        return np.stack(np.broadcast_arrays(*along, self.distance_mm), -1)

    def _place(self, y: ArrayLike, x: ArrayLike) -> Floats:
        """Places from the sample, mm along the three axes, (..., 3)."""
        return _apply(_rotation(self.rotation_degree), self._on_detector(y, x))

    def _with_std(self, std: Mapping[str, tuple[float, ...]]) -> Self:
        """With the uncertainties of distance along the beam, beam centre, rotations and wavelength as a covariance."""
        if not std:
            return self
        rotation = _rotation(self.rotation_degree)
        if rotation[2, 2] <= 0:
            raise InputError("geometry.std: is of distance and centre along the beam, which meets no such detector")
        distance = self.distance_mm / rotation[2, 2]
        turned = [distance * turn[2] for turn in _rotation_derivatives(self.rotation_degree)]
        change = np.zeros((7, 7))  # of the parameters, by what is stated
        change[0, [0, 3, 4, 5]] = rotation[2, 2], *(turn[2] for turn in turned)
        for axis, sign in enumerate(self._signs):
            change[1 + axis, [0, 3, 4, 5]] = -sign * rotation[2, axis], *(-sign * turn[axis] for turn in turned)
            change[1 + axis, 1 + axis] = self.pixel_size_um[axis] / 1e3
        change[[3, 4, 5, 6], [3, 4, 5, 6]] = 1
        zeros = {"distance_mm": 1, "beam_centre_px": 2, "rotation_degree": 3, "wavelength_angstrom": 1}
        values = np.concatenate([std.get(key, (0.0,) * n) for key, n in zeros.items()])
        covariance = change * values**2 @ change.T
        return replace(self, covariance=tuple(map(tuple, covariance.tolist())))


def _signs(flipped: tuple[bool, bool]) -> NDArray[np.int64]:
    return np.where(flipped, -1, 1)


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _rotation(degrees: tuple[float, ...]) -> Floats:
    """The matrix of pyFAI's three rotations, the first two of which are left-handed."""
    one, two, three = _turns(np.radians(degrees))
    return three @ two @ one


def _turns(radians: Floats) -> tuple[Floats, Floats, Floats]:
    (c1, c2, c3), (s1, s2, s3) = np.cos(radians), np.sin(radians)
    return (
        np.array([[1, 0, 0], [0, c1, s1], [0, -s1, c1]]),
        np.array([[c2, 0, -s2], [0, 1, 0], [s2, 0, c2]]),
        np.array([[c3, -s3, 0], [s3, c3, 0], [0, 0, 1]]),
    )


def _rotation_derivatives(degrees: tuple[float, ...]) -> list[Floats]:
    """The matrix' derivatives by each rotation, per degree."""
    radians = np.radians(degrees)
    turns = _turns(radians)
    # A turn's derivative is the same turn a quarter further, without its fixed axis.
    slopes = [
        turn * (1 - np.outer(axis, axis)) for turn, axis in zip(_turns(radians + np.pi / 2), np.eye(3), strict=True)
    ]
    found = []
    for i, slope in enumerate(slopes):
        one, two, three = (slope if k == i else turn for k, turn in enumerate(turns))
        found.append(three @ two @ one * (np.pi / 180))
    return found


def _apply(matrix: Floats, vectors: Floats) -> Floats:
    return np.asarray(vectors @ matrix.T)


def _polar(place: Floats) -> tuple[Floats, Floats]:
    """Two-theta and azimuth of places (..., 3), radian."""
    one, two, three = np.moveaxis(place, -1, 0)
    return np.arctan2(np.sqrt(one**2 + two**2), three), np.arctan2(one, two)


def _angle_derivatives(place: Floats, steps: Floats) -> Floats:
    """Derivatives of two-theta and azimuth, degree, (..., 2, n), where places (..., 3) move by `steps`, (..., 3, n)."""
    one, two, three = (place[..., axis, None] for axis in range(3))
    by_one, by_two, by_three = (steps[..., axis, :] for axis in range(3))
    across = one**2 + two**2
    with np.errstate(divide="ignore", invalid="ignore"):
        radial = (one * by_one + two * by_two) / np.sqrt(across)
        angle = (three * radial - np.sqrt(across) * by_three) / (across + three**2)
        about = (two * by_one - one * by_two) / across
    return np.asarray(np.degrees(np.stack(np.broadcast_arrays(angle, about), -2)))
