"""Output that no terminal stops: a character that its encoding has not is replaced, by one that looks alike if any."""

import codecs
import sys
from io import TextIOWrapper

import typer

_ERRORS = "braggflow.shown"
_ALIKE = str.maketrans(
    {"×": "x", "–": "-", "−": "-", "…": "...", "·": ".", "→": "->", "≤": "<=", "≥": ">=", "±": "+-"}
    | {"µ": "u", "μ": "u", "Å": "A", "σ": "sigma", "°": " deg", "²": "2", "━": "-", "╸": "-", "╺": "-"}
)


def never_stop_at_a_character() -> None:
    """Have standard output and error show whatever is written to them; file names may hold bytes that are no text."""
    codecs.register_error(_ERRORS, _shown)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # it may be none, or a notebook's
            stream.reconfigure(errors=_ERRORS)


def _shown(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_ALIKE)
    # Even these are not in every encoding.
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def say(text: object, *, end: str = "\n") -> None:
    """Write a line to standard output in its own encoding: typer would write UTF-8 where that is ASCII."""
    typer.echo(f"{text}{end}", nl=False, file=sys.stdout)


def say_error(text: str) -> None:
    """Write a line to standard error, in red where it is a terminal."""
    typer.secho(text, file=sys.stderr, fg="red" if sys.stderr.isatty() else None)
