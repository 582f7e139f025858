"""The command line: verbs, options, and what the terminal shows."""

from typing import TYPE_CHECKING, Any

from braggflow.cli.stopping import leave, listen

if TYPE_CHECKING:
    from braggflow.cli.entry import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; from its first moment on, before anything is loaded, it can be stopped in order."""
    listen()
    from braggflow.cli.entry import command_line

    try:
        command_line()
    except SystemExit as end:
        leave(end.code)
        raise


def __getattr__(name: str) -> Any:
    # Loaded when first used: `main` is to listen before.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from braggflow.cli.entry import app

    return app
