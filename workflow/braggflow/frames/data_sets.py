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
    - a detector file: HDF5, `NAME.h5`, `.nxs`, ..., or a data set in it, `NAME.h5:/path/in/it`; `.npy`, TIFF, CBF, ...;
    - a folder: the `*.zarr` directly in it, scan_2 before scan_10; where there is none, its detector files (CBF, TIFF,
      ...) are one data set; never its HDF5 files, which may hold anything;
    - a pattern, `'cycle_*/scan_?.zarr'`: the `*.zarr` that match, in the same order; `**` stands for folders at any
      depth (those inside stores are searched too, which takes its time). One that ends like an HDF5 file,
      `'scan_*.h5'`, stands for such files, the data files of EIGER series left to their masters; one that ends like
      another detector file, `'scan_*.cbf'`, for one data set of all of them;
    - a list, any text file: one of the former a line, relative to the list's own folder. Blank lines are left out, and
      what follows a `#` at the start of a line or after a space.

    Folders and patterns leave out hidden names, unfinished stores (`NAME.zarr.wip`) and truths (`NAME.truth.zarr`).
    A link is another name of its store; the first name given counts. Whether a `NAME.zarr` is there and whole is for
    its opening to say, so that it stops no other. Files of one frame each that are named one by one are one data set
    where they are all that a pattern matches (a shell has put them there for it). Raises `InputError` for what cannot
    be a data set at all: other names that do not exist, folders and patterns without a store or detector file, lists
    that are empty or no text.
    """
    found: dict[str, Path] = {}
    for name in names:
        if not str(name).strip():
            raise InputError("data: '' is no name of a data set")
        for path in _named(str(name), f"data: {name}"):
            found.setdefault(os.path.realpath(path), path)
    return _files_of_series(list(found.values()))


def _named(text: str, what: str, base: Path | None = None) -> list[Path]:
    """The data sets of one name; in a list file, whose folder is `base`, it cannot be another list."""
    path = Path(text) if base is None else base / text
    if "\0" in text:
        raise InputError(f"{what}: holds a NUL, which no name of a file can")
    try:
        pattern = glob.has_magic(text) and not path.exists()
        if pattern:
            # Path.glob takes hidden names too, and no absolute patterns.
            matches = glob.glob(text, root_dir=base, recursive=True)  # noqa: PTH207
            matching = [Path(match) if base is None else base / match for match in matches]
            found = _stores(matching) or _hdf5_files(matching, path.suffix)
            if not found and _of_detector(path) and any(match.is_file() for match in matching):
                return [path]
            if not found:
                raise InputError(f"{what}: no frames store (*.zarr) or detector file has such a name")
            return found
        if path.suffix == ".zarr":
            return [path]
        if path.is_dir():
            if path.name.endswith(unfinished_path(Path(".zarr")).name):
                raise InputError(f"{what}: is not finished; the command that makes it goes on when it is given again")
            if any((path / name).exists() for name in ("zarr.json", ".zgroup")):
                return [path]
            return _stores(path.iterdir()) or _files_of_folder(path, what)
        return _file(path, what, listed=base is not None)
    except OSError as error:
        raise InputError(f"{what}: cannot be read ({error.strerror})") from error


def _file(path: Path, what: str, *, listed: bool) -> list[Path]:
    from braggflow.formats import is_hdf5, split_name  # here, because it loads the readers of detector files

    file, _ = split_name(str(path))  # it may name a data set inside
    if not file.exists():
        raise InputError(f"{what}: does not exist")
    if is_hdf5(path) or _of_detector(path):
        return [path]
    if listed:
        raise InputError(f"{what}: is a file; a list may name frames stores, detector files, folders and patterns")
    if path.suffix.lower() in _NO_LISTS:
        raise InputError(
            f"{what}: is {_NO_LISTS[path.suffix.lower()]}, and no list of data sets, which is a text file (.txt, .lst)"
        )
    return _listed(path, what)


#: Text files that people name by mistake.
_NO_LISTS = {
    ".csv": "a table",
    ".tsv": "a table",
    ".json": "JSON",
    ".xml": "XML",
    ".yaml": "a configuration, which comes first (braggflow run CONFIG.yaml DATA)",
    ".yml": "a configuration, which comes first (braggflow run CONFIG.yaml DATA)",
}


def _of_detector(path: Path) -> bool:
    """Whether a file is named like one of a detector other than HDF5, packed or not."""
    from braggflow.formats import FOLDER_SUFFIXES, HDF5_SUFFIXES

    return bare_name(path.name).rpartition(".")[2].lower() in FOLDER_SUFFIXES - HDF5_SUFFIXES


def bare_name(name: str) -> str:
    """The name of a file without the suffix that says that it is packed."""
    return re.sub(r"\.(gz|bz2)$", "", name, flags=re.IGNORECASE)


def _files_of_folder(path: Path, what: str) -> list[Path]:
    from braggflow.formats import HDF5_SUFFIXES

    files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    if any(_of_detector(file) for file in files):
        return [path]
    if any(file.suffix.lower().removeprefix(".") in HDF5_SUFFIXES for file in files):
        raise InputError(
            f"{what}: the folder holds HDF5 files, which may be a series each or one together; name them, or "
            f"'{path}/*.h5' (each a data set), or make one series: braggflow ingest {path} --out {path.name}.zarr"
        )
    raise InputError(f"{what}: the folder holds no frames store (*.zarr) and no detector files")


def _files_of_series(paths: list[Path]) -> list[Path]:
    """Files of one frame each, which a shell made of a pattern, under that pattern again: one data set."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        if _of_detector(path) and path.is_file():
            groups.setdefault((path.parent, path.suffix), []).append(path)
    replaced: dict[Path, Path] = {}
    for (folder, suffix), files in groups.items():
        if len(files) > 1 and _holds_one_frame(files[0]):
            pattern = _pattern_of(folder, suffix, files)
            replaced |= dict.fromkeys(files, pattern)
    return list(dict.fromkeys(replaced.get(path, path) for path in paths))


