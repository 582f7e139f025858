"""The live page: counts, where chosen peaks are, alarms; one file, written anew while the run goes on.

It needs no server: whoever may read the run folder may look at it, and nobody else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import printable
from braggflow.files import write_atomic
from braggflow.results import RunFolder

if TYPE_CHECKING:
    from jinja2 import Template

#: Seconds after which the page loads itself anew.
RELOAD_SECONDS = 2
#: Points of a curve at most, and the size of its picture.
_POINTS, _WIDE, _HIGH = 500, 1000, 130
#: Colours that those who see few can tell apart (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


@dataclass(frozen=True, slots=True)
class LiveState:
    """What the page shows."""

    name: str
    status: str
    """As in "scan is being written"."""
    frames_known: int
    frames_failed: int
    late: int
    """Frames that came after others that follow them in the series."""
    seconds_to_peaks: float | None
    """Median time from seeing a frame to its peaks being readable; None before the first."""
    states: NDArray[np.void]
    """Of the frames done, dtype `FRAME_STATE`, by ascending number."""
    courses: Mapping[str, NDArray[np.float64]]
    """Rows of (frame, y, x) of the chosen peaks, by what each is called."""
    alarms: Sequence[str]
    report: str
    """The name of the report that comes at the end; "" where none does."""
    ended: bool
    """Whether the page is written no more."""


@dataclass(frozen=True, slots=True)
class _Curve:
    name: str
    colour: str
    points: str


@dataclass(frozen=True, slots=True)
class _Plot:
    """Curves against the frame's number, and the range of what is drawn."""

    title: str
    curves: Sequence[_Curve]
    low: str
    high: str
    first: int
    last: int


def write_live_page(folder: RunFolder, state: LiveState) -> None:
    """Write `live.html` into a run folder, whole or not at all."""
    numbers = state.states["frame"].astype(np.float64)
    places = state.courses.items()
    plots = [
        _plot("peaks in a frame", {"": (numbers, state.states["peaks"])}, from_zero=True),
        _plot("mean count of a pixel", {"": (numbers, state.states["mean"])}, from_zero=True),
        _plot("y of chosen peaks, less where each was first (pixels)", {k: _moved(c, 1) for k, c in places}),
        _plot("x of chosen peaks, less where each was first (pixels)", {k: _moved(c, 2) for k, c in places}),
    ]
    peaks, done = int(state.states["peaks"].sum()), len(state.states)
    delay = state.seconds_to_peaks
    counts = [
        f"{done:,} frames done of {state.frames_known:,} that are known so far",
        *([f"{state.frames_failed:,} could not be read yet"] if state.frames_failed else []),
        f"{state.late:,} came late",
        f"{peaks:,} peaks, {peaks / max(1, done):.1f} a frame",
        *([f"peaks {delay:.2g} s after their frame (median)"] if delay is not None else []),
    ]
    page = _template().render(
        state=state,
        counts=counts,
        plots=[plot for plot in plots if plot is not None],
        reload=0 if state.ended else RELOAD_SECONDS,
        wide=_WIDE,
        high=_HIGH,
    )
    write_atomic(folder.live_page, page.encode())


def _moved(course: NDArray[np.float64], column: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return course[:, 0], course[:, column] - course[:1, column]


def _plot(
    title: str, curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], *, from_zero: bool = False
) -> _Plot | None:
    """The curves (x, y) as SVG has them, thinned out; None where there is nothing to draw."""
    drawn = {name: (x, np.asarray(y, np.float64)) for name, (x, y) in curves.items() if len(x)}
    x_all = np.concatenate([np.zeros(0), *(x for x, _ in drawn.values())])
    y_all = np.concatenate([np.zeros(0), *(y for _, y in drawn.values())])
    y_all = y_all[np.isfinite(y_all)]
    if not len(y_all):
        return None
    low, high = (0.0 if from_zero else float(y_all.min())), float(y_all.max())
    first, last = float(x_all.min()), float(x_all.max())
    found = []
    for colour, (name, (x, y)) in zip(_COLOURS * len(drawn), drawn.items(), strict=False):
        step = -(-len(x) // _POINTS)
        across = (x[::step] - first) / max(last - first, 1) * _WIDE
        up = _HIGH - 4 - (_HIGH - 8) * (y[::step] - low) / max(high - low, 1e-9)
        known = np.isfinite(up)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across[known], up[known], strict=True))
        found.append(_Curve(name, colour, points))
    return _Plot(title, found, f"{low:.4g}", f"{high:.4g}", int(first), int(last))


@lru_cache(maxsize=1)
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here, because only this page needs it

    return Environment(
        loader=PackageLoader("braggflow.show.live", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("live.html.j2")
