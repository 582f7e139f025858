"""A small series, its conversion, and the message of one that is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from braggflow.convert import ingest
from braggflow.errors import InputError
from braggflow.frames import open_frames

SHAPE = (20, 30)


def series(n: int = 5, dtype: Any = np.uint16, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 120, (n, *shape)).astype(dtype)


def copied(source: Any, folder: Path, **options: Any) -> Any:
    """Ingest in this process and open the result."""
    given_sources = source if isinstance(source, list) else [source]
    return open_frames(ingest(given_sources, folder / "out.zarr", workers=1, **options))


def refusal(source: Any, folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        copied(source, folder, **options)
    assert not (folder / "out.zarr").exists()
    return str(caught.value)