def _pattern_of(folder: Path, suffix: str, files: Sequence[Path]) -> Path:
    common = os.path.commonprefix([file.name.removesuffix(suffix) for file in files])  # noqa: RUF071 - of characters
    for start in (common.rstrip("0123456789"), common):
        pattern = folder / f"{glob.escape(start)}*{suffix}"
        if {*map(Path, glob.glob(str(pattern)))} == {*files}:  # noqa: PTH207 - as the pattern itself is read
            return pattern
    raise InputError(
        f"data: {files[0]}, ... ({len(files)} files): each holds one frame. Name what is one series by its folder, or "
        f"by a pattern in quotes: '{folder / (common + '*' + suffix)}'"
    )


def _holds_one_frame(path: Path) -> bool:
    from braggflow.formats import inspect_source

    try:
        return sum(stack.frames for stack in inspect_source(str(path))) == 1
    except InputError:
        return False  # its opening says what is wrong with it


def names_files(path: str | Path) -> bool:
    """Whether a data set is detector files: one file, or a folder or pattern whose files are one series."""
    from braggflow.formats import is_hdf5

    path = Path(path)
    if is_hdf5(path):
        return True
    if path.suffix == ".zarr" or any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
        return False
    if path.is_dir():
        return any(_of_detector(file) and not file.name.startswith(".") for file in path.iterdir())
    return _of_detector(path) and (path.is_file() or glob.has_magic(str(path)))


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
    """The name of a data set, and of its run folder: its store's without `.zarr`, its file's without suffix.

    `scan.h5:/entry/data` is named `scan_entry_data`, the pattern `night/scan_*.cbf` `scan`, and `night/*.cbf` `night`.
    """
    found = _name_of(Path(path))
    if found in ("", ".", ".."):  # `..zarr` would be the folder of all results
        raise InputError(f"data: {path}: has no name to give its results")
    return found


def _name_of(path: Path) -> str:
    from braggflow.formats import HDF5_SUFFIXES, split_name

    file, inside = split_name(str(path))
    if inside or file.suffix.lower().removeprefix(".") in HDF5_SUFFIXES:
        return file.stem + inside.replace("/", "_")
    if _of_detector(path) and not path.is_dir():
        name = bare_name(path.name).rpartition(".")[0]
        if glob.has_magic(path.name) and not path.exists():
            name = re.split(r"[*?[]", name)[0].rstrip("_-. ")
        path = Path(name) if name else path.absolute().parent
    return (path if path.name not in ("", "..") else path.resolve()).name.removesuffix(".zarr")


def data_set_names(paths: Sequence[str | Path]) -> list[str]:
    """The names of data sets, in order; raises `InputError` where two are the same, as their results would be mixed."""
    found: dict[str, None] = {}
    for path in paths:
        if (known := data_set_name(path)) in found:
            raise InputError(f"data: {path}: another data set is named {known} too; their results would be mixed")
        found[known] = None
    return list(found)
