"""The command line: verbs, options, and what the terminal shows."""

from braggflow.cli.entry import app, main

__all__ = ["app", "main"]
