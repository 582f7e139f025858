"""The types of pixels that frames are searched in: few, so that few versions of the kernels need compiling."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Types that kernels are compiled for. All others become one of these, which holds their values.
SEARCHED = tuple(np.dtype(name) for name in ("uint16", "int32", "float32", "float64"))
#: What each type of fewer bits becomes.
_WIDER: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(few): np.dtype(many) for few, many in (("uint8", "uint16"), ("int8", "int32"), ("int16", "int32"))
}


def as_searched(counts: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A frame (y, x), or a stack of them, and its mask as kernels take them: of a type of `SEARCHED`, row after row.

    Values of unmasked pixels stay what they are, but for whole numbers above 2^53. A frame that is as it should be is
    not copied, nor is one of uint32 without counts above 2^31.
    """
    if counts.dtype == np.uint32:
        signed = np.ascontiguousarray(counts).view(np.int32)
        if signed.min() >= 0 or not ((signed < 0) & ~mask).any():
            counts = signed
    if counts.dtype not in SEARCHED:
        counts = counts.astype(_WIDER.get(counts.dtype, np.dtype(np.float64)))
    return _plain(counts), _plain(mask)


def _plain(image: NDArray[Any]) -> NDArray[Any]:
    """The image, or a copy where kernels would be compiled anew for it: not row by row, or not to be written in."""
    return image if image.flags.c_contiguous and image.flags.writeable else image.copy(order="C")
