"""How each format names a position: what it calls the middle of the first pixel, its axes, and its frames.

docs/exchange.md shows this table with its sources; tests hold the two together, and each format to its row.
"""

from typing import NamedTuple

from braggflow.errors import InputError


class Convention(NamedTuple):
    """One format: the file's suffixes, and what stands for our `y`, `x` and `peak_frame`."""

    suffixes: tuple[str, ...]
    """The first is the usual one; none where a suffix says too little, and the format has to be named."""
    y: str
    x: str
    frame: str
    middle: float = 0.0
    """What the middle of the first pixel is called, along both axes: 0 as here, or 0.5."""
    frame_middle: float = 0.0
    """What frame 0 is called."""
    extra: str = ""
    """The extra of the package that brings what the format needs, and the name of that."""
    package: str = ""


#: By the names that `--to` and `--from` take.
CONVENTIONS: dict[str, Convention] = {
    "csv": Convention((".csv",), "y", "x", "peak_frame"),
    "parquet": Convention((".parquet", ".pq"), "y", "x", "peak_frame", extra="table", package="pyarrow"),
    "hdf5": Convention((".h5", ".hdf5"), "y", "x", "peak_frame"),
    "duckdb": Convention((".duckdb",), "y", "x", "peak_frame", extra="table", package="duckdb"),
    "nexus": Convention((".nxs", ".nx"), "observed_px_y", "observed_px_x", "observed_frame", 0.5, 0.5),
    "flt": Convention((".flt",), "s_raw", "f_raw", "frame"),
    "refl": Convention((".refl",), "xyzobs.px.value[1]", "xyzobs.px.value[0]", "xyzobs.px.value[2]", 0.5, 0.5),
    "stream": Convention((".stream",), "ss/px", "fs/px", "Event", 0.5),
    "cxi": Convention((".cxi",), "peakYPosRaw", "peakXPosRaw", "row of nPeaks"),
    "midas": Convention((".bin",), "ZCen", "YCen", "index of the frame"),
    "hexrd": Convention((".out",), "meas Y", "meas X", "meas ome"),
}
FORMATS = tuple(CONVENTIONS)
#: Suffixes that stand for each format.
SUFFIXES = {name: convention.suffixes for name, convention in CONVENTIONS.items()}


def format_of(name: str, suffix: str, given: str | None, option: str) -> str:
    """The format of a file: the one that was given, or by its suffix.

    `name` is what a message begins with, `option` how a format is named. Raises `InputError` where no format is meant,
    or what it needs is not installed.
    """
    if given is None:
        given = next((key for key, suffixes in SUFFIXES.items() if suffix.lower() in suffixes), None)
        if given is None:
            listed = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
            raise InputError(f"{name}: its suffix names no format; must be one of {listed}, or add {option} csv")
    if given not in CONVENTIONS:
        raise InputError(f"{option} {given}: is not a format; must be {', '.join(FORMATS)}")
    convention = CONVENTIONS[given]
    if convention.package:
        try:
            __import__(convention.package)
        except ImportError as error:
            raise InputError(
                f"{option} {given}: needs {convention.package}, which is not installed: "
                f'pip install "braggflow[{convention.extra}]"'
            ) from error
    return given
