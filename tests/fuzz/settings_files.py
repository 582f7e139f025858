"""Configurations and cluster profiles that are mutated: each is taken, or refused in a sentence that names it."""

import json
import random
import string
import traceback
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

from braggflow import InputError, load_config, load_profile
from braggflow.cli.config_commands import starter_config
from braggflow.config import digest, resolve_config
from braggflow.yaml_text import parse_yaml

ROOT = Path(__file__).parents[2]
#: Texts that YAML, JSON or a reader of numbers may stumble over.
ODD = (
    "null",
    "~",
    "true",
    ".nan",
    "-.inf",
    "1e999",
    "-1",
    "0",
    "0x1F",
    "0o17",
    "1_000",
    "1:00:00",
    "2024-02-30",
    "2001-13-01",
    "2001-12-14t21:59:43.10-25:00",
    "!!int foo",
    "!!float x",
    "!!timestamp never",
    "!!binary '%%'",
    "!!set {a, b}",
    "!!omap [a]",
    "!!pairs [a: b]",
    "!!python/object:os.system {}",
    "!!null x",
    "!!bool maybe",
    "!!map [1]",
    "!!seq {a: 1}",
    "!!str [1]",
    "!unknown x",
    "[]",
    "{}",
    "[1, [2, [3]]]",
    "{a: {b: {c: 1}}}",
    "? [a, b]",
    "? {a: 1}\n: 2",
    "<<: 1",
    "<<: [1, 2]",
    "<<: *none",
    "&a [*a]",
    "&a {b: *a}",
    "*a",
    "9" * 5000,
    "[" * 5000,
    "{a: " * 800,
    "- " * 3000,
    "'" * 7,
    '"\\x00\\ud800"',
    '"\\u202e"',
    "\x1b[31m",
    "\ufeff",
    "\u202eabc",
    "\u0085",
    "é" * 40,
    "%YAML 9.9\n---",
    "---\n---",
    "--- a\n--- b",
    "|\n  x",
    ">9\n",
    "\t",
    "#",
    ": :",
    "@",
    "`",
    "auto",
    "6 sigma",
    "{sigma: -1}",
    "{sigma: 1e400}",
    "none",
    "cuda:99999999999999999999",
    "1..2 sigma",
    "9" * 400 + " sigma",
    "9" * 400,
    "1e308GiB",
    "/dev/null",
    "~nobody/x",
    "$HOME/${",
    "\\N{x}",
    "a" * 300,
    "slurm",
    "local",
)
_LETTERS = string.printable + "é\u202e\x1b\x00"


@cache
def seeds() -> dict[str, list[str]]:
    """Whole files of each kind."""
    configurations = [starter_config(), *(path.read_text() for path in sorted((ROOT / "configs").glob("*.yaml")))]
    profiles = [path.read_text().replace("\n#", "\n") for path in sorted((ROOT / "cluster").glob("*.yaml"))]
    profiles += [path.read_text() for path in sorted((ROOT / "cluster").glob("*.yaml"))]
    return {"configuration": configurations, "profile": profiles}


def _value(text: str, draw: random.Random) -> str:
    """The value of a key written over."""
    lines = text.splitlines()
    at = draw.choice([number for number, line in enumerate(lines) if ":" in line] or [0])
    key = lines[at].partition(":")[0]
    lines[at] = f"{key}: {draw.choice(ODD)}"
    return "\n".join(lines) + "\n"


def _key(text: str, draw: random.Random) -> str:
    """A key written over, or put in."""
    lines = text.splitlines()
    at = draw.randrange(len(lines))
    indent = " " * draw.choice((0, 2, 2, 4))
    lines.insert(at, f"{indent}{draw.choice((*ODD, 'detect', 'cpu', 'workers', 'data'))}: {draw.choice(ODD)}")
    if draw.random() < 0.5:
        del lines[at + 1 : at + 2]
    return "\n".join(lines) + "\n"


def _letters(text: str, draw: random.Random) -> str:
    """Letters put in, left out or exchanged."""
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(text) + 1)
        text = text[:at] + draw.choice(_LETTERS) * draw.choice((0, 1, 1, 2)) + text[at + draw.choice((0, 1, 1, 9)) :]
    return text


