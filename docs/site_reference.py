"""What the site's reference takes from the code: keys of configurations and profiles, and all commands (`make docs`).

A page says where it belongs by a comment: `<!-- made: configuration -->`.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from pydantic import BaseModel
from typer.cli import get_docs_for_click

import braggflow
from braggflow.cli import app
from braggflow.cluster.profiles import (
    AllocationProfile,
    BatchProfile,
    ExistingProfile,
    GpuGroup,
    JobGroup,
    JobOptions,
    LocalProfile,
)
from braggflow.config import RunConfig, Section

_MARK = re.compile(r"<!-- made: (?P<what>\w+) -->")
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
}


def configuration() -> str:
    """A table of keys for each section of the run configuration."""
    sections = ((name, type(field.default)) for name, field in RunConfig.model_fields.items())
    return "\n\n".join(_section(name, name, kind) for name, kind in sections if issubclass(kind, Section))


def profiles() -> str:
    """A table of keys for each kind of cluster profile, and for the groups of its jobs."""
    of_options = JobOptions.model_fields
    return "\n\n".join(
        [
            _section("kind: local", "", LocalProfile),
            _section("kind: existing", "", ExistingProfile),
            _section("kind: allocation", "", AllocationProfile),
            _section("kind: slurm, kind: pbs", "", BatchProfile, without=of_options),
            _section("Keys of a profile with jobs, or of one of its groups", "", JobOptions),
            _section("The group cpu", "cpu", JobGroup, without=of_options),
            _section("The group gpu", "gpu", GpuGroup, without=of_options),
        ]
    )


def commands() -> str:
    """Every command with its arguments and options, as `--help` shows them."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="braggflow")
    return text[text.index("\n## ") :].strip()  # before: the title, and all commands with shortened sentences


def doors() -> str:
    """A table of names for each wing that has a door."""
    folders = sorted(Path(braggflow.__file__).parent.glob("*/__init__.py"))
    return "\n\n".join(_door(import_module(f"braggflow.{folder.parent.name}")) for folder in folders)


def _door(wing: ModuleType) -> str:
    said = {name: inspect.getdoc(getattr(wing, name)) for name in wing.__all__ if _has_docstring(getattr(wing, name))}
    rows = [f"| `{name}` | {(text or '').partition(chr(10))[0]} |" for name, text in said.items()]
    if others := [f"`{name}`" for name in wing.__all__ if name not in said]:
        rows.append(f"| constants and types | {', '.join(others)} |")
    lines = [f"### {wing.__name__}", "", (wing.__doc__ or "").split("\n\n")[0], "", "| name | |", "|---|---|"]
    return "\n".join([*lines, *rows])


def _has_docstring(value: object) -> bool:
    return inspect.isclass(value) or inspect.isfunction(value)


MADE: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "profiles": profiles,
    "commands": commands,
    "doors": doors,
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put what is made in the place of its comment."""
    return _MARK.sub(lambda mark: MADE[mark["what"]](), markdown)


def _section(title: str, prefix: str, model: type[BaseModel], without: Collection[str] = ()) -> str:
    said = (model.__doc__ or "").split("\n\n")[0]
    lines = [f"### {title}", "", said, "", "| key | default | accepted | meaning |", "|---|---|---|---|"]
    return "\n".join([*lines, *_rows(prefix, model, without)])


def _rows(prefix: str, model: type[BaseModel], without: Collection[str]) -> Iterator[str]:
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        if name in without:
            continue
        key = f"{prefix}.{name}" if prefix else name
        stated = schema["properties"][name]
        default = "" if field.is_required() else f"`{_yaml(field.default)}`"
        yield f"| `{key}` | {default} | {_accepted(stated, schema.get('$defs', {}))} | {field.description} |"


def _yaml(value: object) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _accepted(schema: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """What a key takes, in words, from its JSON schema."""
    if "$ref" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return " or ".join(_accepted(part, known) for part in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "object" and "properties" not in schema:
        return f"names, each with {_accepted(schema['additionalProperties'], known)}"
    if schema.get("type") == "object":
        keys = (f"{key}: {_accepted(value, known)}" for key, value in schema["properties"].items())
        return "{" + ", ".join(keys) + "}" if len(schema["properties"]) == 1 else "a section, below"
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"a list: {', '.join(_accepted(value, known) for value in schema['prefixItems'])}"
        return f"a list, each {_accepted(schema['items'], known)}"
    bounds = " and ".join(f"{sign} {schema[name]:g}" for name, sign in _BOUNDS.items() if name in schema)
    return f"{_TYPES[schema['type']]} {bounds}".rstrip()
