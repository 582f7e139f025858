"""The command line: parse, then one call."""

import sys
from typing import Annotated

import typer

from braggflow.cli.cluster_commands import cluster_app
from braggflow.cli.config_commands import config_app
from braggflow.cli.data_commands import ingest, inspect, simulate
from braggflow.cli.evaluate_commands import check, evaluate, score, sweep
from braggflow.cli.options import REFUSED
from braggflow.cli.run_commands import preview, run, status
from braggflow.cli.show_commands import compare, explain, export, import_list, movie, report, track, verify, view
from braggflow.cli.stopping import may_leave_at_once, stopped, was_asked
from braggflow.cli.streams import never_stop_at_a_character, say, say_error
from braggflow.cli.train_commands import finetune, train
from braggflow.errors import InputError, is_full, not_written
from braggflow.version import __version__

#: The status that typer ends with after Ctrl-C.
_INTERRUPTED = 130

app = typer.Typer(
    help="Bragg peaks from series of detector frames: found, located to sub-pixel, fitted and tabulated.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# Every import that takes time stands inside the command that needs it: `braggflow --help` is quick.
for command in (
    *(inspect, preview, view, explain, ingest, simulate, run, status, verify, track, export, report, movie),
    *(compare, check, score, sweep, train, finetune, evaluate),
):
    app.command()(command)
app.command("import")(import_list)
app.add_typer(config_app, name="config")
app.add_typer(cluster_app, name="cluster")


def command_line() -> None:
    """Run the command line; bad input ends with one message and exit status 2, what is stopped with another and 3."""
    never_stop_at_a_character()
    may_leave_at_once(False)
    try:
        app()
    except InputError as error:
        if was_asked():  # so it was stopped, whatever that met
            stopped()
        _refuse(str(error))
    except OSError as error:
        if was_asked():
            stopped()
        if is_full(error):
            _refuse(str(not_written(error.filename or "output", error)))
        if error.filename is None:  # not about a file of the user's: a connection, for one
            raise
        _refuse(f"{error.filename}: {error.strerror}")
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
        stopped()
    except (KeyboardInterrupt, Exception):
        if not was_asked():
            raise
        stopped()


def _refuse(message: str) -> None:
    say_error(f"braggflow: {message}")
    sys.exit(REFUSED)


def _version(wanted: bool) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
