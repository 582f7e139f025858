"""What a reader finds in a list of another program, and numbers of text files with the place of one that is none."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.peak_table import VARIABLES


class PeakList(NamedTuple):
    """The peaks of a list under our names and in our conventions; each column of shape (n,)."""

    columns: Mapping[str, NDArray[Any]]
    """Of these `y` and `x` are needed, and `peak_frame` or `omega`."""
    frames: NDArray[np.int64] | None = None
    """Numbers of all its frames, also those without a peak, where it knows them."""
    unread: Sequence[str] = ()
    """Names of columns that our table has no place for."""
    row_name: str = "row"
    """What a row is called in a message, and the number of the first."""
    first_row: int = 0


def own_columns(found: Mapping[str, NDArray[Any]]) -> PeakList:
    """A list whose columns have our names."""
    known = {name: values for name, values in found.items() if name in VARIABLES}
    return PeakList(known, unread=[name for name in found if name not in known])


def numbers_of_text(
    path: Path, names: Sequence[str], separator: str, skip: int, wanted: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Columns of a text file as numbers; `separator` is a comma or, for white space, r"\\s+".

    `names` are those of all its columns, the first `skip` lines are left out. Raises `InputError` that names line,
    column and value where one is no number, and where a line has more or fewer values.
    """
    import pandas as pd

    # From 3.1 on pandas reads numbers exactly, and warns who asks for it.
    exactly: Any = {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            names=list(names),
            skiprows=skip,
            usecols=list(wanted),
            dtype=dict.fromkeys(wanted, np.float64),
            header=None,
            comment="#",
            skip_blank_lines=True,
            index_col=False,
            encoding="utf-8",
            **exactly,
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise _misread(path, names, separator, skip, wanted, error) from error
    return {name: table[name].to_numpy() for name in wanted}


def _misread(
    path: Path, names: Sequence[str], separator: str, skip: int, wanted: Sequence[str], error: Exception
) -> InputError:
    """What is wrong with a text file, looked for line by line."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if number <= skip or not line.strip() or line.startswith("#"):
                continue
            values = line.strip().split("," if separator == "," else None)
            if len(values) != len(names):
                return InputError(f"{path}: line {number} has {len(values)} values, its columns are {len(names)}")
            for name, value in zip(names, values, strict=True):
                if name in wanted and not _is_number(value):
                    return InputError(f"{path}: line {number}: {name} is {value!r}, must be a number")
    return InputError(f"{path}: cannot be read ({error})")


def _is_number(text: str) -> bool:
    if not text.strip():
        return True  # missing
    try:
        float(text)
    except ValueError:
        return False
    return True
