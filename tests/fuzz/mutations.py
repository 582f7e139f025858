"""Ways in which a file goes wrong: cut off, bytes turned, headers that lie, absurd numbers."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.fuzz.seeds import KINDS, SHAPE, frames

Mutation = Callable[[bytes, np.random.Generator], bytes]

_NUMBERS = ("0", "-1", "1", "3", "65537", "2147483648", "9223372036854775807", "1000000000000", "1e400", "NaN", '"x"')
_INTEGERS = (0, 1, 3, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
#: Where most headers end.
_HEADER = 1024


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(0, len(content) + 1))]


def _cut_in_the_header(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(0, min(len(content), _HEADER) + 1))]


def _turn_bits(content: bytes, rng: np.random.Generator, end: int | None = None) -> bytes:
    changed = bytearray(content)
    for at in rng.integers(0, max(1, min(end or len(content), len(content))), int(rng.integers(1, 9))):
        if at < len(changed):
            changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _turn_bits_of_the_header(content: bytes, rng: np.random.Generator) -> bytes:
    return _turn_bits(content, rng, _HEADER)


def _blank(content: bytes, rng: np.random.Generator) -> bytes:
    """A block of zeros, as a disk or a copy that failed leaves it."""
    at, length = int(rng.integers(0, len(content) + 1)), int(2 ** rng.integers(2, 12))
    return content[:at] + bytes(length) + content[at + length :]


def _shift(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes put in or left out."""
    at, length = int(rng.integers(0, len(content) + 1)), int(rng.integers(1, 65))
    return content[:at] + (rng.bytes(length) + content[at:] if rng.random() < 0.5 else content[at + length :])


def _lie_in_binary(content: bytes, rng: np.random.Generator) -> bytes:
    """A number of the shape, or any, written over with another."""
    size = int(rng.choice([2, 4, 8]))
    known = [int(number).to_bytes(size, "little") for number in (*SHAPE, len(frames()), 2 * SHAPE[0] * SHAPE[1])]
    places = [at for number in known for at in _places(content, number)]
    at = int(rng.choice(places)) if places and rng.random() < 0.8 else int(rng.integers(0, len(content) + 1))
    number = int(rng.choice(np.array(_INTEGERS, object)))
    return content[:at] + (number % 2 ** (8 * size)).to_bytes(size, "little") + content[at + size :]


def _places(content: bytes, number: bytes) -> list[int]:
    return [found.start() for found in re.finditer(re.escape(number), content)][:64]


def _lie_in_text(content: bytes, rng: np.random.Generator) -> bytes:
    """A number in a text header written over with another."""
    places = list(re.finditer(rb"-?\d+(?:\.\d+)?", content[:8192]))
    if not places:
        return _lie_in_binary(content, rng)
    found = places[int(rng.integers(len(places)))]
    return content[: found.start()] + str(rng.choice(_NUMBERS)).encode() + content[found.end() :]


def _lose_a_line(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.split(b"\n")
    del lines[int(rng.integers(len(lines)))]
    return b"\n".join(lines)


def _other_content(content: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(int(rng.integers(0, 4096)))


MUTATIONS: tuple[Mutation, ...] = (
    _cut,
    _cut_in_the_header,
    _turn_bits,
    _turn_bits_of_the_header,
    _turn_bits_of_the_header,
    _blank,
    _shift,
    _lie_in_binary,
    _lie_in_binary,
    _lie_in_text,
    _lie_in_text,
    _lose_a_line,
    _other_content,
)


def make_case(number: int, folder: Path) -> tuple[str, str, Path]:
    """Case `number`, the same each time, in an empty folder: its kind, what was done to it, and its path."""
    rng = np.random.default_rng(number)
    kind = list(KINDS)[number % len(KINDS)]
    path = KINDS[kind](folder, frames())
    file = path
    if path.is_dir():
        files = sorted(found for found in path.rglob("*") if found.is_file())
        described = [found for found in files if found.suffix == ".json" or found.name.startswith(".z")]
        file = rng.choice(np.array(described if rng.random() < 0.7 else files, object))
        if rng.random() < 0.08:
            file.unlink()
            return kind, f"{file.relative_to(path)} deleted", path
        if rng.random() < 0.04:
            shutil.rmtree(file.parent if file.parent != path else path / "frames")
            return kind, f"folder of {file.relative_to(path)} deleted", path
    mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
    file.write_bytes(mutation(file.read_bytes(), rng))
    return kind, f"{mutation.__name__.strip('_')} in {file.relative_to(folder)}", path