def _cut(text: str, draw: random.Random) -> str:
    return text[: draw.randrange(len(text) + 1)]


def _lines(text: str, draw: random.Random) -> str:
    """Lines exchanged, twice there, or indented otherwise."""
    lines = text.splitlines()
    for _ in range(draw.randint(1, 4)):
        at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        lines[at] = draw.choice((lines[other], " " * draw.randint(1, 5) + lines[at], lines[at].strip(), ""))
    return "\n".join(lines) + "\n"


def _tree(text: str, draw: random.Random) -> str:
    """What the text says as JSON, with values of other types in it."""
    data = parse_yaml(text, "")
    for _ in range(draw.randint(1, 3)):
        inner = data
        while isinstance(inner, dict) and inner:
            key = draw.choice(sorted(inner, key=str))
            if not isinstance(inner[key], dict) or draw.random() < 0.2:
                inner[key] = draw.choice((None, True, -1, 0, 2**70, 1e308, "", "x", [], [None], {}, {"x": {}}, [[1]]))
                break
            inner = inner[key]
    return json.dumps(data)


def _whole(text: str, draw: random.Random) -> str:
    return draw.choice(ODD) + draw.choice(("", "\n" + text))


MUTATIONS: tuple[Callable[[str, random.Random], str], ...] = (
    _value,
    _value,
    _key,
    _letters,
    _cut,
    _lines,
    _tree,
    _whole,
)


def make_case(number: int) -> tuple[str, str, bytes]:
    """Case `number`, the same each time: its kind, what was done to it, and the file."""
    draw = random.Random(number)
    kind, texts = draw.choice(sorted(seeds().items()))
    text, done = draw.choice(texts), []
    for _ in range(draw.choice((1, 1, 2, 3))):
        mutation = draw.choice(MUTATIONS)
        try:
            text = mutation(text, draw)
        except (InputError, ValueError, TypeError, IndexError):
            continue  # what was done before left nothing to change
        done.append(mutation.__name__.strip("_"))
    content = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.05:
        content = content[: draw.randrange(len(content) + 1)] + draw.randbytes(3) + content
    return kind, " + ".join(done), content


def trial(number: int, folder: Path) -> tuple[str, str]:
    """What became of a case: its kind, and `taken`, `refused`, or a traceback."""
    kind, done, content = make_case(number)
    path = folder / f"{kind}.yaml"
    path.write_bytes(content)
    try:
        if kind == "profile":
            load_profile(path)
            return kind, "taken"
        config = load_config(path)
        digest(config.result_settings())
        assert resolve_config(parse_yaml(config.to_yaml(), "")) == config, "another after it was written and read"
    except InputError as error:
        message = str(error)
        fault = _fault(message, path, kind)
        return kind, f"case {number} ({done}): {fault}: {message}" if fault else "refused"
    except BaseException:  # noqa: BLE001 - what it is, is told
        return kind, f"case {number} ({done}): {traceback.format_exc()}"
    return kind, "taken"


def _fault(message: str, path: Path, kind: str) -> str:
    """What is wrong with a message, if anything."""
    if str(path) not in message:
        return "names no file"
    if any(not (letter.isprintable() or letter == "\n") for letter in message):
        return "would change what a terminal shows"
    if len(message) > 4000:
        return f"has {len(message)} letters"
    return "" if kind in message else f"does not say that it is of a {kind}"


def campaign(
    cases: range, folder: Path, tell: Callable[[str], None] = lambda _finding: None
) -> tuple[Counter[str], list[str]]:
    """How many of each kind were taken and refused, and what must not have been."""
    counts, findings = Counter[str](), list[str]()
    for number in cases:
        kind, outcome = trial(number, folder)
        if outcome in ("taken", "refused"):
            counts[f"{kind} {outcome}"] += 1
        else:
            findings.append(outcome)
            tell(outcome)
    return counts, findings


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fuzz") as place:
        counted, found = campaign(
            range(*map(int, sys.argv[1:3])), Path(place), lambda finding: print(f"{finding}\n", flush=True)
        )
    print(*(f"{n:6d} {what}" for what, n in sorted(counted.items())), f"{len(found):6d} findings", sep="\n")
    sys.exit(bool(found))
