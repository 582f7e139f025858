"""What is said of settings that are refused: the key, its value, what is accepted, and what was probably meant."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def validation_messages(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line a problem of data checked against `root`: key, value, what is accepted."""
    lines: dict[str, str] = {}
    for problem in error.errors():
        # A union reports each branch that failed; the branch names are not keys.
        location = [str(part) for part in problem["loc"] if part not in ("float", "NoiseMultiple", "literal['auto']")]
        key = ".".join(location) or "(top level)"
        model = _model_at(root, location[:-1])
        if problem["type"] == "extra_forbidden" and model is not None:
            hint = _meant(location, model, root, problem["input"])
            lines[key] = f"{key}: unknown key (value {_value(problem)}); accepted: {accepted_keys(model)}.{hint}"
        elif problem["type"] == "missing":
            lines[key] = f"{key}: is missing"
        elif _is_level(location):
            level = ".".join(location[:2])
            lines[level] = (
                f"{level}: {_value(problem)} is not accepted; must be a number (counts) or "
                "'6 sigma' or {sigma: 6} (multiples of the noise, above 0)"
            )
        elif tuple(location) in _AUTO_FROM:
            least = _AUTO_FROM[location[0], location[1]]
            lines[key] = f"{key}: {_value(problem)} is not accepted; must be a number {least}, or auto"
        elif problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
            section = _model_at(root, location)
            keys = f" with keys ({accepted_keys(section)})" if section is not None else ""
            blank = _without_blank(problem["input"])
            lines[key] = f"{key}: {_value(problem)} is not accepted; must be a section{keys}{blank}"
        else:
            what = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "value_error":  # our own sentence names the key and its value
                between = ": " if _model_at(root, location) is None else "." if location else ""
                lines[key] = f"{key if location else ''}{between}{what}"
                continue
            lines[key] = f"{key}: {_value(problem)} is not accepted; {what[:1].lower()}{what[1:]}"
    return list(lines.values())


#: A key and its value with no blank between, which YAML takes for one text.
_NO_BLANK = re.compile(r"(\w+):(\S.*)?")


def _without_blank(text: object) -> str:
    matched = _NO_BLANK.fullmatch(text) if isinstance(text, str) else None
    return f". YAML needs a blank after the colon: {matched[1]}: {matched[2] or '...'}" if matched else ""


def _meant(location: Sequence[str], model: type[BaseModel], root: type[BaseModel], value: object) -> str:
    """What an unknown key was probably meant to be: one of its section, or one of another."""
    key = location[-1]
    if value is None and (blank := _without_blank(key)):
        return blank.removeprefix(".")
    elsewhere = dict(_keys_of_sections(root))
    if key in elsewhere:
        return f" Did you mean {elsewhere[key]}?"
    if close := difflib.get_close_matches(key, model.model_fields, n=1):
        return f" Did you mean {close[0]}?"
    close = difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.75)
    return f" Did you mean {elsewhere[close[0]]}?" if close else ""


def _keys_of_sections(root: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Each key of a section with its whole name."""
    for name in root.model_fields:
        section = _model_at(root, [name])
        for key in section.model_fields if section is not None else ():
            yield key, f"{name}.{key}"


#: Keys that take `auto` beside a number.
_AUTO_FROM = {("frames", "counts_per_photon"): "above 0", ("frames", "read_noise"): "of 0 or more"}


def _value(problem: Any) -> str:
    value = problem["input"]
    return "value" if isinstance(value, BaseModel) or len(repr(value)) > 200 else repr(value)


def _is_level(location: Sequence[str]) -> bool:
    return tuple(location[:2]) in {("detect", "minval"), ("detect", "minscore")}


def _model_at(root: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    model = root
    for part in location:
        field = model.model_fields.get(part)
        if field is None:
            return None
        candidates = [field.annotation, *get_args(field.annotation)]
        inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not inner:
            return None
        model = inner[0]
    return model


def accepted_keys(model: type[BaseModel]) -> str:
    """The keys of a section, in their order."""
    return ", ".join(model.model_fields)
