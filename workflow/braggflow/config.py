"""The run configuration: one pydantic model per stage, YAML in and out, unknown keys refused.

A configuration file needs only what differs from the defaults. Every message about a bad one names the key, its value
and what is accepted.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from braggflow.config_messages import accepted_keys, validation_messages
from braggflow.errors import InputError
from braggflow.former import former_names
from braggflow.yaml_text import level, memory_size, parse_yaml, read_yaml, rising


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NoiseMultiple(Section):
    """A level as a multiple of each frame's own noise (4-sigma-clipped standard deviation) above the background."""

    sigma: float = Field(gt=0, description="multiples of the frame's noise")


#: A constant of the detector: a number, or `auto`, found from the frames of each series when it is prepared.
Auto: TypeAlias = Literal["auto"]


#: From a value to a higher one.
Range: TypeAlias = Annotated[tuple[float, float], AfterValidator(rising)]
Level: TypeAlias = Annotated[Annotated[float, Field(ge=0)] | NoiseMultiple, BeforeValidator(level)]


class FramesConfig(Section):
    """Which frames are read and how their pixels are corrected."""

    start: int = Field(0, ge=0, description="position of the first frame in the store")
    stop: int | None = Field(None, ge=1, description="position after the last frame (null: all)")
    step: int = Field(1, ge=1, description="take every step-th frame")
    mask: str | None = Field(
        None, description="mask file (.npy, .npz, TIFF, EDF, ...), non-zero = ignore; joined with the store's own mask"
    )
    dark: str = Field("store", description="dark frame: store (the store's, if it has one), none, or a file")
    flat: str = Field("store", description="flat field: store (the store's, if it has one), none, or a file")
    bin: int = Field(1, ge=1, le=16, description="sum bin × bin pixels before detection; positions stay unbinned")
    saturation: float | None = Field(None, gt=0, description="counts at which a pixel is saturated (null: the store's)")
    negative: Literal["auto", "mark", "count"] = Field(
        "auto",
        description="pixels below 0: mark (ignored), count (noise around 0, kept), or auto (as the series shows)",
    )
    find_bad_pixels: bool = Field(
        False, description="find hot, noisy and dead pixels in up to 64 frames of the series, and ignore them"
    )
    require_complete: bool = Field(False, description="refuse a series of which frames were never written")
    counts_per_photon: Annotated[float, Field(gt=0)] | Auto = Field(
        1.0, description="counts of one photon; stated uncertainties and snr depend on it (auto: from the frames)"
    )
    read_noise: Annotated[float, Field(ge=0)] | Auto = Field(
        0.0, description="standard deviation of a pixel without light, counts (auto: from the frames)"
    )

    @property
    def noise(self) -> dict[str, float]:
        """Noise of a pixel of the searched frames: a binned one is a sum, whose read noise adds up in squares."""
        counts_per_photon, read_noise = self.detector_constants
        return {"counts_per_photon": counts_per_photon, "read_noise": read_noise * self.bin}

    @model_validator(mode="after")
    def _range_not_empty(self) -> Self:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop: {self.stop} must be above start: {self.start}")
        return self

    @property
    def detector_constants(self) -> tuple[float, float]:
        """`counts_per_photon` and `read_noise`; raises `InputError` where one is `auto` and no series settled it."""
        if isinstance(self.counts_per_photon, str) or isinstance(self.read_noise, str):
            raise InputError("frames.counts_per_photon, read_noise: auto; must be numbers where no frames are read")
        return self.counts_per_photon, self.read_noise


