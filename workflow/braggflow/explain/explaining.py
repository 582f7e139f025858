"""What is at a place of a frame: a peak, a maximum that was dropped, no maximum, or an ignored pixel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow.config import RunConfig, as_config
from braggflow.convert import open_source
from braggflow.detect import JudgedMaxima
from braggflow.errors import InputError
from braggflow.explain.explanation import Explanation
from braggflow.explain.findings import Place
from braggflow.explain.found_frame import FoundFrame, find_in_frame
from braggflow.explain.masked import why_ignored
from braggflow.explain.of_maximum import described_maximum, maximum_words, surroundings
from braggflow.explain.of_peak import model_of, peak_words, row_as_dataset
from braggflow.frames import OpenedSeries, frames_from_array, open_series, settled_constants
from braggflow.results import (
    Run,
    RunFolder,
    frames_identity,
    identity_changes,
    open_run_frames,
    read_run_info,
    run_identity,
)

#: A peak this near, pixels of the searched frame, is meant whatever else lies there.
_ON_PEAK = 1.0
#: How far a maximum that is in the foreground may be from the place, and one that is not, pixels of the searched frame.
_NEAR, _NEXT = 3.0, 1.5


def explain(
    source: "Run | str | Path | xr.Dataset | xr.DataArray | NDArray[Any]",
    y: float,
    x: float,
    *,
    frame: int | None = None,
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
) -> Explanation:
    """Explain why there is a peak at a place of a frame, or none.

    Parameters
    ----------
    source : Run, str, pathlib.Path, xarray.Dataset, xarray.DataArray or numpy.ndarray
        A run or its folder, whose settings are used; a frames store, or anything that `ingest` reads; or frames in
        memory, as `find_peaks` takes them.
    y, x : float
        The place, pixels of the detector, 0-based, pixel centres at whole numbers.
    frame : int, optional
        The number of the frame. Default: the middle one of those selected.
    config : RunConfig, mapping, str or pathlib.Path, optional
        The configuration, or the name of its YAML file; not for a run, which has one. Default: every key at its
        default.

    Returns
    -------
    Explanation
        Of the nearest peak, where one lies within half a patch; else of the nearest maximum that was dropped; else of
        the pixel. A peak's row is exactly that of `run` with this configuration.

    Raises
    ------
    InputError
        Where the source cannot be opened, has no frame of this number or no such pixel, or the frame cannot be
        processed.

    Examples
    --------
    >>> import numpy as np
    >>> import braggflow
    >>> y, x = np.mgrid[:64, :64]
    >>> frame = np.random.default_rng(0).poisson(4 + 400 * np.exp(-((y - 20.3) ** 2 + (x - 31.8) ** 2) / 3))
    >>> braggflow.explain(frame, 21, 31).kind
    'peak'
    >>> why = braggflow.explain(frame, 50, 10)
    >>> why.kind, why.maximum.significance < why.maximum.least
    ('maximum', True)
    """
    opened, name = _opened(source, config)
    if not opened.numbers:
        raise InputError(f"frames.start: {opened.config.frames.start} selects none of the frames of {name}")
    number = opened.numbers[len(opened.numbers) // 2] if frame is None else frame
    return explain_place(opened, number, y, x, source=name)


def _opened(
    source: "Run | str | Path | xr.Dataset | xr.DataArray | NDArray[Any]",
    config: RunConfig | Mapping[str, Any] | str | Path | None,
) -> tuple[OpenedSeries, str]:
    run = source.path if isinstance(source, Run) else source
    if isinstance(run, str | Path) and RunFolder(Path(run)).info.exists():
        if config is not None:
            raise InputError(f"config: {run} is a run, which is explained with the settings that it was made with")
        return _of_run(RunFolder(Path(run))), str(run)
    settings = as_config(config if config is not None else {})
    data, name = (open_source(run), str(run)) if isinstance(run, str | Path) else (frames_from_array(run), "array")
    return settled_constants(open_series(data, settings))[0], name


def _of_run(folder: RunFolder) -> OpenedSeries:
    """The series of a run, as the run saw it; raises `InputError` where its mask, dark or flat are others now."""
    opened, then = open_run_frames(folder), read_run_info(folder)["identity"]
    frames = frames_identity(Path(str(opened.data.encoding.get("source", folder.path))), opened.data)
    now = run_identity(opened.config, frames, None)
    changed = [name for name in ("mask", "dark", "flat") if then["frames"].get(name) != frames.get(name)]
    changed += identity_changes(then.get("files", {}), now["files"])
    if changed:
        raise InputError(
            f"{folder.path}: what corrects its frames has changed since ({', '.join(changed)}); run again, or explain "
            f"the frames with {folder.settings}"
        )
    return opened


def explain_place(opened: OpenedSeries, number: int, y: float, x: float, *, source: str = "series") -> Explanation:
    """As `explain`, of a series that is open, its detector's constants settled."""
    return explain_in(find_in_frame(opened, number), y, x, source=source)


