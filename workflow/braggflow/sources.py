"""Source files of frames: which ones a user means, what is in them, and reading any range of their frames.

Nothing is kept open: `inspect` describes the stacks of a file, `read_frames` reads frames lo to hi of a stack.
"""

import bz2
import gzip
import logging
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow import hdf5, headers
from braggflow.config import InputError
from braggflow.headers import Facts

HDF5_SUFFIXES = {"h5", "hdf5", "hdf", "nxs", "nx5", "cxi"}
TIFF_SUFFIXES = {"tif", "tiff"}
FABIO_SUFFIXES = {"cbf", "edf", "cor", "img", "mccd", "mar345", "sfrm", "ge", "ge1", "ge2", "ge3", "ge4", "ge5"} | {
    "kcd", "esper", "f2d", "spe", "dm3", "mrc", "pgm"
}  # fmt: skip
#: What is taken from a folder; files of any other name must be named.
FOLDER_SUFFIXES = HDF5_SUFFIXES | TIFF_SUFFIXES | FABIO_SUFFIXES | {"npy", "npz"}

#: What readers of damaged files raise; everything else is a defect of ours and must not be hidden.
READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    RuntimeError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
#: More than any CBF header takes.
_CBF_HEADER_BYTES = 2**20
#: Enough to see whether padding or another header follows the last frame of an EDF file.
_EDF_REST_BYTES = 512
#: fabio and tifffile log these and go on with zeros or fewer frames.
_DAMAGE = re.compile(
    r"checksum|incomplete|too small|smaller than|truncat|invalid page offset|invalid or corrupted|corrupted IFD", re.I
)


@dataclass(frozen=True, slots=True)
class Stack:
    """One data set or file of frames."""

    path: str
    inside: str
    """Data set in an HDF5 file or array in a .npz, else empty."""
    kind: str
    """hdf5, tiff, npy, npz or fabio."""
    frames: int
    shape: tuple[int, int]
    """(y, x)"""
    dtype: str
    """Of the frames as they are read: native byte order."""
    files: tuple[tuple[str, int, int], ...]
    """Every file that the frames lie in: path, bytes, time of change in ns."""
    facts: Facts = field(default_factory=Facts)

    @property
    def name(self) -> str:
        """File, and data set inside it, as a user would write it."""
        return f"{self.path}:{self.inside}" if self.inside else self.path


def natural_key(text: str) -> tuple[Any, ...]:
    """Sort key under which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", text)
    return (*(int(part) if place % 2 else part for place, part in enumerate(parts)), "", text)


def expand(sources: Sequence[str | Path]) -> list[tuple[str, str]]:
    """Files, `file:/inside` names, folders and globs as (absolute path, inside), in natural order of the paths.

    The order given does not matter: a shell has often sorted frame_10 before frame_2. In folders and globs, the data
    files of an EIGER series are left to their master file. Raises `InputError` for a missing file, an empty folder or
    glob, a folder of several formats, and for a file that is named twice.
    """
    found: list[tuple[str, str]] = []
    for source in sources:
        path, inside = split_name(str(source))
        if path.is_dir():
            members = without_eiger_data([p for p in path.iterdir() if _suffix(p) in FOLDER_SUFFIXES and p.is_file()])
            formats = {_suffix(p) for p in members}
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
    return path.is_file() and _kind(path) == "hdf5"


def _suffix(path: Path) -> str:
    """Suffix without dot in lower case, that of the content where it is compressed."""
    name = path.name.lower()
    return name.removesuffix(".gz").removesuffix(".bz2").rpartition(".")[2] if not name.startswith(".") else ""


def without_eiger_data(paths: list[Path]) -> list[Path]:
    """The files that are not the data files of an EIGER series whose master file is among them."""
    masters = {(p.parent, p.name.removesuffix("_master.h5")) for p in paths if p.name.endswith("_master.h5")}
    return [p for p in paths if (p.parent, re.sub(r"_data_\d+\.h5$", "", p.name)) not in masters]


def inspect(path: str, inside: str = "", *, coords: Mapping[str, str] | None = None) -> list[Stack]:
    """The stacks of frames in one file, in order (several only for an EIGER master file).

    `inside` names a data set (HDF5) or array (.npz), else it is found; `coords` are names of per-frame HDF5 data sets.
    Raises `InputError` naming the file where it is damaged, ambiguous, empty, or no series of 2-D numeric frames.
    """
    with reading(path):
        kind = _kind(Path(path))
        if coords and kind != "hdf5":
            raise InputError(f"--coord {next(iter(coords))}: {path} has no data sets; write --coord NAME=FILE.h5:/PATH")
        if inside and kind not in ("hdf5", "npz"):
            raise InputError(f"source {path}: only HDF5 and .npz files have data sets inside, {inside} is none")
        if kind == "hdf5":
            return [
                _checked(path=p, inside=name, kind=kind, shape=shape, dtype=dtype, files=_stamp(files), facts=facts)
                for p, name, shape, dtype, files, facts in hdf5.inspect(path, inside, coords or {})
            ]
        shape, dtype, name, header = _OPENERS[kind](path, inside)
        stack = _checked(path=path, inside=name, kind=kind, shape=shape, dtype=dtype, files=_stamp([path]))
        facts = headers.from_text(header, stack.frames)
        return [Stack(path, name, kind, stack.frames, stack.shape, stack.dtype, stack.files, facts)]


def _checked(*, shape: tuple[int, ...], dtype: np.dtype[Any], path: str, inside: str, **rest: Any) -> Stack:
    name = f"source {path}:{inside}" if inside else f"source {path}"
    if len(shape) not in (2, 3):
        raise InputError(f"{name}: has shape {shape}, must be (frame, y, x) or (y, x)")
    if 0 in shape:
        raise InputError(f"{name}: has shape {shape}: the series is empty")
    frames, y, x = shape if len(shape) == 3 else (1, *shape)
    return Stack(path, inside, frames=frames, shape=(y, x), dtype=stored_dtype(dtype, name).str, **rest)


def stored_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """The dtype in which frames are stored: native byte order; bool as uint8, float16 as float32 (both exact)."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype == np.float16:
        return np.dtype(np.float32)
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{name}: holds {dtype}, must be integers, booleans, or floats of 16, 32 or 64 bits")
    return dtype.newbyteorder("=")


