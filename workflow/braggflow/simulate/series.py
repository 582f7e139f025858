"""Operando-like series of simulated frames, with their exact truth beside them."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from braggflow.errors import InputError
from braggflow.frames import create_store, finish_store, frames_per_file, guarded_encoding, unfinished_path
from braggflow.simulate.profiles import PROFILE_DTYPE, Profiles, render
from braggflow.simulate.simulated_patches import CLASSES, sample_profiles

TRUTH_FORMAT = "braggflow-truth"
TRUTH_VERSION = 1
#: What a true peak is scored as: the first that holds of edge (an 11 px patch reaches beyond the frame), overlap (the
#: centre of another peak lies in that patch), faint (height below 100), elongated (sigma_major / sigma_minor at least
#: 1.8), and then by sigma_minor: sharp (below 0.9), sampled, broad (1.8 and above).
TRUTH_CLASSES = ("sharp", "sampled", "broad", "elongated", "faint", "overlap", "edge")
_REACH = 5  # half an 11 px patch
#: A true peak is detectable if the noise-free frame has a maximum at it, this many noise standard deviations high.
DETECTABLE_SNR = 6.0
#: Counts; a lower peak is neither drawn nor in the truth.
LEAST_HEIGHT = 3.0
SATURATION = 65535

#: A peak through the cycle, as functions of the state of charge q (0 to 1 and back): `y`, `x` + drift q + bend q² +
#: swing sin(2 pi cycle) (a hysteresis) + split w; sigma (1 + growth q); height (start + gain w), where w(q) is a smooth
#: step from 0 to 1 over `span` after `onset`.
_PATH = ("drift", "bend", "swing", "split")
TRACK_DTYPE = np.dtype(
    PROFILE_DTYPE.descr
    + [(f"{name}_{axis}", "f8") for name in _PATH for axis in "yx"]
    + [(name, "f8") for name in ("growth", "onset", "span", "start", "gain")]
)
#: What the tracks of a series do, in turn. A split and a pair are two tracks; a visitor is there for half of the cycle.
_ROLES = ("sampled", "sharp", "split", "elongated", "pair", "faint", "edge", "broad", "visitor", "pseudo_voigt")
_PEAKS_PER_ROLE = 1.1


def simulate_series(
    out: str | Path,
    *,
    n_frames: int = 480,
    shape: tuple[int, int] = (512, 512),
    peaks: int = 14,
    seed: int = 0,
    background: float = 8.0,
    read_noise: float = 1.0,
    hot_pixels: int = 8,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write an operando-like series as a frames store, and its exact truth beside it.

    Over one charge and discharge, about `peaks` peaks a frame drift, broaden, split in two and join again, appear and
    vanish, on a sloping background with a halo, with Poisson and read noise, `hot_pixels` flickering pixels, a module
    gap, a beam stop and dead pixels (the store's mask). Frame i is decided by the settings and i alone; memory holds
    one chunk of frames and the truth.

    Parameters
    ----------
    out : str or pathlib.Path
        The frames store, ``NAME.zarr``; the truth is written as ``NAME.truth.zarr``.
    n_frames : int, default 480
        Frames, 1 or more.
    shape : tuple of int, default (512, 512)
        Shape (y, x) of a frame, 64 or more each.
    peaks : int, default 14
        Peaks a frame, about, 1 or more.
    seed : int, default 0
        Of the random numbers.
    background : float, default 8.0
        Counts a pixel on average, without the halo.
    read_noise : float, default 1.0
        Standard deviation of a pixel without light, counts.
    hot_pixels : int, default 8
        How many pixels flicker.
    overwrite : bool, default False
        Replace what is there.
    progress : callable, optional
        Called with (frames done, frames in all) after each chunk.

    Returns
    -------
    pathlib.Path
        The path of the truth, which `evaluate.load_truth` reads: an xarray Dataset; on `peak` the fields of
        `PROFILE_DTYPE` in frame coordinates, `peak_frame`, `peak_id` (the same peak through the series), `class` (CF
        flag, `TRUTH_CLASSES`) and the booleans `edge`, `overlap`, `masked` (a masked pixel in its central 3 × 3) and
        `detectable`; on `frame` the number of peaks, `peak_count`; on (y, x) the expected `background_image`; on
        `hot_pixel` the positions `hot_y`, `hot_x`.

    Raises
    ------
    InputError
        For settings out of range, and for existing output unless `overwrite`.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.evaluate import load_truth
    >>> from braggflow.simulate import simulate_series
    >>> truth = load_truth(simulate_series("scan.zarr", n_frames=4, shape=(64, 80), peaks=2))
    >>> dict(braggflow.open_frames("scan.zarr")["frames"].sizes)
    {'frame': 4, 'y': 64, 'x': 80}
    >>> truth["peak_count"].sizes["frame"], truth["y"].attrs["units"]
    (4, 'pixel')
    """
    out = Path(out)
    truth_path = out.with_suffix(".truth.zarr")
    _check_series(out, n_frames, shape, peaks, background, read_noise, hot_pixels)
    for path in (out, truth_path):
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists; choose another name or give --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    scene = _scene(rng, shape, peaks, background, hot_pixels)
    settings = {"n_frames": n_frames, "shape": list(shape), "peaks": peaks, "seed": seed, "background": background}
    settings |= {"read_noise": read_noise, "hot_pixels": hot_pixels}
    cycle = np.arange(n_frames) / max(n_frames - 1, 1)
    store = create_store(
        out,
        n_frames=n_frames,
        shape=shape,
        dtype=np.dtype(np.uint16),
        coords=_cycle_coordinates(cycle),
        images={"mask": scene.mask},
        attributes={"saturation": SATURATION, "simulation": settings},
    )

    def simulate(number: int) -> tuple[NDArray[np.uint16], NDArray[np.void]]:
        truth, expected = _expected_frame(scene, cycle[number], read_noise)
        truth["peak_frame"] = number
        frame_rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, number)))
        return _expose(frame_rng, expected, scene, read_noise), truth

    step = frames_per_file(store)
    rows = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, n_frames, step):
            stop = min(start + step, n_frames)
            chunk = np.empty((stop - start, *shape), np.uint16)
            for k, (counts, truth) in enumerate(pool.map(simulate, range(start, stop))):
                chunk[k] = counts
                rows.append(truth)
            store[start:stop] = chunk
            if progress is not None:
                progress(stop, n_frames)
    dataset = _truth_dataset(np.concatenate(rows), n_frames, scene, settings)
    dataset.to_zarr(
        unfinished_path(truth_path),
        mode="w",
        zarr_format=3,
        consolidated=False,
        encoding=guarded_encoding(dataset),
        write_empty_chunks=True,
    )
    finish_store(truth_path)
    finish_store(out)
    return truth_path


