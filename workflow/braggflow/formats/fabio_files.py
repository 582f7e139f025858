"""Frames in the formats that fabio reads: CBF, EDF, SMV and d*TREK, MarCCD, mar345, Bruker, R-AXIS, GE, ..."""

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.readers import Layout, Stack, check_frame_size, refuse_unlike
from braggflow.formats.sources import is_compressed, opened, suffix_of

#: More than any CBF header takes.
_CBF_HEADER_BYTES = 2**20
#: Enough to see whether padding or another header follows the last frame of an EDF file.
_EDF_REST_BYTES = 512
#: Where an EDF file's headers are looked at before fabio reads them: all of those of small frames, else the first.
_EDF_HEADER_BYTES = 2**20
#: Formats whose pixels fabio gives in a type that depends on how bright the frame is: their widest one holds all.
_WIDEST = {"BrukerImage": np.uint32, "RaxisImage": np.uint32, "OxdImage": np.int32}

#: Where the packed values of a mar345 frame begin, whether in version 2, and the numbers of their columns and rows.
_PCK = re.compile(rb"CCP4 packed image( V2)?, X: *(\d+), Y: *(\d+)\n")
_PCK_WIDTHS = (0, 4, 5, 6, 7, 8, 16, 32)
_PCK_WIDTHS_2 = (0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 32)
#: Bruker's formats, by the number in their first line.
_BRUKER = {b"86": "brukerimage", b"100": "bruker100image"}


def open_fabio(path: str, _: str) -> Layout:
    """The frames of a file that fabio knows by its content or name."""
    from fabio.edfimage import EdfImage
    from fabio.mar345image import Mar345Image
    from fabio.raxisimage import RaxisImage

    _check_cbf(path)
    _check_edf_dimensions(path)
    with _opened(path) as image:
        if isinstance(image, Mar345Image):
            _check_mar345(path)
        if isinstance(image, RaxisImage):
            _check_raxis(path, image.header)
        if isinstance(image, EdfImage):
            _check_edf(path, image._frames)
        data = image.data
        if data is None:
            raise ValueError("fabio finds no values in it")
        shape = (image.nframes, *data.shape) if image.nframes > 1 else data.shape
        return Layout(shape, _dtype(image, data), header=dict(image.header))


