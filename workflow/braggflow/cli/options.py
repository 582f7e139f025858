"""Options that several commands share, and what turns them into sections and files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from braggflow.config import Section
from braggflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping


#: Exit statuses.
COMPLETE, REFUSED, PARTIAL = 0, 2, 3


def _not_too_many(workers: int | None) -> int | None:
    if workers is not None:
        from braggflow.cluster import refuse_crowd

        refuse_crowd(workers, "--workers")
    return workers


SomeSection = TypeVar("SomeSection", bound=Section)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, callback=_not_too_many, help="Local worker processes (default: one per core)."),
]
NetworkName = Annotated[str, typer.Option(help="compact or braggnn.")]
PatchSize = Annotated[int, typer.Option(help="Pixels on a side of a patch: 9, 11, 13 or 15.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
PixelSize = Annotated[
    float | None,
    typer.Option(help="Pitch of the pixels, micrometres, for HEXRD (default: what the run or the frames state)."),
]
ListFormat = Annotated[
    str | None,
    typer.Option("--from", help="Format of the list, as --to of export (default: by its suffix).", metavar="FORMAT"),
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")]


def section_from_options(model: type[SomeSection], options: "Mapping[str, Any]") -> SomeSection:
    """A configuration section from command-line options of the same names."""
    try:
        return model.model_validate(options)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"--{problem['loc'][0]} {problem['input']}: {problem['msg']}") from error


def write_json(path: Path, content: object) -> None:
    """Write plain data as JSON, for the option --json."""
    import json

    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def name_and_value(text: str, option: str) -> tuple[str, str]:
    """The two halves of NAME=VALUE; raises `InputError` naming the option where one is missing."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError(f"{option} {text}: must be NAME=VALUE")
    return name, value
