"""Source files: which ones a user means, and what kind of file each is, by its first bytes or else its name."""

import bz2
import gzip
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from braggflow.errors import InputError

HDF5_SUFFIXES = {"h5", "hdf5", "hdf", "nxs", "nx5", "cxi"}
TIFF_SUFFIXES = {"tif", "tiff"}
FABIO_SUFFIXES = (
    {"cbf", "edf", "cor", "img", "mccd", "sfrm", "gfrm", "ge", "ge1", "ge2", "ge3", "ge4", "ge5", "osc", "stl"}
    | {"mar345", "mar1200", "mar1600", "mar1800", "mar2000", "mar2300", "mar2400", "mar3000", "mar3450", "rodhypix"}
    | {"kcd", "esper", "esperanto", "f2d", "spe", "dm3", "mrc", "pgm"}
)
#: What is taken from a folder; files of any other name must be named.
FOLDER_SUFFIXES = HDF5_SUFFIXES | TIFF_SUFFIXES | FABIO_SUFFIXES | {"npy", "npz", "fch5", "mib"}


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
            _refuse_doubles(str(source), members)
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


def _refuse_doubles(source: str, members: Sequence[Path]) -> None:
    """Refuse a folder that holds a file both plain and compressed: its frames would come twice."""
    plain: dict[str, Path] = {}
    for path in sorted(members):
        name = re.sub(r"\.(gz|bz2)$", "", path.name, flags=re.I)
        other = plain.setdefault(name, path)
        if other != path:
            raise InputError(f"source {source}: {other.name} and {path.name} are one file twice; name the files")


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
    """The kind of a file (hdf5, tiff, npy, npz, frame_cache, merlin or fabio): by its content where that tells.

    Content that no reader knows has the kind of its suffix, so that the reader can say what it misses.
    """
    return kind_for(content_of(path), path)


def kind_for(content: "Content | None", path: Path) -> str:
    """The kind of a file whose content is known."""
    suffix = suffix_of(path)
    if content is not None and content.kind and not (content.kind == "tiff" and suffix == "mccd"):
        return content.kind
    if suffix in HDF5_SUFFIXES:
        return "hdf5"
    if suffix in TIFF_SUFFIXES:
        return "tiff"
    return {"fch5": "frame_cache", "mib": "merlin", "npy": "npy", "npz": "npz"}.get(suffix, "fabio")


#: Enough for every mark below, and to tell text from numbers.
_HEAD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Content:
    """What the first bytes of a file say."""

    what: str
    """As in "its content is ..."."""
    kind: str
    """The kind of reader that takes it, or empty."""
    hint: str = ""
    """What makes it readable, where it is not."""


