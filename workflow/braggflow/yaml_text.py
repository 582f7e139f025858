"""YAML that people write: read as YAML means it, or refused in one sentence that says where and why."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from braggflow.errors import InputError

#: No file of settings is so large; one that is holds something else.
_MOST_BYTES = 2**20
#: Values that a file may have once its aliases are resolved: a few lines of aliases of aliases stand for billions.
_MOST_VALUES = 100_000
#: What PyYAML raises of values that cannot be (a month 13, `!!int foo`, a number of 5,000 digits, 5,000 brackets).
_OF_YAML = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, to which a key that is given twice is a mistake, as YAML says and PyYAML does not."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except yaml.YAMLError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise yaml.constructor.ConstructorError(None, None, _reason(node, error), node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):  # `!!map` may stand before anything
            lines: dict[str, int] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                line = key.start_mark.line + 1
                if key.value in lines:
                    where = f"in line {line}" if lines[key.value] == line else f"in lines {lines[key.value]} and {line}"
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} is given twice, {where}")
                lines[key.value] = line
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path, what: str) -> object:
    """The content of a YAML file; `what` it is stands in the message of the `InputError` for one that is not read."""
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise InputError(f"{what} {path}: has {size / 1e6:,.1f} MB; no file of settings has more than 1")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{what} {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path}: is not a UTF-8 text file") from error
    return parse_yaml(text, f"{what} {path}")


def parse_yaml(text: str, what: str) -> object:
    """What a YAML text says; raises `InputError`, beginning with `what` it is, where that is no YAML or cannot be."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _values(node, {}) > _MOST_VALUES:
                raise InputError(f"{what}: has more than {_MOST_VALUES:,} values once its aliases are resolved")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError as error:
        raise InputError(f"{what}: is not valid YAML: it is nested too deeply") from error
    except _OF_YAML as error:
        raise InputError(f"{what}: is not valid YAML: {_one_line(error)}") from error


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, those of aliases each time; `known` are those of nodes gone through."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST_VALUES + 1  # of one that holds itself
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    return known[id(node)]


def _reason(node: yaml.Node, error: Exception) -> str:
    kind = node.tag.rpartition(":")[2]
    value = node.value if isinstance(node.value, str) and len(node.value) <= 40 else "the value"
    said = f" ({error})" if isinstance(error, ValueError) and kind == "timestamp" else ""
    meant = {"timestamp": "date"}.get(kind, kind)
    return f"{value} is no {meant}{said}; in quotes it is a text"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# ---- values that may be written in several ways ----

_SIGMA = re.compile(r"\s*(?P<multiple>[\d.]+(?:[eE][-+]?\d+)?)\s*(?:sigma|σ)\s*")
#: `{sigma:6}`, which YAML takes for a key of this name without a value.
_SIGMA_KEY = re.compile(r"sigma:(?P<multiple>[\d.]+(?:[eE][-+]?\d+)?)")


def level(value: object) -> object:
    """`6 sigma` is another way to write {sigma: 6}, and so is {sigma:6}."""
    if isinstance(value, dict) and len(value) == 1:
        ((key, nothing),) = value.items()
        matched = _SIGMA_KEY.fullmatch(key) if isinstance(key, str) and nothing is None else None
    else:
        matched = _SIGMA.fullmatch(value) if isinstance(value, str) else None
    return value if matched is None else {"sigma": matched["multiple"]}


_MEMORY = re.compile(r"\d+(?:\.\d*)?\s*(?:[kmgtp]i?)?b?", re.I)


def memory_size(value: object) -> object:
    """A size in bytes, with a unit or without; raises `ValueError` for what is none."""
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if text == "auto" or (_MEMORY.fullmatch(text) and float(re.sub(r"[^\d.].*", "", text)) > 0):
        return text
    raise ValueError(f"{value!r} is no size of memory; must be auto, or a number with a unit: 4GiB, 4GB, 500MB")


def rising(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits as they are; raises `ValueError` where the second is not above the first."""
    low, high = limits
    if not low < high:
        raise ValueError(f"[{low}, {high}] is not accepted; must be from a value to a higher one")
    return limits
