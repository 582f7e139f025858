"""`braggflow cluster`: profiles tried out, and runs without a terminal."""

from pathlib import Path
from typing import Annotated

import typer

from braggflow.cli.streams import say
from braggflow.errors import InputError

cluster_app = typer.Typer(
    help="Cluster profiles: try one out, or write a batch script for a whole run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ProfilePath = Annotated[Path, typer.Argument(help="Cluster profile, YAML.")]


@cluster_app.command()
def check(
    profile: ProfilePath,
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders that workers must see: frames, results.")
    ] = None,
    scripts_only: Annotated[bool, typer.Option("--scripts", help="Only print the job scripts.")] = False,
) -> None:
    """Print the job scripts, start one job of each group, and see that its workers can do the work."""
    from braggflow.cluster import check_profile, job_scripts, load_profile
    from braggflow.config import RunConfig

    loaded = load_profile(profile)
    for path in paths or ():
        if not path.exists():
            raise InputError(f"{path}: does not exist here either")
    for group, text in job_scripts(loaded):
        say(f"# ---- job script of group {group} ----")
        say(text)
    if not scripts_only:
        check_profile(loaded, RunConfig(), paths or (), say=say)


@cluster_app.command()
def script(
    profile: ProfilePath,
    config: Annotated[Path, typer.Argument(help="Configuration, YAML.")],
    data: Annotated[list[str] | None, typer.Argument(help="As for braggflow run.")] = None,
    out: Annotated[Path | None, typer.Option(help="As for braggflow run.")] = None,
    settings: Annotated[list[str], typer.Option("--set", help="As for braggflow run.")] = [],  # noqa: B006
    follow: Annotated[Path | None, typer.Option(help="As for braggflow run.")] = None,
    walltime: Annotated[str | None, typer.Option(help="Time limit of the whole run (default: the profile's).")] = None,
    write: Annotated[Path | None, typer.Option(help="File to write (default: print it).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write an sbatch script that does a whole run on a compute node. Submitted again, it goes on."""
    from braggflow.cluster import load_profile, sbatch_script
    from braggflow.config import load_config
    from braggflow.frames import data_set_names, expand_data_sets

    resolved = load_config(config, settings)  # a mistake is better found now than in the queue
    data_set_names(expand_data_sets(data or resolved.data))
    arguments = [str(config), *(data or ())]
    for option, value in (("--out", out), ("--follow", follow)):
        arguments += [option, str(value)] if value is not None else []
    for setting in settings:
        arguments += ["--set", setting]
    text = sbatch_script(load_profile(profile), profile, arguments, walltime=walltime)
    if write is None:
        say(text, end="")
        return
    if write.exists() and not overwrite:
        raise InputError(f"--write {write}: exists; choose another name or add --overwrite")
    write.write_text(text, encoding="utf-8")
    say(f"{write} written. Next: sbatch {write}")
