"""The levels of a sweep: values of `minval`, `minscore` and `false_peaks`, and the settings that they make."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from braggflow.config import DetectConfig, NoiseMultiple, resolve_config
from braggflow.errors import InputError

#: A level as the configuration has it; None: no such cut.
Level: TypeAlias = float | NoiseMultiple | None
#: The same as a user gives it.
GivenLevel: TypeAlias = float | str | NoiseMultiple | Mapping[str, float] | None
#: The names of the levels, in the order of the map's dimensions.
NAMES = ("minval", "minscore", "false_peaks")
#: Levels that are looked at where none is given: false peaks a megapixel; in counts, multiples of the lowest peak's; in
#: multiples of the noise.
_FALSE_PEAKS = (0.001, 0.01, 0.1, 1.0, 10.0)
_OF_LOWEST = (1.0, 2.0, 4.0, 8.0)
_MINVAL_SIGMA, _MINSCORE_SIGMA = (4.0, 5.0, 6.0, 8.0, 11.0, 16.0), (2.0, 3.0, 4.0, 6.0, 9.0, 13.0)
#: Of the maxima, the lowest share that are not the lowest peak.
_LOWEST = 0.01


class Levels(NamedTuple):
    """The levels of each dimension of the map, loosest first; of `false_peaks` the strictest, null last."""

    minval: tuple[Level, ...]
    minscore: tuple[Level, ...]
    false_peaks: tuple[Level, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the map."""
        return len(self.minval), len(self.minscore), len(self.false_peaks)

    def settings(self, config: DetectConfig) -> list[DetectConfig]:
        """The settings of the map in its order, each with what else `config` has."""
        return [config.model_copy(update=dict(zip(NAMES, levels, strict=True))) for levels in product(*self)]

    def place_of(self, config: DetectConfig) -> tuple[int, ...] | None:
        """Where the levels of a configuration stand in the map, None where they are not in it."""
        literal = config.minval, config.minscore, config.false_peaks
        for wanted in (literal, own_levels(config)):
            if all(level in levels for levels, level in zip(self, wanted, strict=True)):
                return tuple(levels.index(level) for levels, level in zip(self, wanted, strict=True))
        return None


def own_levels(config: DetectConfig) -> tuple[Level, Level, Level]:
    """`minval`, `minscore` and `false_peaks` of a configuration, those that null stands for written out."""
    if config.false_peaks is None:
        return (*config.levels(), None)
    return config.minval, config.minscore, config.false_peaks


def given_levels(config: DetectConfig, **given: Sequence[GivenLevel] | None) -> Levels:
    """The levels of a sweep as a user gave them, in order; of those not given the configuration's own.

    Raises `InputError` where one is not accepted, or where counts and multiples of the noise are mixed.
    """
    found: dict[str, tuple[Level, ...]] = {}
    for name, own in zip(NAMES, own_levels(config), strict=True):
        values = given[name]
        if values is None:
            found[name] = (own,)
            continue
        if isinstance(values, str | Mapping | NoiseMultiple) or not np.iterable(values):
            raise InputError(f"sweep: {name}: {values!r} is not accepted; must be a list of levels")
        checked = [_checked(name, value, config) for value in values]
        if not checked:
            raise InputError(f"sweep: {name}: is an empty list; must have one level or more (null: no such cut)")
        found[name] = in_order(checked, last=name == "false_peaks")
        if len({type(level) for level in checked if level is not None}) > 1:
            raise InputError(f"sweep: {name}: mixes counts and multiples of the noise; must be all of one kind")
    return Levels(**found)


def _checked(name: str, value: GivenLevel, config: DetectConfig) -> Level:
    section = {**config.model_dump(mode="json"), name: value}
    level: Level = getattr(resolve_config({"detect": section}, source="sweep").detect, name)
    return level


def in_order(levels: Sequence[Level], *, last: bool = False) -> tuple[Level, ...]:
    """The levels, each once, ascending; null is the first, or the `last`."""
    null = [None] if None in levels else []
    ordered = sorted({level for level in levels if level is not None}, key=height)
    return (*ordered, *null) if last else (*null, *ordered)


def height(level: Level) -> float:
    """A level as a number: counts, multiples of the noise, or false peaks; NaN: null."""
    if level is None:
        return float("nan")
    return level.sigma if isinstance(level, NoiseMultiple) else float(level)


def units(levels: Sequence[Level]) -> str:
    """What the numbers of `minval` or `minscore` are: count or sigma."""
    return "sigma" if any(isinstance(level, NoiseMultiple) for level in levels) else "count"


def usual_levels(config: DetectConfig, births: NDArray[Any], scores: NDArray[Any]) -> Levels:
    """The levels of a sweep of which none is given: those around the configuration's own.

    `births` and `scores` (n,) are those of the maxima that a search without further cuts finds in a few frames.
    """
    minval, minscore, false_peaks = own_levels(config)
    null: list[Level] = [] if false_peaks is None else [None]
    return Levels(
        in_order([*null, minval, *_around(minval, births, _MINVAL_SIGMA, false_peaks is None)]),
        in_order([*null, minscore, *_around(minscore, scores, _MINSCORE_SIGMA, false_peaks is None)]),
        (None,) if false_peaks is None else in_order([false_peaks, *_FALSE_PEAKS]),
    )


def _around(own: Level, of_peaks: NDArray[Any], multiples: Sequence[float], by_levels: bool) -> list[Level]:
    if isinstance(own, NoiseMultiple):
        return [NoiseMultiple(sigma=multiple) for multiple in multiples]
    if own is not None and by_levels:
        return [float(f"{own * factor:.2g}") for factor in (0.5, 0.7, 1.0, 1.4, 2.0)]
    if not len(of_peaks):
        return []
    lowest = float(np.quantile(of_peaks, _LOWEST))
    return [float(f"{lowest * factor:.2g}") for factor in _OF_LOWEST] if lowest > 0 else []


def as_settings(levels: Sequence[Level]) -> dict[str, Any]:
    """Levels of a setting as plain data, as the configuration's section `detect` takes them."""
    return {
        name: {"sigma": level.sigma} if isinstance(level, NoiseMultiple) else level
        for name, level in zip(NAMES, levels, strict=True)
    }


def in_words(levels: Sequence[Level]) -> str:
    """Levels of a setting as text: false_peaks 0.1, minval 20, minscore 3 sigma."""
    minval, minscore, false_peaks = levels
    told = ["false_peaks null" if false_peaks is None else f"false_peaks {height(false_peaks):g}"]
    for name, level in (("minval", minval), ("minscore", minscore)):
        told.append(f"no {name}" if level is None else f"{name} {shown(level)}")
    return ", ".join(told)


def shown(level: Level) -> str:
    """A level as text, – for none."""
    if level is None:
        return "–"
    return f"{height(level):g}{' sigma' if isinstance(level, NoiseMultiple) else ''}"
