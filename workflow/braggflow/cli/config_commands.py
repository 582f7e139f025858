"""`braggflow config`: a starter configuration, and the schema of all keys."""

from pathlib import Path
from typing import Annotated

import typer

from braggflow.cli.options import Overwrite
from braggflow.cli.streams import say
from braggflow.errors import InputError

config_app = typer.Typer(
    help="The run configuration: a starter file, and the schema of all keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@config_app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("braggflow.yaml"),
    overwrite: Overwrite = False,
) -> None:
    """Write a starter configuration. It holds every key at its default, each with a comment."""
    from braggflow.config import starter_config

    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists; choose another name or add --overwrite")
    try:
        path.write_text(starter_config(), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    say(f"{path} written. Next: braggflow run {path} NAME.zarr")


@config_app.command()
def schema() -> None:
    """Print the JSON schema of the configuration, for editors that complete and check YAML."""
    import json

    from braggflow.config import config_schema

    say(json.dumps(config_schema(), indent=1))
