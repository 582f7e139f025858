"""What is looked at: a run, a store or a file, its frames one at a time, and their peaks by any settings."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braggflow import peak_table
from braggflow.config import RunConfig, as_config, resolve_config
from braggflow.convert import open_source
from braggflow.errors import InputError
from braggflow.frames import (
    OpenedSeries,
    contradictions,
    frames_from_array,
    open_series,
    read_background_frame,
    searched_geometry,
    settled_constants,
    unbinned,
)
from braggflow.results import Run, RunFolder, SearchedFrame, open_run, open_run_frames, read_run_frame
from braggflow.view.followed import Followed, followed_of
from braggflow.view.windows import Picture

if TYPE_CHECKING:
    from braggflow.detect import SearchedAgain
    from braggflow.pipeline import ChunkPeaks

# What searches is imported where it is needed: it takes seconds to load, and the first picture does not wait for it.

#: Frames that are kept in memory, so that going back and forth reads none again.
_KEPT_FRAMES = 4
#: The name of frames that came from no file.
IN_MEMORY = "array"

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ShownFrame:
    """One frame as it is looked at."""

    position: int
    number: int
    opened: OpenedSeries
    raw: NDArray[Any]
    counts: Picture
    """After correction and binning, NaN where a pixel is ignored."""

    @cached_property
    def seen(self) -> SearchedFrame:
        """As the search sees it; made when it is asked for."""
        return read_run_frame(self.opened, self.number, self.raw)

    @cached_property
    def above(self) -> Picture:
        """What is above the background that the search subtracts."""
        return Picture(self.seen.searched, self.seen.bin)

    @cached_property
    def background(self) -> Picture:
        """What the search subtracts."""
        return Picture(self.counts.image - self.seen.searched, self.seen.bin)

    @cached_property
    def foreground(self) -> Picture:
        """What is above the background and not below the level from which maxima are looked for; 0 elsewhere."""
        searched = self.seen.searched
        return Picture(np.where(searched < self.seen.floor, np.float32(0), searched), self.seen.bin)

    def words_at(self, y: float, x: float) -> str:
        """The pixel below a place (pixels of the detector), and its counts; "" beyond the frame."""
        row, column = round(y), round(x)
        raw = self.seen.raw
        if not (0 <= row < raw.shape[0] and 0 <= column < raw.shape[1]):
            return ""
        at = (
            min(row // self.seen.bin, self.counts.image.shape[0] - 1),
            min(column // self.seen.bin, self.counts.image.shape[1] - 1),
        )
        counts, above = self.counts.image[at], self.seen.searched[at]
        told = f"y {row}, x {column}: {raw[row, column]:g} counts"
        if not np.isfinite(counts):
            return f"{told}, ignored"
        if counts != raw[row, column]:
            told += f", {counts:.6g} corrected"
        return f"{told}, {above:.4g} above background"


@dataclass(frozen=True)
class Detected:
    """The maxima of a frame, before what is around them was looked at."""

    table: peak_table.Table
    patches: "Callable[[], ChunkPeaks]"
    """Cuts their patches, and drops those that are too faint in them."""
    config: RunConfig

    @property
    def all_count(self) -> bool:
        """No maximum will be dropped for what its patch shows."""
        return self.config.detect.min_snr == 0

    def at_maxima(self) -> Columns:
        """Peaks that are not located yet, at the pixels of their maxima."""
        table, scale = self.table, self.config.frames.bin
        return _columns(table) | {"y": unbinned(table["y_pixel"], scale), "x": unbinned(table["x_pixel"], scale)}


@dataclass
class Viewed:
    """A series of frames with the settings that its peaks are looked for with."""

    name: str
    """As the user gave it."""
    opened: OpenedSeries
    asked: RunConfig
    """The configuration, constants of the detector as they were asked for (`auto`)."""
    run: Run | None = None
    notes: tuple[str, ...] = ()
    """What the user should know of constants of the detector that were found."""
    kept_constants: Mapping[str, Any] | None = None
    _frames: "OrderedDict[int, ShownFrame]" = field(default_factory=OrderedDict, repr=False)
    _searches: "OrderedDict[int, tuple[NDArray[Any], SearchedAgain]]" = field(default_factory=OrderedDict, repr=False)
    """By position: of which counts (those of a series that is written may change), and the search."""

    @property
    def title(self) -> str:
        """The name of what is shown, without the folder that it lies in."""
        file, colon, inner = self.name.partition(":/")
        return Path(file).name + colon + inner

    @property
    def source(self) -> str | None:
        """What a run is started on: the frames' own path, also where a run of them is looked at; None in memory."""
        if self.run is not None:
            return str(self.run.info["dataset"]["path"])
        return self.name if self.name != IN_MEMORY else None

    @property
    def store(self) -> Path | None:
        """The frames store; None where frames are read from other files or from memory."""
        path = Path(self.source or "")
        return path if path.suffix == ".zarr" and path.is_dir() else None

    @property
    def numbers(self) -> list[int]:
        """The frames' numbers, by position."""
        return self.opened.numbers

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the detector."""
        rows, columns = self.opened.data["frames"].shape[1:]
        return int(rows), int(columns)

    @cached_property
    def table(self) -> xr.Dataset | None:
        """The run's peaks; None where there is no run."""
        return None if self.run is None else self.run.peaks

    @cached_property
    def followed(self) -> Followed | None:
        """The tracks of the run's peaks; None where there are none."""
        return followed_of(self.run)

    def frame(self, position: int) -> ShownFrame:
        """The frame at a position; raises `InputError` where it cannot be read."""
        if position not in self._frames:
            try:
                raw = self.opened.raw(position)
                corrected = self.opened.corrected(raw)
            except (OSError, ValueError, RuntimeError, ArithmeticError) as error:
                raise InputError(f"frame {self.numbers[position]}: {error}") from error
            counts = corrected.counts.astype(np.float32)
            counts[corrected.mask] = np.nan
            picture = Picture(counts, self.opened.correction.bin)
            self._frames[position] = ShownFrame(position, self.numbers[position], self.opened, raw, picture)
            while len(self._frames) > _KEPT_FRAMES:
                self._frames.popitem(last=False)
        self._frames.move_to_end(position)
        return self._frames[position]

    def coordinates(self, position: int) -> list[tuple[str, str]]:
        """Names and values, with their units, of the frame's coordinates."""
        data, at = self.opened.data, int(self.opened.positions[position])
        found = []
        for name, coordinate in data.coords.items():
            if coordinate.dims != ("frame",) or name == "frame":
                continue
            value = coordinate.values[at]
            told = f"{value:.6g}" if np.issubdtype(coordinate.dtype, np.floating) else str(value)
            units = str(coordinate.attrs.get("units", ""))
            found.append((str(name), f"{told} {units}".strip()))
        return found

    def position_of(self, text: str) -> int:
        """The position of the frame that a visitor names: its number, or a coordinate and its value (the nearest one).

        Raises `InputError` where there is none of this name.
        """
        name, _, value = text.strip().rpartition(" ")
        try:
            wanted = float(value)
        except ValueError:
            raise InputError(f"go to: {text!r} is not accepted; a frame's number, or a coordinate: omega 3.5") from None
        if not name:
            values = np.asarray(self.numbers, np.float64)
        else:
            coordinate = self.opened.data.coords.get(name.strip())
            if coordinate is None or coordinate.dims != ("frame",) or coordinate.dtype.kind not in "iuf":
                there = [key for key, _ in self.coordinates(0)]
                raise InputError(
                    f"go to: {name!r} is no number that frames have; there are: {', '.join(there) or 'none'}"
                )
            values = coordinate.values[self.opened.positions].astype(np.float64)
        return int(np.nanargmin(np.abs(values - wanted)))

    def peaks_of_run(self, position: int) -> Columns | None:
        """The run's rows of a frame; None where there is no run, or it could not process the frame."""
        if self.table is None:
            return None
        number = self.numbers[position]
        if number not in self.table["frame"].values or int(self.table["frame_failed"].sel(frame=number)):
            return None
        rows = self.table.sel(peak_frame=number).load()
        return {name: rows[name].values for name in peak_table.VARIABLES if name in rows}

    def search(self, position: int) -> Columns:
        """The peaks of a frame by the settings as they are now: exactly those that `run` finds with them.

        Raises `InputError` with the reason where the frame cannot be processed.
        """
        from braggflow.pipeline import search_chunk

        return self.located(_maxima(search_chunk(self.opened, position, position + 1)))

    def detected(self, frame: ShownFrame) -> Detected:
        """The first part of a search, by far the shortest one of a frame with many peaks: its maxima.

        By levels and filters alone no search is made anew; `area` may then be 0. Raises as `search` does.
        """
        from braggflow.detect import Detection, SearchedAgain
        from braggflow.pipeline import search_frames

        searched, search = self._searches.pop(frame.position, (None, None))
        if search is None or searched is not frame.raw:
            search = SearchedAgain()
        self._searches[frame.position] = frame.raw, search
        while len(self._searches) > _KEPT_FRAMES:
            self._searches.popitem(last=False)
        made = list[Detection]()

        def first(*frames: Any, **settings: Any) -> Detection:
            made.append(search(*frames, **settings))
            return made[-1]

        def again(*_: Any, **__: Any) -> Detection:
            return made[-1]

        look = partial(search_frames, self.opened, [frame.number], frame.raw[None])
        found = _maxima(look(detector=first, cut=False))
        return Detected(found.table, lambda: _maxima(look(detector=again)), self.opened.config)

    def located(self, found: "ChunkPeaks") -> Columns:
        """The last part: positions, fits, peaks that have no maximum of their own."""
        from braggflow.pipeline import complete_peaks, locate_peaks, on_cpu

        config = on_cpu(self.opened.config)
        return _columns(peak_table.sort(complete_peaks(config, [found], locate_peaks(config, [found]))[0]))

    def contradictions(self) -> tuple[str, ...]:
        """Where the frames' noise is not what constants make of it that were given, a sentence; it reads frames."""
        asked = self.asked.frames
        if self.run is not None or isinstance(asked.counts_per_photon, str) or isinstance(asked.read_noise, str):
            return ()
        return contradictions(self.opened)

    def with_settings(self, sections: Mapping[str, Mapping[str, Any]]) -> "Viewed":
        """The same series with keys of some sections changed.

        Raises `InputError` where a value is not accepted, with the key, the value, and what is.
        """
        plain = self.asked.model_dump(mode="json")
        for section, keys in sections.items():
            plain[section] = {**plain[section], **keys}
        asked = resolve_config(plain, source="settings")
        if asked == self.asked:
            return self
        same_constants = all(
            getattr(asked.frames, key) == getattr(self.asked.frames, key)
            for key in ("counts_per_photon", "read_noise", "find_bad_pixels")
        )
        kept = self.kept_constants if same_constants else None
        same_counts = asked.frames == self.asked.frames
        if same_counts:  # the correction is as it was
            background = read_background_frame(self.opened.data, asked)
            geometry = searched_geometry(self.opened.data, asked)
            opened = replace(self.opened, config=asked, background_frame=background, geometry=geometry)
        else:
            opened = open_series(self.opened.data, asked)
        opened, constants = settled_constants(opened, kept)
        frames, searches = OrderedDict[int, ShownFrame](), type(self._searches)()
        if same_counts:
            frames = OrderedDict((at, replace(frame, opened=opened)) for at, frame in self._frames.items())
            searches = self._searches
        known = constants.record()
        return replace(self, opened=opened, asked=asked, kept_constants=known, _frames=frames, _searches=searches)


