"""`braggflow config`: a starter configuration, examples, and the schema of all keys."""

from pathlib import Path
from typing import Annotated, Any

import typer

from braggflow.cli.options import Overwrite
from braggflow.cli.streams import say
from braggflow.errors import InputError

config_app = typer.Typer(
    help="The run configuration: a starter file, examples, and the schema of all keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@config_app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("braggflow.yaml"),
    overwrite: Overwrite = False,
) -> None:
    """Write a starter configuration. It holds every key at its default, each with a comment."""
    _write(path, starter_config(), overwrite=overwrite)
    say(f"{path} written. Next: braggflow run {path} NAME.zarr")


@config_app.command()
def example(
    name: Annotated[str | None, typer.Argument(help="Which one (default: they are listed).")] = None,
    path: Annotated[Path | None, typer.Argument(help="File to write (default: NAME.yaml).")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one of the example configurations or cluster profiles. Without a name they are listed, a line each."""
    known = _examples()
    if name is None:
        for stem, file in known.items():
            say(f"{stem:16} {_first_line(file)}")
        return
    chosen = known.get(name.removesuffix(".yaml"))
    if chosen is None:
        raise InputError(f"{name}: is no example; must be one of {', '.join(known)}")
    path = Path(chosen.name) if path is None else path
    _write(path, chosen.read_text(encoding="utf-8"), overwrite=overwrite)
    say(f"{path} written. {_first_line(chosen)}.")


def _examples() -> dict[str, Path]:
    """The examples by name: those of an installed package, or of the checkout that it is used from."""
    package = Path(__file__).parents[1]
    checkout = package.parents[1]
    installed = package / "examples"
    folders = [installed] if installed.is_dir() else [checkout / "configs", checkout / "cluster"]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _first_line(path: Path) -> str:
    """What an example says of itself at its beginning, up to the first full stop or colon."""
    line = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
    return line.split(": ")[0].split(". ")[0].rstrip(".:")


def _write(path: Path, text: str, *, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists; choose another name or add --overwrite")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


@config_app.command()
def schema() -> None:
    """Print the JSON schema of the configuration, for editors that complete and check YAML."""
    import json

    say(json.dumps(config_schema(), indent=1))


def starter_config() -> str:
    """A configuration file with every key at its default, each with a comment of what it is."""
    from braggflow.config import RunConfig, Section

    lines = ["# braggflow configuration: every key is at its default; delete what you do not change.", ""]
    for name, field in RunConfig.model_fields.items():
        default = field.default
        if not isinstance(default, Section):
            lines += [f"# {field.description}", f"{name}: {_flow(list(default))}", ""]
            continue
        lines += [f"# {(type(default).__doc__ or '').strip()}", f"{name}:"]
        for key, inner in type(default).model_fields.items():
            value = getattr(default, key)
            plain = value.model_dump() if isinstance(value, Section) else value
            lines.append(f"  {key}: {_flow(plain)}  # {inner.description}")
        lines.append("")
    return "\n".join(lines)


def _flow(value: object) -> str:
    import yaml

    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def config_schema() -> dict[str, Any]:
    """JSON schema of the configuration, for editors that complete and check YAML."""
    from braggflow.config import RunConfig

    return RunConfig.model_json_schema() | {"description": "The configuration of a braggflow run."}