def _stamp(files: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    stats = {file: Path(file).stat() for file in files}
    return tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items())


def changed(stack: Stack) -> bool:
    """Whether a file of the stack is no longer what it was when inspected."""
    try:
        return _stamp([file for file, _, _ in stack.files]) != stack.files
    except OSError:
        return True


def read_frames(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi (exclusive) of a stack, shape (hi - lo, y, x), C order, dtype of the stack.

    Raises `InputError` naming the file and why it cannot be read.
    """
    with reading(stack.name):
        frames = np.ascontiguousarray(_READERS[stack.kind](stack, lo, hi), dtype=stack.dtype)
        if frames.shape != (hi - lo, *stack.shape):
            raise ValueError(f"frames {lo} to {hi - 1} have shape {frames.shape}, must be {(hi - lo, *stack.shape)}")
        return frames


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what readers raise, or only log, about a damaged file into an `InputError`; other log messages are held."""
    held: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = held.append  # type: ignore[method-assign, assignment]
    loggers = [logging.getLogger("fabio"), logging.getLogger("tifffile")]
    before = [(logger, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
        damage = [r.getMessage() for r in held if r.levelno >= logging.ERROR or _DAMAGE.search(r.getMessage())]
        if damage:
            raise OSError(_damage_text(damage))
    except InputError:
        raise
    except READ_ERRORS as error:
        reason = " ".join(str(error).split()) or _damage_text([r.getMessage() for r in held]) or type(error).__name__
        raise InputError(f"{name}: cannot be read; damaged, incomplete or of another format? ({reason})") from error
    finally:
        for logger, propagate in before:
            logger.removeHandler(handler)
            logger.propagate = propagate


def _damage_text(messages: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(" ".join(message.split()) for message in messages))


def read_image(key: str, source: str | Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """One image (a mask, dark or flat) of shape (y, x) from any readable file, or `file.h5:/path`.

    Raises `InputError` naming `key`, the file, what it holds and what is accepted.
    """
    path, inside = split_name(str(source))
    if not path.is_file():
        raise InputError(f"{key}: {path} does not exist")
    try:
        stacks = inspect(str(path), inside)
        if len(stacks) != 1 or stacks[0].frames != 1:
            raise InputError(f"{source} holds {sum(stack.frames for stack in stacks)} frames, must be one 2-D image")
        image: NDArray[Any] = read_frames(stacks[0], 0, 1)[0]
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    if image.shape != shape:
        raise InputError(f"{key}: {source} has shape {image.shape}, the frames are {shape}")
    return image


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(8) == b"\x89HDF\r\n\x1a\n":
            return "hdf5"
    if path.name.lower().endswith((".gz", ".bz2")):
        return "fabio"
    suffix = _suffix(path)
    if suffix in HDF5_SUFFIXES:
        return "hdf5"
    if suffix in TIFF_SUFFIXES:
        return "tiff"
    return suffix if suffix in ("npy", "npz") else "fabio"


Layout = tuple[tuple[int, ...], np.dtype[Any], str, Mapping[str, Any]]
"""Shape, dtype, name inside the file, text header."""


def _open_tiff(path: str, _: str) -> Layout:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        if len(tiff.series) != 1:
            shapes = ", ".join(str(series.shape) for series in tiff.series[:5])
            raise InputError(f"source {path}: holds {len(tiff.series)} image series of shapes {shapes}; must be one")
        series: Any = tiff.series[0]
        page: Any = tiff.pages[0]
        if not series.axes.endswith("YX"):
            raise InputError(
                f"source {path}: has axes {series.axes} and shape {series.shape}, must end in YX (no colours)"
            )
        text = page.description
        # Pilatus and EIGER TIFFs carry the header lines of a CBF here.
        header = {"_array_data.header_contents": text} if text.lstrip().startswith("#") else {}
        return series.shape, series.dtype, "", header


def _read_tiff(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(stack.path) as tiff:
        series: Any = tiff.series[0]
        if series.dataoffset is not None:
            dtype = series.dtype.newbyteorder(tiff.byteorder)
            whole = np.memmap(stack.path, dtype, "r", series.dataoffset, (stack.frames, *stack.shape))
            return np.array(whole[lo:hi])
        if len(series.pages) == stack.frames:
            return np.stack([series.pages[index].asarray() for index in range(lo, hi)])
        return np.asarray(series.asarray().reshape(stack.frames, *stack.shape)[lo:hi])


def _open_npy(path: str, _: str) -> Layout:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.shape, array.dtype, "", {}


def _read_npy(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    array = np.load(stack.path, mmap_mode="r", allow_pickle=False)
    return np.array(array.reshape(stack.frames, *stack.shape)[lo:hi])


def _open_npz(path: str, inside: str) -> Layout:
    with zipfile.ZipFile(path) as archive:
        layouts = {}
        for member in archive.namelist():
            with archive.open(member) as file:
                layouts[member.removesuffix(".npy")] = _npy_header(file)
    name = inside.strip("/")
    stacks = [key for key, (shape, _, _) in layouts.items() if len(shape) in (2, 3)]
    if not name and len(stacks) == 1:
        name = stacks[0]
    if name not in layouts:
        raise InputError(f"source {path}: name one of its arrays as {path}:/NAME (has: {', '.join(layouts) or 'none'})")
    shape, _, dtype = layouts[name]
    return shape, dtype, f"/{name}", {}


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype; the file is left at the first value."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _read_npz(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    with zipfile.ZipFile(stack.path) as archive, archive.open(stack.inside.strip("/") + ".npy") as file:
        shape, fortran, dtype = _npy_header(file)
        if fortran:
            raise ValueError("the array is in Fortran order; save it with numpy.ascontiguousarray")
        size = stack.shape[0] * stack.shape[1] * dtype.itemsize
        file.seek(lo * size, 1)
        values = np.frombuffer(file.read((hi - lo) * size), dtype)
        return values.reshape(hi - lo, *shape[-2:])


def _open_fabio(path: str, _: str) -> Layout:
    import fabio

    _check_cbf(path)
    with fabio.open(path) as image:
        if isinstance(image, fabio.edfimage.EdfImage) and _suffix(Path(path)) == Path(path).suffix[1:].lower():
            _check_edf(path, image._frames[-1])
        shape = image.data.shape
        return (image.nframes, *shape) if image.nframes > 1 else shape, image.data.dtype, "", dict(image.header)


def _check_cbf(path: str) -> None:
    """Refuse a CBF file cut off before its binary data: fabio would look for their start for ever."""
    if _suffix(Path(path)) == "cbf":
        opener: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(Path(path).suffix.lower(), open)
        with opener(path, "rb") as file:
            if b"\x0c\x1a\x04\xd5" not in file.read(_CBF_HEADER_BYTES):
                raise ValueError("its header is not followed by binary data")


def _check_edf(path: str, last: Any) -> None:
    """Refuse an EDF file cut off in the header of a frame: fabio would end the series one frame earlier."""
    if last.start is not None and last.blobsize is not None and last.bfname is None:
        with Path(path).open("rb") as file:
            file.seek(last.start + last.blobsize)
            if file.read(_EDF_REST_BYTES).strip(b"\0\r\n "):
                raise ValueError("after the last whole frame comes a part of another")


def _read_fabio(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    import fabio

    with fabio.open(stack.path) as image:
        if stack.frames == 1:
            return np.asarray(image.data)[np.newaxis]
        return np.stack([image.getframe(index).data for index in range(lo, hi)])


def _read_hdf5(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    return hdf5.read(stack.path, stack.inside, lo, hi)


_OPENERS = {"tiff": _open_tiff, "npy": _open_npy, "npz": _open_npz, "fabio": _open_fabio}
_READERS = {"hdf5": _read_hdf5, "tiff": _read_tiff, "npy": _read_npy, "npz": _read_npz, "fabio": _read_fabio}