_UNPACK = "unpack it first"
#: First bytes, and what they mean. Longer marks stand before shorter ones that begin like them.
_MARKS: tuple[tuple[bytes, Content], ...] = (
    (b"\x89HDF\r\n\x1a\n", Content("HDF5", "hdf5")),
    (b"II*\0", Content("TIFF", "tiff")),
    (b"MM\0*", Content("TIFF", "tiff")),
    (b"II+\0", Content("BigTIFF", "tiff")),
    (b"MM\0+", Content("BigTIFF", "tiff")),
    (b"\x93NUMPY", Content("a NumPy array", "npy")),
    (b"PK\x03\x04", Content("a zip archive", "npz")),
    (b"PK\x05\x06", Content("an empty zip archive", "npz")),
    (b"MQ1,", Content("Merlin", "merlin")),
    (b"###CBF", Content("CBF", "fabio")),
    (b"{", Content("EDF, SMV or d*TREK", "fabio")),
    (b"FORMAT :", Content("a Bruker frame", "fabio")),
    (b"ADEPT", Content("a GE series", "fabio")),
    (b"R-AXIS", Content("R-AXIS", "fabio")),
    (b"ESPERANTO FORMAT", Content("Esperanto", "fabio")),
    (b"OD SAPPHIRE", Content("an Oxford Diffraction frame", "fabio")),
    (b"\xd2\x04\0\0", Content("a mar345 frame", "fabio")),
    (b"\xff\xd8\xff", Content("a JPEG picture", "", "frames need a format without loss")),
    (b"\x89PNG\r\n\x1a\n", Content("a PNG picture", "", "save it as TIFF or .npy if it is a frame")),
    (b"GIF8", Content("a GIF picture", "")),
    (b"%PDF", Content("a PDF document", "")),
    (b"SIMPLE  =", Content("FITS", "", "astropy reads it: save the array as .npy or HDF5")),
    (b"\x0e\x03\x13\x01", Content("HDF4", "", "`h4toh5` makes HDF5 of it")),
    (b"CDF\x01", Content("netCDF-3", "", "`nccopy -k nc4` makes HDF5 of it")),
    (b"CDF\x02", Content("netCDF-3", "", "`nccopy -k nc4` makes HDF5 of it")),
    (b"\0\0\0\4", Content("Digital Micrograph 4 (.dm4)", "", "RosettaSciIO or ncempy read it: save the array as .npy")),
    (b"\xfd7zXZ\0", Content("compressed with xz", "", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Content("compressed with zstd", "", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Content("a 7z archive", "", _UNPACK)),
    (b"Rar!", Content("a RAR archive", "", _UNPACK)),
    (b"version https://git-lfs", Content("a pointer of Git LFS", "", "`git lfs pull` fetches the file itself")),
    (b"\x80\x04\x95", Content("a pickle", "", "pickles are never loaded: save the array with numpy.save")),
    (b"\x80\x05\x95", Content("a pickle", "", "pickles are never loaded: save the array with numpy.save")),
    (b"<?xml", Content("XML", "")),
    (b"<!DOCTYPE html", Content("a web page", "", "was it a download that failed?")),
    (b"<html", Content("a web page", "", "was it a download that failed?")),
)  # fmt: skip
_COMPRESSED: tuple[tuple[bytes, str, Any], ...] = ((b"\x1f\x8b", ".gz", gzip.open), (b"BZh", ".bz2", bz2.open))
#: Kinds that are read as they are unpacked; of the others the file itself must be there.
_READ_COMPRESSED = ("fabio", "tiff", "npy")


def opened(path: str | Path) -> Any:
    """A file open for reading bytes, unpacked where its name says that it is compressed."""
    opener = {suffix: opener for _, suffix, opener in _COMPRESSED}.get(Path(path).suffix.lower(), open)
    return opener(path, "rb")


def is_compressed(path: str | Path) -> bool:
    """Whether the name of a file says that it is compressed as a whole."""
    return Path(path).suffix.lower() in {suffix for _, suffix, _ in _COMPRESSED}


def content_of(path: Path) -> Content | None:
    """What a file holds by its first bytes, or None where they say nothing.

    A compressed file is what it holds, if its name says how it is compressed.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for mark, suffix, opener in _COMPRESSED:
        if head.startswith(mark):
            return _compressed(path, suffix, opener)
    found = _of_head(head)
    if found is not None and found.kind == "npz":
        return _zipped(path, found)
    if found is not None and found.kind == "hdf5":
        return _hdf5(path, found)
    return found


def _of_head(head: bytes) -> Content | None:
    start = head.lstrip(b"\r\n")
    if start.startswith(b"{") and start[1:].lstrip().startswith((b'"', b"}")):
        return Content("JSON", "")
    for mark, content in _MARKS:
        if head.startswith(mark) or (mark == b"{" and start.startswith(mark)):
            return content
    if len(head) >= 16 and not head.strip(b"\0"):
        return Content("nothing but zeros at its beginning", "", "was it never written, or lost in a copy?")
    if head and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return Content("text", "")
    return None


def _compressed(path: Path, suffix: str, opener: Any) -> Content:
    try:
        with opener(path, "rb") as file:
            inside = _of_head(file.read(_HEAD_BYTES))
    except (OSError, EOFError, zlib.error):
        inside = None
    what = f"{inside.what if inside else 'data'} compressed as {suffix}"
    if not path.name.lower().endswith(suffix):
        return Content(what, "", f"rename it so that it ends in {suffix}, or {_UNPACK}")
    if inside is None or inside.kind in _READ_COMPRESSED:
        return Content(what, inside.kind if inside else "fabio")
    return Content(what, "", _UNPACK if inside.kind else inside.hint)


def _zipped(path: Path, found: Content) -> Content:
    """A zip archive by the names in it; one that is cut off has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return found
    if {"shape.npy", "0_row.npy", "0_col.npy", "0_data.npy"} <= names:
        return Content("a frame cache of HEXRD", "frame_cache")
    if any(name.endswith(".npy") for name in names):
        return Content("NumPy arrays", "npz")
    return Content("a zip archive without NumPy arrays", "", _UNPACK)


def _hdf5(path: Path, found: Content) -> Content:
    """An HDF5 file by its root's attributes; one that cannot be opened is plain HDF5, whose reader says why."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            cache = "HEXRD_FRAMECACHE_VERSION" in file.attrs
    except (OSError, RuntimeError, LookupError, ValueError, TypeError):  # whatever h5py raises of a damaged one
        return found
    return Content("a frame cache of HEXRD", "frame_cache") if cache else found