class DetectConfig(Section):
    """Threshold and topological persistence, then filters whose removals are counted."""

    engine: Literal["native", "findpeaks"] = Field("native", description="native (compiled) or findpeaks (reference)")
    false_peaks: float | None = Field(
        0.1,
        gt=0,
        le=1000,
        description="false peaks expected in a megapixel: how significant a maximum must be for the noise of its place "
        "(null: minval and minscore alone decide, as in findpeaks; 6 and 3 sigma if they are null too)",
    )
    minval: Level | None = Field(
        None, description="pixels below it are set to 0: counts, or 6 sigma (times the noise); null: no such cut"
    )
    minscore: Level | None = Field(
        None, description="peaks whose persistence is not above it are dropped: as minval; null: no such cut"
    )
    background: str = Field(
        "local",
        description="subtracted before the search: none, local (a level on a coarse grid), radial (rings), or a file",
    )
    background_cell: int = Field(32, ge=8, le=512, description="cell of the coarse grid of local levels, pixels")
    min_area: int = Field(1, ge=1, description="drop peaks of fewer detector pixels (2: lone hot pixels)")
    max_area: int | None = Field(None, ge=1, description="drop peaks of more detector pixels (powder rings, ...)")
    min_edge_distance: int = Field(0, ge=0, description="drop maxima closer than this to the frame's edge, pixels")
    min_neighbour_distance: float = Field(0, ge=0, description="drop maxima closer than this to a higher one, pixels")
    q_range: Range | None = Field(None, description="[low, high]: drop maxima outside, 1/Å; needs the geometry")
    two_theta_range: Range | None = Field(None, description="[low, high]: drop maxima outside, degree; likewise")
    azimuth_range: tuple[float, float] | None = Field(
        None, description="[from, to], which may go round: likewise, degree"
    )
    exclude_q: tuple[Range, ...] = Field((), description="[[low, high], ...]: drop maxima inside (ice), 1/Å; likewise")
    exclude_two_theta: tuple[Range, ...] = Field((), description="as exclude_q, degree")
    min_snr: float = Field(0, ge=0, description="drop peaks whose snr is below this")
    max_peaks_per_frame: int = Field(
        100_000, ge=1, description="a frame with more maxima than this fails, with the reason (its levels are too low)"
    )

    def levels(self) -> tuple[float | NoiseMultiple, float | NoiseMultiple]:
        """`minval` and `minscore`, 0 where there is no such cut."""
        none = (NoiseMultiple(sigma=6), NoiseMultiple(sigma=3)) if self.false_peaks is None else (0.0, 0.0)
        return none[0] if self.minval is None else self.minval, none[1] if self.minscore is None else self.minscore

    @property
    def by_angles(self) -> list[str]:
        """The keys that go by scattering angles."""
        filters = "q_range", "two_theta_range", "azimuth_range", "exclude_q", "exclude_two_theta"
        return ["background"] * (self.background == "radial") + [key for key in filters if getattr(self, key)]

    @property
    def in_sigma(self) -> bool:
        """Whether a level is a multiple of the noise."""
        return any(isinstance(level, NoiseMultiple) for level in self.levels())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minval == 0:
            raise ValueError("minval: 0 is not accepted; must be above 0 (a pixel at 0 belongs to no peak)")
        if self.engine == "findpeaks" and (self.min_area > 1 or self.max_area is not None):
            raise ValueError("engine: findpeaks does not know areas; min_area and max_area need engine: native")
        return self


class PatchesConfig(Section):
    """The square cut around each maximum."""

    size: Literal[9, 11, 13, 15] = Field(11, description="pixels on a side")
    neighbours: Literal["fit_together", "mask", "ignore"] = Field(
        "fit_together",
        description="peaks whose maxima own pixels of the patch: fit_together (the network is shown which pixels are "
        "theirs), mask (their pixels are missing) or ignore",
    )
    flag_snr_below: float = Field(5, ge=0, description="flag low_snr where the snr is below this")


