"""What a sweep found: the map, the recommended setting and its reason, pictures and files of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import yaml
from numpy.typing import NDArray

from braggflow.config import DetectConfig, RunConfig
from braggflow.errors import InputError
from braggflow.sweeps.levels import NAMES, Level, Levels, as_settings, height, in_words, own_levels, shown, units
from braggflow.sweeps.measuring import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Columns of `Sweep.rows`, beside the levels: head, variable of the map, how it is written.
_COLUMNS = (
    ("peaks a frame", "peaks_median", "{:.4g}"),
    ("5 %", "peaks_low", "{:.4g}"),
    ("95 %", "peaks_high", "{:.4g}"),
    ("persist, %", "persistence", "{:.1f}"),
    ("repeatability", "repeatability", "{:.2f}"),
    ("distance, px", "distance_median", "{:.3f}"),
    ("95 %, px", "distance_95", "{:.3f}"),
    ("false, at most", "expected_false_peaks", "{:.2g}"),
)


@dataclass(frozen=True)
class Sweep:
    """How the peaks of a series depend on the levels, as `sweep` finds it; a notebook shows the picture and the reason.

    Attributes
    ----------
    source : str
        What was looked at.
    config : RunConfig
        The configuration whose levels were varied.
    map : xarray.Dataset
        Dimensions minval, minscore and false_peaks (NaN: null, no such cut). Of each setting, over the frames that were
        looked at: `peaks_median`, `peaks_low`, `peaks_high` (5 and 95 %) and `peaks_mean` a frame; `persistence`, the
        share of the `peaks_followed` that are found again in the next frame, less what chance does; `repeatability`,
        the scatter of the positions of two halves of the pixels over the stated one; `distance_median` and
        `distance_95` of network and fit, pixels; `expected_false_peaks` a frame, at most; `frames_failed`. With the
        dimension frame too: `peak_count`, `persistence_of_frame` (chance not taken off), `distance_of_frame`,
        `frame_failed`.
    levels : Levels
        The levels as the configuration has them.
    place : tuple of int or None
        Where the recommended setting stands in the map; None where no setting finds a peak.
    reason : str
        Why it is recommended, in words.
    frames_of_series : int
        Frames that the configuration selects, of which some were looked at.

    Examples
    --------
    >>> import braggflow
    >>> from braggflow.simulate import simulate_series
    >>> truth = simulate_series("scan.zarr", n_frames=6, shape=(96, 96), peaks=4)
    >>> found = braggflow.sweep("scan.zarr", {"detect": {"false_peaks": 10}}, false_peaks=[0.01, 0.1, 1], frames=4)
    >>> sorted(found.recommended["detect"])
    ['false_peaks']
    >>> found.plot_settings([{"false_peaks": 0.01}, {"false_peaks": 1}]).savefig("settings.png")
    """

    source: str
    config: RunConfig
    map: xr.Dataset
    levels: Levels
    place: tuple[int, ...] | None
    reason: str
    frames_of_series: int

    @property
    def recommended(self) -> dict[str, Any]:
        """The recommended setting as plain data, with only what differs from the configuration: {} where nothing does.

        {"detect": {"false_peaks": 0.01}}, for one: what a configuration file holds.
        """
        if self.place is None or self.levels.place_of(self.config.detect) == self.place:
            return {}
        wanted, own = as_settings(self._at(self.place)), as_settings(own_levels(self.config.detect))
        return {"detect": {name: level for name, level in wanted.items() if level != own[name]}}

    @property
    def recommended_config(self) -> RunConfig:
        """The configuration with the recommended setting."""
        if self.place is None:
            return self.config
        levels = dict(zip(NAMES, self._at(self.place), strict=True))
        return self.config.model_copy(update={"detect": self.config.detect.model_copy(update=levels)})

    def recommended_yaml(self) -> str:
        """The recommended setting as a configuration file, with the reason as a comment."""
        told = [f"# {line}" for line in self.reason.splitlines()]
        changed = self.recommended
        if not changed:
            return "\n".join([*told, *(["# The configuration has it already."] if self.place else []), ""])
        return "\n".join([*told, yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)])

    @cached_property
    def figure(self) -> "Figure":
        """The map and, along each level through the recommended setting, peaks, persistence and distance."""
        from braggflow.sweeps.pictures import map_figure  # matplotlib takes half a second

        own = self.levels.place_of(self.config.detect)
        title = self.reason if self.place is None else f"recommended: {self.words_of(self.place)}"
        return map_figure(self.map, self.levels, recommended=self.place, own=own, title=title)

    def plot_settings(self, settings: Sequence[Mapping[str, Any]] | None = None) -> "Figure":
        """Peaks, share that persists and median network–fit distance of each frame against its number, for settings.

        Parameters
        ----------
        settings : sequence of mapping, optional
            Any number of settings of the map, each by `minval`, `minscore` and `false_peaks`; those left out are the
            configuration's. Default: the configuration's setting, and the recommended one.

        Returns
        -------
        matplotlib.figure.Figure
            Three panels, a curve a setting in each.

        Raises
        ------
        InputError
            Where a setting is not in the map.
        """
        from braggflow.sweeps.pictures import settings_figure

        if settings is not None:
            places = [self.place_of(**setting) for setting in settings]
        else:
            own = self.levels.place_of(self.config.detect)
            places = list(dict.fromkeys(place for place in (own, self.place) if place is not None))
        if not places:
            raise InputError("settings: none is given, and no setting is recommended")
        return settings_figure(self.map, {place: self.words_of(place) for place in places})

    def place_of(self, **levels: Any) -> tuple[int, ...]:
        """Where a setting stands in the map: levels that are left out are the configuration's.

        Raises `InputError` where it is not in the map.
        """
        if unknown := sorted(levels.keys() - set(NAMES)):
            raise InputError(f"setting: {unknown[0]} is not a level; accepted: {', '.join(NAMES)}")
        try:
            setting = DetectConfig.model_validate({**self.config.detect.model_dump(mode="json"), **levels})
        except ValueError as error:
            raise InputError(f"setting {levels}: is not accepted ({error})") from error
        place = self.levels.place_of(setting)
        if place is None:
            there = "; ".join(f"{name} {', '.join(map(shown, getattr(self.levels, name)))}" for name in NAMES)
            raise InputError(f"setting {levels}: is not in the map, which has {there}")
        return place

    def words_of(self, place: Sequence[int]) -> str:
        """A setting of the map as text."""
        return in_words(self._at(place))

    def _at(self, place: Sequence[int]) -> list[Level]:
        return [of[at] for of, at in zip(self.levels, place, strict=True)]

    #: Heads of what `rows` gives.
    columns = (*NAMES, *(head for head, _, _ in _COLUMNS))

    def rows(self, places: Sequence[Sequence[int]] | None = None) -> list[tuple[str, ...]]:
        """The settings (default: all of the map, in its order) as text, a cell for each of `columns`; –: not known."""
        found = []
        for place in np.ndindex(*self.levels.shape) if places is None else places:
            cells = [shown(level) for level in self._at(place)]
            for _, name, form in _COLUMNS:
                value = float(self.map[name].values[tuple(place)]) * (100 if name == "persistence" else 1)
                cells.append(form.format(value) if np.isfinite(value) else "–")
            found.append(tuple(cells))
        return found

    def along(self) -> list[tuple[int, ...]]:
        """The settings that differ from the recommended one in one level at most, in the order of the map."""
        if self.place is None:
            return []
        middle = np.array(self.place)
        return [place for place in np.ndindex(*self.levels.shape) if np.count_nonzero(middle != place) <= 1]

    def as_dict(self) -> dict[str, Any]:
        """The map without its frames, the recommended setting and the reason, as plain data; None: not known."""

        def plain(values: NDArray[Any]) -> Any:
            return np.where(np.isfinite(values), values, None).tolist()  # type: ignore[call-overload]

        return {
            "source": self.source,
            "frames": self.map["frame"].values.tolist(),
            "frames_of_series": self.frames_of_series,
            "levels": {name: [_plain(level) for level in getattr(self.levels, name)] for name in NAMES},
            "map": {str(name): plain(v.values) for name, v in self.map.data_vars.items() if "frame" not in v.dims},
            "recommended": None if self.place is None else as_settings(self._at(self.place)),
            "differs": self.recommended,
            "reason": self.reason,
        }

    def write(self, folder: str | Path) -> dict[str, Path]:
        """Write sweep.html, sweep.png, sweep.csv and recommended.yaml into a folder, which is made; returns the paths.

        Raises `InputError` where they cannot be written.
        """
        from braggflow.sweeps.page import as_csv, as_png, page, write_files

        looked = f"{self.map.sizes['frame']:,} of {self.frames_of_series:,} frames were looked at."
        settings = None if self.place is None else self.plot_settings()
        whole = page(self.source, looked, self._as_html(None), settings, self.recommended_yaml())
        contents = {
            "sweep.html": whole.encode(),
            "sweep.png": as_png(self.figure),
            "sweep.csv": as_csv(self.map, self.levels, self.place).encode(),
            "recommended.yaml": self.recommended_yaml().encode(),
        }
        return write_files(Path(folder), contents)

    def __repr__(self) -> str:
        n = int(np.prod(self.levels.shape))
        return (
            f"<braggflow sweep of {self.source}: {n:,} setting{'s' * (n != 1)} in {self.map.sizes['frame']:,} of "
            f"{self.frames_of_series:,} frames; {self.reason}>"
        )

    def _repr_html_(self) -> str:
        return self._as_html(self.along())

    def _as_html(self, places: Sequence[tuple[int, ...]] | None) -> str:
        """Reason, picture, and the table of some settings (default: all)."""
        from braggflow.sweeps.page import as_html

        places = list(np.ndindex(*self.levels.shape)) if places is None else places
        marked = places.index(self.place) if self.place in places else None
        return as_html(self.reason, self.figure, self.map.attrs["radius"], [self.columns, *self.rows(places)], marked)


def _plain(level: Level) -> Any:
    return as_settings((level, None, None))["minval"]


def map_of(measured: Measured, levels: Levels, coords: xr.Dataset) -> xr.Dataset:
    """The map of `Sweep`, from what was measured of each setting in its order."""
    shape = levels.shape

    def of_settings(values: NDArray[Any], units: str, long_name: str) -> Any:
        return NAMES, np.asarray(values).reshape(shape), {"units": units, "long_name": long_name}

    def of_frames(values: NDArray[Any], units: str, long_name: str) -> Any:
        return (*NAMES, "frame"), values.reshape(*shape, -1), {"units": units, "long_name": long_name}

    low, median, high, mean = _over_frames(measured)
    peaks, persisted, by_chance = measured.persisted.T
    with np.errstate(divide="ignore", invalid="ignore"):
        share, chance = persisted / peaks, by_chance / peaks
        less_chance = np.maximum((share - chance) / (1 - chance), 0)
    false = np.array([height(setting[2]) for setting in _each(levels)])
    megapixels = np.mean([pixels for pixels in measured.pixels if pixels] or [0]) / 1e6
    dimensions = {
        "minval": (units(levels.minval), "pixels below it are set to 0"),
        "minscore": (units(levels.minscore), "peaks whose persistence is not above it are dropped"),
        "false_peaks": ("1e-6 pixel-1", "false peaks expected in a megapixel"),
    }
    axes = {
        name: (
            name,
            [height(level) for level in getattr(levels, name)],
            {"units": unit, "long_name": f"{text}; NaN: null"},
        )
        for name, (unit, text) in dimensions.items()
    }
    return (
        coords.assign_coords(axes)
        .assign(
            peaks_median=of_settings(median, "1", "peaks a frame, median"),
            peaks_low=of_settings(low, "1", "peaks a frame, 5 %"),
            peaks_high=of_settings(high, "1", "peaks a frame, 95 %"),
            peaks_mean=of_settings(mean, "1", "peaks a frame, mean"),
            persistence=of_settings(less_chance, "1", "share that persists into the next frame, less chance"),
            peaks_followed=of_settings(peaks, "1", "peaks whose next frame was looked at too"),
            repeatability=of_settings(
                measured.repeatability, "1", "scatter of two halves' positions over the stated one"
            ),
            distance_median=of_settings(measured.distances.quantile(0.5), "pixel", "network–fit distance, median"),
            distance_95=of_settings(measured.distances.quantile(0.95), "pixel", "network–fit distance, 95 %"),
            expected_false_peaks=of_settings(false * megapixels, "1", "false peaks expected a frame, at most"),
            frames_failed=of_settings(measured.failed.sum(axis=1), "1", "frames that could not be processed"),
            peak_count=of_frames(measured.counts, "1", "peaks in the frame"),
            persistence_of_frame=of_frames(
                measured.persisting, "1", "share of its peaks that persists into the next frame"
            ),
            distance_of_frame=of_frames(measured.distance, "pixel", "network–fit distance, median of the frame"),
            frame_failed=of_frames(measured.failed.astype(np.int8), "1", "1: could not be processed"),
        )
        .assign_attrs(radius=measured.radius)
    )


def _each(levels: Levels) -> list[tuple[Level, ...]]:
    return [tuple(of[at] for of, at in zip(levels, place, strict=True)) for place in np.ndindex(*levels.shape)]


def _over_frames(measured: Measured) -> NDArray[np.float64]:
    """5 %, median, 95 % and mean of the peaks a frame of each setting, (4, n); NaN where every frame fails."""
    result = np.full((4, measured.n), np.nan)
    for at, (counts, failed) in enumerate(zip(measured.counts, measured.failed, strict=True)):
        whole = counts[~failed]
        if len(whole):
            result[:, at] = *np.quantile(whole, (0.05, 0.5, 0.95)), whole.mean()
    return result