def read_fabio(stack: Stack, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi, which must be alike."""
    with _opened(stack.path) as image:
        if image.nframes == 1:
            return np.asarray(image.data, _dtype(image, image.data)).reshape(-1, *stack.shape)[lo:hi]
        first = (image.data.shape, image.data.dtype)
        frames: list[NDArray[Any]] = []
        for number in range(lo, hi):
            data = image.getframe(number).data
            refuse_unlike(stack.path, number, (data.shape, data.dtype), first)
            frames.append(data)
        return np.stack(frames)


def _opened(path: str) -> Any:
    import fabio

    with opened(path) as file:
        bruker = re.match(rb"FORMAT :\s*(\d+)", file.read(80))
    # fabio knows Bruker's mark with one number of spaces only, and takes any file called `x.0001` for the older format.
    reader = fabio.fabioformats.factory(_BRUKER.get(bruker[1], "brukerimage")) if bruker else None
    image = fabio.open(path) if reader is None else reader.read(path)
    if image is None:
        raise ValueError("a variant of its format that fabio does not read")
    return image


def _dtype(image: Any, data: NDArray[Any]) -> np.dtype[Any]:
    name = type(image).__name__
    scaled = name == "BrukerImage" and data.dtype.kind == "f"  # by the header's slope and offset
    return data.dtype if scaled else np.dtype(_WIDEST.get(name, data.dtype))


def _check_cbf(path: str) -> None:
    """Refuse a CBF file that fabio would fail on, or search for ever: no binary data, another compression, a lie."""
    if suffix_of(Path(path)) != "cbf":
        return
    with opened(path) as file:
        head, mark, _ = file.read(_CBF_HEADER_BYTES).partition(b"\x0c\x1a\x04\xd5")
    if not mark or b"--CIF-BINARY-FORMAT-SECTION--" not in head:
        raise ValueError("its header is not followed by binary data")
    conversion = re.search(rb'conversions\s*=\s*"?x-CBF_(\w+)', head, re.I)
    if conversion and conversion[1].upper() != b"BYTE_OFFSET":
        raise InputError(
            f"source {path}: its pixels are compressed as CBF_{conversion[1].decode().upper()}, and only "
            "CBF_BYTE_OFFSET is read here; convert it, e.g. with `cif2cbf -c byte_offset` of CBFlib"
        )
    sizes = {key: _stated(head, key) for key in (b"Size", b"Size-Fastest-Dimension", b"Size-Second-Dimension")}
    size, fast, slow = sizes.values()
    # A pixel takes at least a byte in this compression.
    if size is not None and fast is not None and slow is not None and not 0 <= fast * slow <= size:
        raise ValueError(f"its header states {slow} x {fast} pixels in {size:,} bytes, and each takes one byte or more")


def _check_mar345(path: str) -> None:
    """Refuse a mar345 file that is cut off: fabio would go on with pixels of its own making.

    The values are blocks of 2^n differences of equal width (the "pck" of CCP4, after Abrahams); n and the code of the
    width stand before each, 3 bits both (4 in version 2), from the lowest bit on. The sum of all blocks is the frame.
    """
    with opened(path) as file:
        content = file.read()
    found = _PCK.search(content)
    if not found:
        raise ValueError("its header is not followed by packed values")
    values, pixels = content[found.end() :], int(found[2]) * int(found[3])
    widths, head = (_PCK_WIDTHS_2, 4) if found[1] else (_PCK_WIDTHS, 3)
    bit = done = 0
    while done < pixels and bit < 8 * len(values):
        code = int.from_bytes(values[bit // 8 : bit // 8 + 2], "little") >> bit % 8
        n, width = code & (2**head - 1), widths[code >> head & (2**head - 1)]
        done += 2**n
        bit += 2 * head + 2**n * width
    if done < pixels or bit > 8 * len(values):
        raise ValueError(f"its values end before pixel {min(done, pixels):,} of {pixels:,}")


def _check_raxis(path: str, header: Mapping[str, Any]) -> None:
    """Refuse an R-AXIS file that is cut off: fabio takes the values from its end, which would shift them.

    A file is records of one length: the header is the first, each row another.
    """
    record, rows = header["Record Length"], header["Y Pixels"]
    length = Path(path).stat().st_size
    if not is_compressed(path) and record >= 2 * header["X Pixels"] and length < record * (rows + 1):
        raise ValueError(f"its header states {rows + 1} records of {record:,} bytes, it has {length:,} bytes")


def _stated(head: bytes, key: bytes) -> int | None:
    found = re.search(rb"X-Binary-" + key + rb":\s*(-?\d+)", head)
    return int(found[1]) if found else None


def _check_edf_dimensions(path: str) -> None:
    """Refuse an EDF file of absurdly many dimensions: fabio would count to their number, for ever and in memory."""
    with opened(path) as file:
        head = file.read(_EDF_HEADER_BYTES)
    if head.lstrip(b"\r\n ")[:1] == b"{" and (found := re.search(rb"(?:Dim|DIM|dim)_(\d{3,})", head)):
        raise ValueError(f"its header states {found[1].decode()} dimensions of a frame")


def _check_edf(path: str, frames: list[Any]) -> None:
    """Refuse an EDF file whose frames differ, whose header lies, or which is cut off in the header of a frame.

    fabio would force the first frame's type on the others, fill up what is missing, and end the series a frame early.
    """
    compressed = is_compressed(path)
    length = Path(path).stat().st_size
    first = (tuple(frames[0].shape), frames[0].dtype)
    for number, frame in enumerate(frames):
        refuse_unlike(path, number, (tuple(frame.shape), frame.dtype), first)
        check_frame_size(path, frame.shape, frame.dtype)
        if compressed or frame.bfname is not None or frame.start is None or frame.blobsize is None:
            continue
        packed = frame._data_compression is not None
        size = frame.blobsize if packed else max(frame.blobsize, prod(frame.shape) * frame.dtype.itemsize)
        if size < 0 or frame.start + size > length:
            raise ValueError(f"the header of frame {number} states {size:,} bytes, {length - frame.start:,} are left")
    last = frames[-1]
    if not compressed and last.bfname is None and last.blobsize is not None:
        with Path(path).open("rb") as file:
            file.seek(last.start + last.blobsize)
            if file.read(_EDF_REST_BYTES).strip(b"\0\r\n "):
                raise ValueError("after the last whole frame comes a part of another")
