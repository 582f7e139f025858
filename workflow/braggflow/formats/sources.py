"""Names of source files: which ones a user means, and what kind of file each is."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from braggflow.errors import InputError

HDF5_SUFFIXES = {"h5", "hdf5", "hdf", "nxs", "nx5", "cxi"}
TIFF_SUFFIXES = {"tif", "tiff"}
FABIO_SUFFIXES = {"cbf", "edf", "cor", "img", "mccd", "mar345", "sfrm", "ge", "ge1", "ge2", "ge3", "ge4", "ge5"} | {
    "kcd", "esper", "f2d", "spe", "dm3", "mrc", "pgm"
}  # fmt: skip
#: What is taken from a folder; files of any other name must be named.
FOLDER_SUFFIXES = HDF5_SUFFIXES | TIFF_SUFFIXES | FABIO_SUFFIXES | {"npy", "npz"}


def natural_key(text: str) -> tuple[Any, ...]:
    """Sort key under which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", text)
    return (*(int(part) if place % 2 else part for place, part in enumerate(parts)), "", text)


def expand_sources(sources: Sequence[str | Path]) -> list[tuple[str, str]]:
    """Files, `file:/inside` names, folders and globs as (absolute path, inside), in natural order of the paths.

    The order given does not matter: a shell has often sorted frame_10 before frame_2. In folders and globs, the data
    files of an EIGER series are left to their master file. Raises `InputError` for a missing file, an empty folder or
    glob, a folder of several formats, and for a file that is named twice.
    """
    found: list[tuple[str, str]] = []
    for source in sources:
        path, inside = split_name(str(source))
        if path.is_dir():
            members = without_eiger_data([p for p in path.iterdir() if suffix_of(p) in FOLDER_SUFFIXES and p.is_file()])
            formats = {suffix_of(p) for p in members}
            if len(formats) > 1:
                listed = ", ".join(f".{name}" for name in sorted(formats))
                raise InputError(f"source {source}: holds several formats ({listed}); name the files or a glob")
            if not members:
                raise InputError(f"source {source}: the folder holds no detector file (.{', .'.join(_SHOWN)}, ...)")
        elif path.exists():
            members = [path]
        elif any(sign in str(path) for sign in "*?["):
            anchor = Path(path.anchor)
            members = without_eiger_data([p for p in anchor.glob(str(path.relative_to(anchor))) if p.is_file()])
            if not members:
                raise InputError(f"source {source}: no file has such a name")
        else:
            raise InputError(f"source {source}: does not exist")
        found += [(str(member.resolve()), inside) for member in members]
    if not found:
        raise InputError("source: none is given; must be files, folders or globs")
    found.sort(key=lambda item: natural_key(f"{item[0]}:{item[1]}"))
    for first, second in pairwise(found):
        if first == second:
            raise InputError(f"source {first[0]}: is named twice")
    return found


_SHOWN = ("h5", "nxs", "tif", "cbf", "edf", "img", "mccd", "ge", "npy")


def split_name(text: str) -> tuple[Path, str]:
    """`file.h5:/entry/data` as (file, "/entry/data"); a plain file name has an empty second part."""
    path, colon, inside = text.rpartition(":/")
    if not colon or not path or Path(text).exists():
        return Path(text).absolute(), ""
    return Path(path.rstrip(":")).absolute(), "/" + inside


def is_hdf5(name: str | Path) -> bool:
    """Whether a file, or the file of `file:/inside`, is there and is HDF5 by its first bytes or its suffix."""
    path, _ = split_name(str(name))
    return path.is_file() and kind_of(path) == "hdf5"


def suffix_of(path: Path) -> str:
    """Suffix without dot in lower case, that of the content where it is compressed."""
    name = path.name.lower()
    return name.removesuffix(".gz").removesuffix(".bz2").rpartition(".")[2] if not name.startswith(".") else ""


def without_eiger_data(paths: list[Path]) -> list[Path]:
    """The files that are not the data files of an EIGER series whose master file is among them."""
    masters = {(p.parent, p.name.removesuffix("_master.h5")) for p in paths if p.name.endswith("_master.h5")}
    return [p for p in paths if (p.parent, re.sub(r"_data_\d+\.h5$", "", p.name)) not in masters]


def kind_of(path: Path) -> str:
    """The kind of a file, hdf5, tiff, npy, npz or fabio, by its first bytes or else its suffix."""
    with path.open("rb") as file:
        if file.read(8) == b"\x89HDF\r\n\x1a\n":
            return "hdf5"
    if path.name.lower().endswith((".gz", ".bz2")):
        return "fabio"
    suffix = suffix_of(path)
    if suffix in HDF5_SUFFIXES:
        return "hdf5"
    if suffix in TIFF_SUFFIXES:
        return "tiff"
    return suffix if suffix in ("npy", "npz") else "fabio"
