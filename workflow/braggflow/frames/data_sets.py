"""Which data sets a user means, and what each is called."""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from braggflow.errors import InputError
from braggflow.frames.store import unfinished_path

#: Larger files are no lists of data sets, and not worth reading to the end.
_LIST_BYTES = 16 * 2**20


def expand_data_sets(names: Sequence[str | Path]) -> list[Path]:
    """The data sets that a user names, in the order named, each once.

    A name is one of:

    - a frames store, `NAME.zarr` (or any folder that is a Zarr store);
    - an HDF5 file, `NAME.h5`, `.nxs`, ..., or a data set in it, `NAME.h5:/path/in/it`;
    - a folder: the `*.zarr` directly in it, scan_2 before scan_10; never its HDF5 files, which may hold anything;
    - a pattern, `'cycle_*/scan_?.zarr'`: the `*.zarr` that match, in the same order; `**` stands for folders at any
      depth (those inside stores are searched too, which takes its time). One that ends like an HDF5 file,
      `'scan_*.h5'`, stands for such files, the data files of EIGER series left to their masters;
    - a list, any text file: one of the former a line, relative to the list's own folder. Blank lines are left out, and
      what follows a `#` at the start of a line or after a space.

    Folders and patterns leave out hidden names, unfinished stores (`NAME.zarr.wip`) and truths (`NAME.truth.zarr`).
    A link is another name of its store; the first name given counts. Whether a `NAME.zarr` is there and whole is for
    its opening to say, so that it stops no other. Raises `InputError` for what cannot be a data set at all: other names
    that do not exist, folders and patterns without a store, lists that are empty or no text, and other detector files.
    """
    found: dict[str, Path] = {}
    for name in names:
        if not str(name).strip():
            raise InputError("data: '' is no name of a data set")
        for path in _named(str(name), f"data: {name}"):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _named(text: str, what: str, base: Path | None = None) -> list[Path]:
    """The data sets of one name; in a list file, whose folder is `base`, it cannot be another list."""
    path = Path(text) if base is None else base / text
    try:
        pattern = glob.has_magic(text) and not path.exists()
        if pattern:
            # Path.glob takes hidden names too, and no absolute patterns.
            matches = glob.glob(text, root_dir=base, recursive=True)  # noqa: PTH207
            matching = [Path(match) if base is None else base / match for match in matches]
            found = _stores(matching) or _hdf5_files(matching, path.suffix)
            if not found:
                raise InputError(f"{what}: no frames store (*.zarr) has such a name")
            return found
        if path.suffix == ".zarr":
            return [path]
        if path.is_dir():
            if path.name.endswith(unfinished_path(Path(".zarr")).name):
                raise InputError(f"{what}: is not finished; the command that makes it goes on when it is given again")
            if any((path / name).exists() for name in ("zarr.json", ".zgroup")):
                return [path]
            stores = _stores(path.iterdir())
            if not stores:
                raise InputError(f"{what}: the folder holds no frames store (*.zarr); braggflow ingest makes one")
            return stores
        return _file(path, what, listed=base is not None)
    except OSError as error:
        raise InputError(f"{what}: cannot be read ({error.strerror})") from error


def _file(path: Path, what: str, *, listed: bool) -> list[Path]:
    from braggflow.formats import (  # here, because it loads the readers of detector files
        FOLDER_SUFFIXES,
        is_hdf5,
        split_name,
    )

    file, _ = split_name(str(path))  # it may name a data set inside
    if not file.exists():
        raise InputError(f"{what}: does not exist")
    if is_hdf5(path):
        return [path]
    suffix = file.name.lower().removesuffix(".gz").removesuffix(".bz2").rpartition(".")[2]
    if suffix in FOLDER_SUFFIXES:
        raise InputError(f"{what}: is a detector file; braggflow ingest makes a frames store of it")
    if listed:
        raise InputError(f"{what}: is a file; a list may name frames stores, folders and patterns")
    return _listed(path, what)


def _listed(path: Path, what: str) -> list[Path]:
    with path.open("rb") as file:
        content = file.read(_LIST_BYTES + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or len(content) > _LIST_BYTES:
        raise InputError(
            f"{what}: is neither a frames store nor a text file that lists them; "
            "if it comes from a detector, braggflow ingest makes a frames store of it"
        )
    found: list[Path] = []
    for number, line in enumerate(text.splitlines(), 1):
        if entry := re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip():
            found += _named(entry, f"{what}, line {number}: {entry}", path.parent)
    if not found:
        raise InputError(f"{what}: is a list that names no data set")
    return found


def _stores(paths: Iterable[Path]) -> list[Path]:
    from braggflow.formats import natural_key

    return sorted(filter(is_named_as_store, paths), key=lambda path: natural_key(str(path)))


def _hdf5_files(paths: Iterable[Path], suffix: str) -> list[Path]:
    """The HDF5 files among `paths` that a pattern ending in `suffix` stands for."""
    from braggflow.formats import HDF5_SUFFIXES, is_hdf5, natural_key, without_eiger_data

    if suffix.lower().removeprefix(".") not in HDF5_SUFFIXES:
        return []
    found = without_eiger_data([path for path in paths if is_hdf5(path)])
    return sorted(found, key=lambda path: natural_key(str(path)))


def is_named_as_store(path: Path) -> bool:
    """Whether a folder or pattern takes this path for a frames store."""
    return path.name.endswith(".zarr") and not path.name.startswith(".") and not path.name.endswith(".truth.zarr")


def data_set_name(path: str | Path) -> str:
    """The name of a data set, and of its run folder: its store's without `.zarr`, its HDF5 file's without suffix.

    `scan.h5:/entry/data` is named `scan_entry_data`.
    """
    from braggflow.formats import HDF5_SUFFIXES, split_name

    path = Path(path)
    file, inside = split_name(str(path))
    if inside or file.suffix.lower().removeprefix(".") in HDF5_SUFFIXES:
        return file.stem + inside.replace("/", "_")
    found = (path if path.name not in ("", "..") else path.resolve()).name.removesuffix(".zarr")
    if not found:
        raise InputError(f"data: {path}: has no name to give its results")
    return found


def data_set_names(paths: Sequence[str | Path]) -> list[str]:
    """The names of data sets, in order; raises `InputError` where two are the same, as their results would be mixed."""
    found: dict[str, None] = {}
    for path in paths:
        if (known := data_set_name(path)) in found:
            raise InputError(f"data: {path}: another data set is named {known} too; their results would be mixed")
        found[known] = None
    return list(found)