def _maxima(found: "ChunkPeaks") -> "ChunkPeaks":
    """What was found in a frame; raises `InputError` with the reason where it cannot be searched."""
    for failure in found.failures:
        raise InputError(f"frame {failure['frame']}: {failure['reason']}")
    return found


def _columns(table: peak_table.Table) -> dict[str, NDArray[Any]]:
    return {name: table[name] for name in peak_table.VARIABLES}


def open_viewed(
    source: "Run | str | Path | xr.Dataset | xr.DataArray | NDArray[Any]",
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
) -> Viewed:
    """Open what is to be looked at.

    A run brings its own settings, which `config` may not change. Raises `InputError` as `open_run` and `preview` do.
    """
    if isinstance(source, str | Path) and (Path(source) / "run.json").exists():
        source = open_run(source)
    if isinstance(source, Run):
        if config is not None:
            raise InputError(f"{source.path}: is a run, which brings its own configuration; leave out --config")
        opened = open_run_frames(RunFolder(source.path))
        kept = source.info.get("detector")
        return Viewed(str(source.path), opened, opened.config, source, kept_constants=kept)
    settings = as_config(config if config is not None else {})
    in_memory = isinstance(source, xr.Dataset | xr.DataArray | np.ndarray)
    data = frames_from_array(source) if in_memory else open_source(source)  # type: ignore[arg-type]
    name = IN_MEMORY if in_memory else str(source)
    opened, constants = settled_constants(open_series(data, settings))
    if not opened.numbers:
        raise InputError(f"frames.start: {settings.frames.start} selects none of the frames of {name}")
    return Viewed(name, opened, settings, notes=constants.notes, kept_constants=constants.record())