def _check_series(
    out: Path, n_frames: int, shape: tuple[int, int], peaks: int, background: float, read_noise: float, hot_pixels: int
) -> None:
    if out.suffix != ".zarr" or out.name.endswith(".truth.zarr"):
        raise InputError(f"output {out}: must be named NAME.zarr")
    for name, value, least in (
        ("frames", n_frames, 1),
        ("shape", min(shape), 64),
        ("peaks", peaks, 1),
        ("background", background, 0),
        ("read_noise", read_noise, 0),
        ("hot_pixels", hot_pixels, 0),
    ):
        if not least <= value < np.inf:
            raise InputError(f"{name}: {value} is not accepted; must be at least {least}")


class _Scene(NamedTuple):
    """What all frames of a series share."""

    tracks: NDArray[np.void]
    background: NDArray[np.float64]
    mask: NDArray[np.bool_]
    hot: NDArray[np.int64]
    """(n, 2) positions y, x of hot pixels."""
    dead: NDArray[np.int64]
    """(n, 2) positions y, x of dead pixels, part of the mask."""


def _scene(rng: np.random.Generator, shape: tuple[int, int], peaks: int, background: float, hot_pixels: int) -> _Scene:
    tracks = _tracks(rng, shape, peaks)
    rows, columns = shape
    y, x = np.mgrid[:rows, :columns] / np.array([rows, columns])[:, None, None] - 0.5
    level = background * (1 + 0.3 * y - 0.2 * x + 0.6 * np.exp(-(y**2 + x**2) / (2 * 0.15**2)))
    dead = rng.integers(0, shape, (rows * columns // 5000, 2))
    mask = (y**2 + x**2 < 0.05**2) | ((abs(x) < 0.008) & (y > 0))  # the beam stop and its arm
    gap = int(0.3 * rows)
    mask[gap : gap + max(2, rows // 60)] = True
    mask[tuple(dead.T)] = True
    return _Scene(tracks, level, mask, rng.integers(0, shape, (hot_pixels, 2)), dead)


def _tracks(rng: np.random.Generator, shape: tuple[int, int], peaks: int) -> NDArray[np.void]:
    n = max(1, round(peaks / _PEAKS_PER_ROLE))
    margin = min(30.0, min(shape) / 5)
    travel = margin / 4  # the path stays inside the margin
    places = _spread(rng, n, np.array(shape) - 2 * margin) + margin
    tracks = []
    for k in range(n):
        role = _ROLES[k % len(_ROLES)]
        track = np.zeros(1, TRACK_DTYPE)
        profile = sample_profiles(1, rng=rng, config=CLASSES[role if role in CLASSES else "sampled"])
        for name in ("height", "sigma_major", "sigma_minor", "angle", "eta"):
            track[name] = profile[name]
        track["y"], track["x"] = places[k]
        for name, reach in (("drift", 1.0), ("bend", 0.8), ("swing", 0.3)):
            for axis in "yx":
                track[f"{name}_{axis}"] = travel * rng.uniform(-reach, reach)
        track["growth"] = rng.uniform(0, 0.1 if role == "sharp" else 0.5)
        track["start"], track["onset"], track["span"] = 1, rng.uniform(0.3, 0.5), rng.uniform(0.1, 0.3)
        direction = rng.uniform(0, 2 * np.pi)
        away = np.array([np.sin(direction), np.cos(direction)])
        if role == "edge":
            _move_to_edge(rng, track, shape)
        if role == "visitor":
            track["start"], track["gain"] = (0, 1) if rng.random() < 0.5 else (1, -1)
        if role == "split":
            # A child of half the parent's height leaves it; the parent keeps the other half.
            track["gain"] = -0.5
            child = track.copy()
            child["start"], child["gain"] = 0, 0.5
            child["split_y"], child["split_x"] = away * rng.uniform(6, 12)
            tracks.append(child)
        if role == "pair":
            other = track.copy()
            other["y"], other["x"] = places[k] + away * rng.uniform(4, 6)
            other["height"] *= rng.uniform(0.5, 1)
            tracks.append(other)
        tracks.append(track)
    return np.concatenate(tracks)


def _move_to_edge(rng: np.random.Generator, track: NDArray[np.void], shape: tuple[int, int]) -> None:
    """Put a track on one of the four edges, from cut in half to 2 px inside, and let it travel along the edge only."""
    axis = int(rng.integers(2))
    inside = rng.uniform(-0.3, 2)
    track["yx"[axis]] = inside if rng.random() < 0.5 else shape[axis] - 1 - inside
    for name in _PATH:
        track[f"{name}_{'yx'[axis]}"] = 0


def _spread(rng: np.random.Generator, n: int, extent: NDArray[np.float64]) -> NDArray[np.float64]:
    """`n` random positions that keep apart: each the farthest of ten from those before it. Shape (n, 2)."""
    places = np.empty((n, 2))
    for k in range(n):
        candidates = rng.random((10, 2)) * extent
        distances = np.linalg.norm(candidates[:, None] - places[None, :k], axis=2)
        places[k] = candidates[np.argmax(distances.min(axis=1, initial=np.inf))]
    return places


def _state_of_charge(cycle: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(1 - np.abs(2 * np.asarray(cycle) - 1))


def _cycle_coordinates(cycle: NDArray[np.float64]) -> dict[str, tuple[NDArray[Any], dict[str, str]]]:
    """Time, capacity, and a voltage with a plateau and with hysteresis between charge and discharge."""
    charge = _state_of_charge(cycle)
    voltage = 3.4 + 0.5 * charge + 0.3 * np.tanh(6 * (charge - 0.9)) + 0.05 * np.sign(0.5 - cycle)
    return {
        "time": (30.0 * np.arange(len(cycle)), {"units": "s"}),
        "voltage": (voltage, {"units": "V"}),
        "capacity": (180 * charge, {"units": "mA h g-1"}),
    }


def _profiles_at(tracks: NDArray[np.void], cycle: float) -> Profiles:
    """The tracks' profiles at one point of the cycle (0 to 1), dtype `PROFILE_DTYPE`."""
    q = _state_of_charge(cycle)
    u = np.clip((q - tracks["onset"]) / tracks["span"], 0, 1)
    step = u**2 * (3 - 2 * u)
    profiles = np.empty(len(tracks), PROFILE_DTYPE)
    for axis in "yx":
        drift, bend, swing, split = (tracks[f"{name}_{axis}"] for name in _PATH)
        profiles[axis] = tracks[axis] + drift * q + bend * q**2 + swing * np.sin(2 * np.pi * cycle) + split * step
    for name in ("sigma_major", "sigma_minor"):
        profiles[name] = tracks[name] * (1 + tracks["growth"] * q)
    for name in ("angle", "eta"):
        profiles[name] = tracks[name]
    profiles["height"] = tracks["height"] * (tracks["start"] + tracks["gain"] * step)
    profiles["background"] = 0
    return profiles


_TRUTH_DTYPE = np.dtype(
    [("peak_frame", "i8"), ("peak_id", "i8"), *PROFILE_DTYPE.descr, ("class", "i1")]
    + [(name, "?") for name in ("edge", "overlap", "masked", "detectable")]
)


def _expected_frame(scene: _Scene, cycle: float, read_noise: float) -> tuple[NDArray[np.void], NDArray[np.float64]]:
    """The true peaks at one point of the cycle, and the expected counts without hot pixels and mask."""
    every = _profiles_at(scene.tracks, cycle)
    shown = np.flatnonzero(every["height"] >= LEAST_HEIGHT)
    profiles = every[shown]
    shape = scene.background.shape
    expected = render((shape[0], shape[1]), profiles, background=scene.background)
    position = np.stack([profiles["y"], profiles["x"]], axis=1)
    pixel = np.clip(np.rint(position).astype(np.int64), 0, np.array(shape) - 1)
    profiles["background"] = scene.background[tuple(pixel.T)]
    truth = np.zeros(len(shown), _TRUTH_DTYPE)
    for name in PROFILE_DTYPE.names or ():
        truth[name] = profiles[name]
    truth["peak_id"] = shown
    truth["edge"] = ((pixel < _REACH) | (pixel >= np.array(shape) - _REACH)).any(axis=1)
    distance = np.abs(pixel[:, None] - pixel[None]).max(axis=2)
    np.fill_diagonal(distance, _REACH + 1)
    truth["overlap"] = (distance <= _REACH).any(axis=1)
    truth["masked"] = [scene.mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any() for y, x in pixel]
    truth["class"] = _classify(truth)
    truth["detectable"] = _detectable(profiles, pixel, expected, read_noise)
    return truth, expected


def _classify(truth: NDArray[np.void]) -> NDArray[np.int64]:
    ratio = truth["sigma_major"] / truth["sigma_minor"]
    conditions = {
        "edge": truth["edge"],
        "overlap": truth["overlap"],
        "faint": truth["height"] < 100,
        "elongated": ratio >= 1.8,
        "sharp": truth["sigma_minor"] < 0.9,
        "sampled": truth["sigma_minor"] < 1.8,
    }
    codes = [TRUTH_CLASSES.index(name) for name in conditions]
    return np.select(list(conditions.values()), codes, TRUTH_CLASSES.index("broad"))


def _detectable(
    profiles: Profiles, pixel: NDArray[np.int64], expected: NDArray[np.float64], read_noise: float
) -> NDArray[np.bool_]:
    """Whether a maximum of the expected frame lies within a pixel of each peak, high enough, and is its own."""
    detectable = np.zeros(len(profiles), bool)
    taken = set()
    padded = np.pad(expected, 2, constant_values=-np.inf)
    for k in np.argsort(-profiles["height"], kind="stable"):
        y, x = pixel[k]
        around = padded[y : y + 5, x : x + 5]
        dy, dx = np.unravel_index(np.argmax(around[1:4, 1:4]), (3, 3))
        brightest = around[1 + dy, 1 + dx]
        level = profiles["background"][k]
        high = brightest - level >= DETECTABLE_SNR * np.sqrt(level + read_noise**2)
        maximum = (y + dy, x + dx)
        if high and brightest >= around[dy : dy + 3, dx : dx + 3].max() and maximum not in taken:
            detectable[k] = True
            taken.add(maximum)
    return detectable


def _expose(
    rng: np.random.Generator, expected: NDArray[np.float64], scene: _Scene, read_noise: float
) -> NDArray[np.uint16]:
    """One noisy frame: a hot pixel burns in half of the frames; masked pixels read 0, dead ones the dtype's maximum."""
    expected = expected.copy()
    burning = rng.random(len(scene.hot)) < 0.5
    expected[tuple(scene.hot.T)] += burning * rng.exponential(1000, len(burning))
    counts = rng.poisson(expected).astype(np.float32)
    if read_noise > 0:
        counts += np.float32(read_noise) * rng.standard_normal(counts.shape, np.float32)
    counts[scene.mask] = 0
    counts[tuple(scene.dead.T)] = SATURATION
    return np.clip(np.rint(counts), 0, SATURATION).astype(np.uint16)


_TRUTH_UNITS = {"y": "pixel", "x": "pixel", "sigma_major": "pixel", "sigma_minor": "pixel", "angle": "degree"}
_TRUTH_UNITS |= {"height": "count", "background": "count"}


def _truth_dataset(rows: NDArray[np.void], n_frames: int, scene: _Scene, settings: Mapping[str, Any]) -> xr.Dataset:
    variables: dict[str, Any] = {
        name: ("peak", rows[name], {"units": _TRUTH_UNITS.get(name, "1")}) for name in rows.dtype.names or ()
    }
    variables["class"][2].update(flag_values=list(range(len(TRUTH_CLASSES))), flag_meanings=" ".join(TRUTH_CLASSES))
    count = np.bincount(rows["peak_frame"], minlength=n_frames)
    return xr.Dataset(
        {
            **variables,
            "peak_count": ("frame", count, {"sample_dimension": "peak", "units": "1"}),
            "background_image": (("y_axis", "x_axis"), scene.background, {"units": "count"}),
            "hot_y": ("hot_pixel", scene.hot[:, 0], {"units": "pixel"}),
            "hot_x": ("hot_pixel", scene.hot[:, 1], {"units": "pixel"}),
        },
        coords={"frame": np.arange(n_frames)},
        attrs={"format": TRUTH_FORMAT, "format_version": TRUTH_VERSION, "simulation": dict(settings)},
    )