class LocateConfig(Section):
    """The network that places each peak to sub-pixel, and whether its position or the fit's is used."""

    network: str = Field("compact", description="network asked: compact, braggnn, none, or a file (.safetensors, .pth)")
    position: Literal["auto", "network", "fit"] = Field(
        "auto",
        description="position to use: network, fit (else the network, else the centroid), or auto (as fit, but the "
        "network also where it is clearly surer than the fit and agrees with it)",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    batch_size: int = Field(4096, ge=1, description="patches per batch on a GPU")
    scale_std: float = Field(1.0, gt=0, description="factor on y_std and x_std: what the report's repeatability shows")
    max_disagreement: float = Field(
        5, gt=0, description="flag network and fit further apart than this many times their joint uncertainty"
    )

    @property
    def asks_network(self) -> bool:
        """Whether a network is asked at all."""
        return self.network != "none"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.position == "network" and not self.asks_network:
            raise ValueError("position: network is not accepted with network: none; must be auto or fit")
        return self


class FitConfig(Section):
    """Fit of a profile to each patch, with patches.neighbours: fit_together together with its neighbours' profiles."""

    model: Literal["gaussian", "pseudo_voigt", "disk"] = Field(
        "gaussian",
        description="on a background: gaussian or pseudo_voigt (elliptical, rotated), disk (uniformly filled, round)",
    )
    likelihood: Literal["poisson", "least_squares"] = Field(
        "poisson", description="what is maximised: poisson (photon counts) or least_squares (equal weights)"
    )
    fraction: float = Field(1.0, ge=0, le=1, description="share of the peaks that is fitted (0: none)")
    seed: int = Field(0, ge=0, description="chooses the sample when 0 < fraction < 1")
    max_iterations: int = Field(50, ge=1, le=1000, description="per peak, then fit_failed")
    device: str = Field("cpu", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="cpu, auto, cuda or cuda:N")
    deblend: bool = Field(
        True, description="tell peaks without maxima of their own apart, flag what is several but cannot be told apart"
    )

    @property
    def asks_gpu(self) -> bool:
        """Whether a GPU, where there is one, is asked for fits."""
        return self.device != "cpu" and self.model != "disk" and self.fraction > 0


class PhaseConfig(Section):
    """A crystalline phase, whose rings peaks may lie on."""

    cell: tuple[float, float, float, float, float, float] = Field(description="a, b, c (Å), alpha, beta, gamma")
    space_group: str = Field(description="Hermann-Mauguin symbol or number, e.g. F m -3 m")


#: A detector's two sides, (y, x).
Sides: TypeAlias = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class GeometryConfig(Section):
    """Where the detector stands (docs/geometry.md); what is not given is taken from the frames, if they state it."""

    poni: str | None = Field(None, description="PONI file of pyFAI, in place of distance, centre, pixels and rotation")
    wavelength_angstrom: float | None = Field(None, gt=0, description="of the beam, Å")
    energy_kev: float | None = Field(None, gt=0, description="of the beam's photons, keV, in place of the wavelength")
    distance_mm: float | None = Field(None, gt=0, description="from the sample to the detector, along the beam")
    beam_centre_px: tuple[float, float] | None = Field(None, description="[y, x] where the beam meets the detector")
    pixel_size_um: Sides | None = Field(None, description="[y, x] of a pixel")
    rotation_degree: tuple[float, float, float] | None = Field(None, description="pyFAI's rot1, rot2, rot3")
    std: dict[str, float | tuple[float, ...]] = Field({}, description="standard uncertainty of any of these, by key")
    phases: dict[str, PhaseConfig | str] = Field({}, description="by name: {cell: ..., space_group: ...} or a CIF file")


class OutputConfig(Section):
    """Where results go."""

    folder: str = Field("runs", description="one folder per data set is made inside it")
    overwrite: bool = Field(False, description="true: throw away a run made with other settings")
    report: bool = Field(True, description="write report.html")


class CheckConfig(Section):
    """The self-check: added peaks of known place are looked for in copies of a few frames; no result depends on it."""

    fraction: float = Field(0.02, ge=0, le=1, description="share of the frames, one at least (0: no self-check)")
    max_frames: int = Field(32, ge=1, description="frames at most, however long the series")
    seed: int = Field(0, ge=0, description="of the frames, and of the places, shapes and photons of the added peaks")


class TrackConfig(Section):
    """Peaks followed through the series once the table is there; no other result depends on it."""

    enabled: Literal["auto"] | bool = Field(
        "auto", description="auto: where there are three frames or more, and up to 2,000,000 peaks"
    )
    kind: Literal["auto", "series", "rotation"] = Field(
        "auto", description="series, rotation (spots of neighbouring frames are one reflection), or as the axes show"
    )
    time: str | None = Field(None, description="coordinate that tells the time of frames (null: their numbers)")
    max_gap: int | None = Field(
        None, ge=0, le=1000, description="frames for which a peak may be missing (null: 5; in a rotation 1)"
    )
    min_length: int | None = Field(None, ge=1, description="peaks of a track, at least (null: 3; in a rotation 1)")
    speed: float | None = Field(
        None, gt=0, description="scatter of velocities along an axis, pixels a unit of time (null: from the data)"
    )
    subtract_drift: bool = Field(False, description="smoothed positions and trends less the common shift of all tracks")
    false_alarms: float = Field(0.01, gt=0, lt=1, description="share of straight courses in which a change is seen")
    strain_reference: Literal["first", "mean"] | Annotated[float, Field(gt=0)] = Field(
        "first",
        description="of a track's strain, where the geometry is known: its first peak, the mean of its peaks, or a "
        "lattice spacing, angstrom",
    )


class FollowConfig(Section):
    """A series that is processed while it is written (`run --follow`); nothing here changes a result."""

    frames: int | None = Field(None, ge=1, description="frames that it will have, then it is whole (null: not known)")
    peaks: tuple[tuple[float, float], ...] | None = Field(
        None, description="[[y, x], ...] of peaks whose courses the live page shows (null: five bright ones)"
    )


class ComputeConfig(Section):
    """How the work is shared out; nothing here changes a result."""

    workers: int | None = Field(None, ge=1, description="local worker processes (null: one per core)")
    retries: int = Field(2, ge=0, description="times a failed read or task is tried again")
    task_seconds: float = Field(2.0, gt=0, le=600, description="aimed-at length of one task, from the frame size")
    memory_limit: Annotated[str, BeforeValidator(memory_size)] = Field(
        "auto", description="per local worker, e.g. 4GiB (auto: an equal share)"
    )


#: Sections that decide the result; the others only decide how it is computed.
RESULT_SECTIONS = ("frames", "detect", "patches", "locate", "fit")
#: Keys of those sections that only say where and how much at a time.
_NEUTRAL_KEYS = {("locate", "batch_size"), ("locate", "device"), ("fit", "device")}


class RunConfig(Section):
    """The whole configuration of a run: which data, what is done with them, where results go.

    One section a stage; the sections `frames`, `detect`, `patches`, `locate` and `fit` decide the result, the others
    do not change it. Every key has a default. A configuration cannot be changed once it is made, and unknown keys are
    refused. `load_config` reads one from a YAML file; `braggflow config init` writes a file with every key.

    Examples
    --------
    >>> from braggflow import RunConfig
    >>> config = RunConfig.model_validate({"detect": {"minval": "8 sigma"}, "frames": {"bin": 2}})
    >>> config.detect.minval
    NoiseMultiple(sigma=8.0)
    >>> config.locate.network
    'compact'
    """

    data: tuple[str, ...] = Field(
        (), description="frames stores (NAME.zarr), detector files, folders, patterns, lists: docs/ingest.md"
    )
    frames: FramesConfig = Field(FramesConfig(), description="which frames are read, how their pixels are corrected")
    detect: DetectConfig = Field(DetectConfig(), description="threshold, persistence, and filters")
    patches: PatchesConfig = Field(PatchesConfig(), description="the square cut around each maximum")
    locate: LocateConfig = Field(LocateConfig(), description="the network, and which position is used")
    fit: FitConfig = Field(FitConfig(), description="the profile fitted to each peak")
    geometry: GeometryConfig = Field(GeometryConfig(), description="where the detector stands")
    output: OutputConfig = Field(OutputConfig(), description="where results go")
    check: CheckConfig = Field(CheckConfig(), description="how good the run is on its own frames")
    track: TrackConfig = Field(TrackConfig(), description="peaks followed through the series")
    follow: FollowConfig = Field(FollowConfig(), description="a series that is processed while it is written")
    compute: ComputeConfig = Field(ComputeConfig(), description="how the work is shared out")

    def result_settings(self) -> dict[str, Any]:
        """The settings that decide the result, as plain data (what runs are compared by)."""
        settings = self.model_dump(mode="json", include=set(RESULT_SECTIONS))
        for section, key in _NEUTRAL_KEYS:
            del settings[section][key]
        return settings

    def to_yaml(self) -> str:
        """The whole resolved configuration as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, independent of key order."""
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML configuration and apply overrides of single keys.

    Parameters
    ----------
    path : str or pathlib.Path
        The YAML file: a mapping of the sections of `RunConfig`. An empty file gives the defaults.
    overrides : sequence of str, default ()
        Each ``section.key=value``, with the value in YAML; they stand above the file.

    Returns
    -------
    RunConfig
        The whole configuration, checked.

    Raises
    ------
    InputError
        Where the file cannot be read, is no UTF-8 text, no YAML or no mapping; for unknown keys, values that are not
        accepted, and keys of version 0.1.0 that have another name now. Every problem is named: the file or key, its
        value and what is accepted.

    Examples
    --------
    >>> from pathlib import Path
    >>> import braggflow
    >>> _ = Path("peaks.yaml").write_text("detect: {minval: 20, minscore: 10}")
    >>> config = braggflow.load_config("peaks.yaml", ["fit.model=pseudo_voigt"])
    >>> config.detect.minval, config.fit.model
    (20.0, 'pseudo_voigt')
    >>> braggflow.load_config("peaks.yaml", ["fit.modell=gaussian"])
    Traceback (most recent call last):
    ...
    braggflow.errors.InputError: configuration peaks.yaml: fit.modell: unknown key (value 'gaussian'); accepted:
    model, likelihood, fraction, seed, max_iterations, device, deblend. Did you mean model?
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in _OF_DATA:
        what = "a folder" if path.is_dir() and path.suffix != ".zarr" else "named as data are"
        raise InputError(
            f"configuration {path}: is {what}, and no YAML file; the configuration comes first, then the data: "
            f"braggflow run CONFIG.yaml {path}"
        )
    return resolve_config(read_yaml(path, "configuration"), overrides, source=f"configuration {path}")


#: Suffixes of data, for those who name them first.
_OF_DATA = {".zarr", ".h5", ".hdf5", ".nxs", ".cxi", ".cbf", ".edf", ".tif", ".tiff", ".img", ".npy", ".npz", ".csv"}


def as_config(settings: RunConfig | Mapping[str, Any] | str | Path) -> RunConfig:
    """A configuration given as one, as plain data, or as the path of a YAML file."""
    if isinstance(settings, RunConfig):
        return settings
    return load_config(settings) if isinstance(settings, str | Path) else resolve_config(dict(settings))


def resolve_config(data: object, overrides: Sequence[str] = (), *, source: str = "configuration") -> RunConfig:
    """Check plain data (as from YAML; None is empty, of a section too) plus overrides against the schema."""
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise InputError(
            f"{source}: is {type(data).__name__}, must be a mapping of sections ({accepted_keys(RunConfig)})"
        )
    # A section without a key is one at its defaults: all of it may be comments.
    merged: dict[str, Any] = {
        key: dict(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if not (value is None and key in RunConfig.model_fields)
    }
    for override in overrides:
        _apply(merged, override)
    if renamed := former_names(merged):
        raise InputError(f"{source}: " + "\n  ".join(renamed))
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise InputError(f"{source}: " + "\n  ".join(validation_messages(error, RunConfig))) from error


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override}: must be section.key=value, e.g. detect.minval=20")
    *sections, last = key.strip().split(".")
    for section in sections:
        inner = data.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {override}: {section} is {inner!r}, which has no keys")
        data = inner
    data[last] = parse_yaml(text, f"--set {override}")
