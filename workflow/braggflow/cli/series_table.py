"""What would be read of a series, as text: a table for `inspect`, and the head of `ingest` and `run`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from braggflow.console import open_console, plain

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from braggflow.convert import FrameFacts, SeriesFacts

#: Of more files, coordinates or other data sets, the first and last, or the first, are named.
_NAMED = 4
#: Of more data sets of one run, the first are described.
_DESCRIBED = 5
_NEGATIVE = {"mark": "negative values", "count": "none, negative values are counts"}
#: Widths of the first column, and of a line where the terminal has more.
_LABEL, _WIDTH = 13, 80
_GEOMETRY = {
    "wavelength_angstrom": ("wavelength", "Å"),
    "distance_mm": ("distance", "mm"),
    "pixel_size_um": ("pixel (y, x)", "µm"),
    "beam_centre_px": ("beam centre (y, x)", "px"),
}


def show_series(facts: "SeriesFacts", console: "Console | None" = None) -> None:
    """The facts of a series as a table of two columns, and its warnings."""
    console = console or open_console()
    lines = [facts.name]
    for name, value in [*_rows(facts), *(("warning", warning) for warning in facts.warnings)]:
        # No table of rich's: it fills up its lines with blanks, and cuts words where they could be copied.
        lines += wrap(
            f"  {name:<{_LABEL}}{value}",
            min(console.width, _WIDTH),
            subsequent_indent=" " * (_LABEL + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
    plain(console, *lines)


def _rows(facts: "SeriesFacts") -> Iterator[tuple[str, str]]:
    plural = "s" * (facts.frames != 1)
    yield "frames", f"{facts.frames:,} frame{plural} of {_shape(facts.shape)} pixels (y, x), {facts.dtype}"
    yield "read from", _sources(facts)
    if facts.others:
        yield "not taken", _some(facts.others)
    if facts.chunks or facts.filters:
        yield "chunks", ", ".join(filter(None, (_shape(facts.chunks or ()), *facts.filters)))
    share = 100 * facts.masked / (facts.shape[0] * facts.shape[1])
    parts = ", ".join(f"{name} {count:,}" for name, count in facts.mask_pixels.items())
    pixels = f"{facts.masked:,} pixel{'s' * (facts.masked != 1)}"
    yield "mask", f"{pixels}, {share:.2g} % ({parts or 'in the store'})" if facts.masked else "none"
    negative = f" ({100 * facts.marks.get('negative_share', 0):.2g} % of the pixels)"
    marks = (
        f"{_NEGATIVE[kind]}{negative}" if (kind := facts.marks.get("negative")) in _NEGATIVE else "no negative values"
    )
    below = f"; below {facts.masked_below:g} ignored" if facts.masked_below is not None else ""
    looked = facts.marks.get("frames_looked_at", 0)
    yield "marks", f"{marks}{below} ({looked} frame{'s' * (looked != 1)} looked at)"
    source = f" ({facts.saturation_source})" if facts.saturation_source else ""
    yield "saturation", "not known" if facts.saturation is None else f"{facts.saturation:,.10g} counts{source}"
    yield "coordinates", _some([_coordinate(*item) for item in facts.coordinates.items()], "; ") or "none"
    known = [f"{label} {_numbers(facts.geometry[key])} {unit}" for key, (label, unit) in _GEOMETRY.items()
             if key in facts.geometry]  # fmt: skip
    yield "geometry", ", ".join(known) or "not stated"
    for name, frame in {"first": facts.first, "last": facts.last}.items():
        if frame is not None and (name == "first" or frame != facts.first):
            yield f"{name} frame", _frame(frame)


def _sources(facts: "SeriesFacts") -> str:
    names = [str(source.get("name", "")) for source in facts.sources]
    kind = facts.kind if facts.kind.endswith("store") else facts.kind.upper()
    if facts.kind == "fabio" and names:
        kind = f"{Path(names[0].removesuffix('.gz').removesuffix('.bz2')).suffix[1:].upper()} (by fabio)".lstrip()
    size = sum(_bytes(source) for source in facts.sources)
    if not names:
        return kind
    shown = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}, {len(names):,} sources"
    return f"{kind}: {'from ' * facts.kind.endswith('store')}{shown}{f', {_megabytes(size)}' if size else ''}"


def _bytes(source: dict[str, Any]) -> int:
    """Of a source as a store names it, or as an opened file does."""
    return int(source.get("bytes", 0)) or sum(int(size) for _, size, _ in source.get("files", ()))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.2g} MB"


def _coordinate(name: str, values: dict[str, Any]) -> str:
    first, last = (
        f"{value:.6g}" if isinstance(value, float) else str(value) for value in (values["first"], values["last"])
    )
    span = first if first == last else f"{first} to {last}"
    return f"{name} {span} {values.get('units', '')}".rstrip()


def _numbers(value: Any) -> str:
    return ", ".join(f"{number:.6g}" for number in value) if isinstance(value, list) else f"{value:.6g}"


def _frame(frame: "FrameFacts") -> str:
    if frame.unreadable:
        return f"{frame.frame}: cannot be read"
    if frame.mean is None:
        return f"{frame.frame}: no pixel that is not ignored"
    return f"{frame.frame}: mean {frame.mean:.4g}, maximum {frame.maximum:,.10g}"


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _some(names: Sequence[str], between: str = ", ") -> str:
    more = f"{between}and {len(names) - _NAMED} more" if len(names) > _NAMED + 1 else ""
    return between.join(names[: _NAMED if more else None]) + more


def series_line(path: str | Path, data: "xr.Dataset") -> str:
    """One line about a series that was opened; nothing is read of it."""
    coords = ", ".join(str(name) for name in data.coords if name != "frame") or "none"
    pixels = int((data["mask"] != 0).sum()) if "mask" in data else 0
    masked = f"{pixels:,} pixel{'s' * (pixels != 1)} masked" if pixels else "no mask"
    gone = sum(int(stop) - int(first) for first, stop, _ in data.attrs.get("missing_frames", []))
    missing = f", {gone} frames missing" if gone else ""
    shape = _shape(data["frames"].shape)
    return f"{path}: {shape} {data['frames'].dtype}, {masked}, coordinates: {coords}{missing}"


def run_head(console: "Console") -> Callable[[Path, "xr.Dataset", int], None]:
    """What heads a run, shown by calling it with each data set that is opened and how many there are.

    Of one data set all that is known, of several a line on each of the first.
    """
    seen = 0

    def show(path: Path, data: "xr.Dataset", n_data_sets: int) -> None:
        nonlocal seen
        seen += 1
        if n_data_sets == 1:
            from braggflow.convert import series_facts

            show_series(series_facts(data, path), console)
        elif seen <= _DESCRIBED:
            plain(console, series_line(path, data))
        elif seen == _DESCRIBED + 1:
            plain(console, f"and {n_data_sets - _DESCRIBED} more data sets")

    return show


def show_frames_store(path: Path) -> bool:
    """One line about a frames store that was made, and one on the frames that are missing in it; whether any is."""
    from braggflow.convert import missing_text
    from braggflow.frames import open_frames

    console = open_console()
    data = open_frames(path)
    plain(console, series_line(path, data))
    if missing := missing_text(data):
        plain(console, f"{path}: {missing} A run lists them as failed.")
    return bool(missing)