def explain_in(found: FoundFrame, y: float, x: float, *, source: str = "series") -> Explanation:
    """As `explain`, in a frame that has gone through the chain."""
    pixel = found.searched_pixel(y, x)
    judged = found.judged(pixel)
    peak = _nearest_peak(found, y, x)
    masked = bool(found.frame.mask[pixel])
    dropped = _nearest_dropped(found, judged, pixel)
    at_maximum = dropped is not None and _is_at(judged, dropped, pixel) and judged.foreground[pixel] > 0
    if peak is not None and (peak[1] <= _ON_PEAK or not (masked or at_maximum)):
        return _of_peak(found, judged, peak[0], (y, x), pixel, source)
    common = _common(found, judged, (y, x), pixel, source)
    kind: Literal["masked", "maximum", "no maximum"] = "masked" if masked else "no maximum"
    if not masked and dropped is not None:
        maximum = described_maximum(found, judged, dropped)
        middle = (int(judged.table["y_pixel"][dropped]), int(judged.table["x_pixel"][dropped]))
        words = [
            *surroundings(found, judged, middle, found.on_detector(*middle)),
            *maximum_words(found, judged, maximum),
        ]
        return Explanation(
            kind="maximum", words=words, place=maximum.place, maximum=maximum, **common, **_pictures(found, middle)
        )
    words = why_ignored(found, y, x) if masked else surroundings(found, judged, pixel, (y, x))
    if kind == "no maximum":
        words.append("It is no maximum, and none lies beside it: nothing rises here.")
    return Explanation(kind=kind, words=words, place=(y, x), **common, **_pictures(found, pixel))


def _of_peak(
    found: FoundFrame, judged: JudgedMaxima, row: int, asked: Place, pixel: tuple[int, int], source: str
) -> Explanation:
    table = found.table
    main = int(table["parent"][row]) if table["parent"][row] >= 0 else row
    patch = int(np.count_nonzero(table["parent"][:main] < 0))
    middle = int(found.searched["y_pixel"][patch]), int(found.searched["x_pixel"][patch])
    at = np.flatnonzero((judged.table["y_pixel"] == middle[0]) & (judged.table["x_pixel"] == middle[1]))
    maximum = described_maximum(found, judged, int(at[0])) if len(at) else None  # the middle of a disk is none
    half, scale = found.opened.config.patches.size // 2, found.bin
    away = [np.abs(table[f"{name}_pixel"] - table[f"{name}_pixel"][main]) for name in "yx"]
    near = np.flatnonzero((np.maximum(*away) <= half * scale) & (np.arange(len(table)) != row))
    near = near[np.argsort(np.hypot(table["y"][near] - table["y"][row], table["x"][near] - table["x"][row]))]
    model, residual = model_of(found, row, main, patch, middle)
    return Explanation(
        kind="peak",
        words=peak_words(found, judged, row, patch, maximum, near),
        place=(float(table["y"][row]), float(table["x"][row])),
        state=found.patches.state[patch],
        model=model,
        residual=residual,
        maximum=maximum,
        peak=row_as_dataset(found, np.array([row])),
        neighbours=row_as_dataset(found, near),
        network_std=tuple(found.network_std[patch].tolist()) if row == main else (np.nan, np.nan),
        **_common(found, judged, asked, pixel, source),
        **_pictures(found, middle),
    )


def _nearest_peak(found: FoundFrame, y: float, x: float) -> tuple[int, float] | None:
    """The row of the nearest peak within half a patch, and its distance, pixels of the searched frame."""
    table, scale = found.table, found.bin
    dy, dx = (table["y"] - y) / scale, (table["x"] - x) / scale
    within = np.flatnonzero(np.maximum(np.abs(dy), np.abs(dx)) <= found.opened.config.patches.size / 2)
    if not len(within):
        return None
    distance = np.hypot(dy[within], dx[within])
    return int(within[np.argmin(distance)]), float(distance.min())


def _nearest_dropped(found: FoundFrame, judged: JudgedMaxima, pixel: tuple[int, int]) -> int | None:
    """The nearest maximum that is no peak, one of the foreground before one that is not above the noise."""
    y, x = judged.table["y_pixel"], judged.table["x_pixel"]
    distance = np.hypot(y - pixel[0], x - pixel[1])
    in_foreground = judged.foreground[y, x] > 0
    width = judged.foreground.shape[1]
    is_peak = np.isin(y * width + x, found.searched["y_pixel"] * width + found.searched["x_pixel"])
    for among, reach in ((in_foreground, _NEAR), (~in_foreground, _NEXT)):
        rows = np.flatnonzero(among & ~is_peak & (distance <= reach))
        if len(rows):
            return int(rows[np.argmin(distance[rows])])
    return None


def _is_at(judged: JudgedMaxima, row: int, pixel: tuple[int, int]) -> bool:
    return (int(judged.table["y_pixel"][row]), int(judged.table["x_pixel"][row])) == pixel


def _common(
    found: FoundFrame, judged: JudgedMaxima, asked: Place, pixel: tuple[int, int], source: str
) -> dict[str, Any]:
    return {
        "source": source,
        "frame": found.number,
        "asked": asked,
        "counts": np.nan if found.frame.mask[pixel] else float(found.frame.counts[pixel]),
        "level": float(judged.level[pixel]) + 0.0,  # -0 is 0
        "deviation": float(judged.deviation[pixel]),
        "bin": found.bin,
    }


def _pictures(found: FoundFrame, middle: tuple[int, int]) -> dict[str, Any]:
    half = found.opened.config.patches.size // 2
    return {
        "patch": found.window(*middle),
        "corner": found.on_detector(middle[0] - half, middle[1] - half),
        "before": found.beside(-1, *middle),
        "after": found.beside(1, *middle),
    }
