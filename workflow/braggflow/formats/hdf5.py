"""Series of frames in HDF5 and NeXus files: which data set is meant, where its data lie, what the file says of them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggflow.errors import InputError
from braggflow.formats.metadata import Facts, facts_from_nexus, text_of

#: A data set of frames: file it lies in, path there, shape, dtype, every file that its data lie in, facts.
FoundDataSet = tuple[str, str, tuple[int, ...], np.dtype[Any], list[str], Facts]

_EIGER_DATA = re.compile(r"/data_\d{6}$")


def open_hdf5(path: str) -> Any:
    """An HDF5 file open for reading, with the filters of hdf5plugin at hand."""
    import h5py
    import hdf5plugin  # noqa: F401  registers its filters

    # Nothing is written: a lock would only refuse read-only file systems and files that a detector still holds.
    return h5py.File(path, "r", locking=False)


def inspect_hdf5(path: str, inside: str, coords: Mapping[str, str]) -> list[FoundDataSet]:
    """The data sets of frames in a file: the one named or found, or the linked series of an EIGER master file.

    Raises `InputError` if there are none or several, or if a file that holds part of the data is missing.
    """
    with open_hdf5(path) as file:
        tree = list(_walk(file, path))
        names = _choose(file, path, inside, tree)
        data_sets = [_data_set(file, path, name) for name in names]
        counts = [1 if data_set.ndim == 2 else data_set.shape[0] for data_set in data_sets]
        own = {name: read_coord(file, path, name, place, sum(counts)) for name, place in coords.items()}
        groups = [(name, item) for name, item in tree if hasattr(item, "keys")]
        facts = facts_from_nexus(iter(groups), names[0], data_sets[0].shape[-2:])
        found: list[FoundDataSet] = []
        start = 0
        for data_set, count in zip(data_sets, counts, strict=True):
            part = {name: (values[start : start + count], attrs) for name, (values, attrs) in own.items()}
            of_part = Facts(facts.geometry, facts.saturation, facts.saturation_source, part, facts.pixel_mask)
            holder = str(Path(data_set.file.filename).resolve())
            files = [holder, *_files_behind(data_set, holder)]
            found.append((holder, data_set.name, data_set.shape, data_set.dtype, files, of_part))
            start += count
        return found


def read_hdf5(path: str, inside: str, lo: int, hi: int) -> NDArray[Any]:
    """Frames lo to hi of a data set; a 2-D one is one frame."""
    import h5py

    with open_hdf5(path) as file:
        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        # HDF5 looks for external files from the current folder, where a user would not think to be.
        access.set_efile_prefix(b"${ORIGIN}")
        data_set = h5py.Dataset(h5py.h5d.open(file.id, inside.encode(), access))
        return np.asarray(data_set[()][np.newaxis] if data_set.ndim == 2 else data_set[lo:hi])


def frames_per_chunk(path: str, inside: str) -> int:
    """Frames that are decoded together; 1 where a data set is not chunked."""
    with open_hdf5(path) as file:
        chunks = file[inside].chunks
        return int(chunks[0]) if chunks is not None and len(chunks) == 3 else 1


def read_coord(file: Any, path: str, name: str, place: str, n_frames: int) -> tuple[NDArray[Any], dict[str, str]]:
    """A per-frame coordinate, shape (frame,), and its attributes; a single value holds for every frame of the file."""
    try:
        data_set = file[place]
        shape, kind = data_set.shape, data_set.dtype.kind
    except (KeyError, AttributeError) as error:
        raise InputError(f"--coord {name}={place}: {path} has no such data set") from error
    values = np.ravel(data_set[()]) if kind in "iuf" and data_set.size in (1, n_frames) else np.empty(0)
    if values.size == 0 or (len(shape) > 1 and max(shape) != values.size):
        raise InputError(
            f"--coord {name}={place}: in {path} it has shape {shape} and type {data_set.dtype}, "
            f"must be one number, or one for each of the {n_frames} frames"
        )
    attrs = {key: text_of(data_set.attrs[key]) for key in ("units", "long_name") if key in data_set.attrs}
    return np.broadcast_to(values, n_frames).astype(values.dtype.newbyteorder("=")), attrs


def _walk(group: Any, path: str, prefix: str = "", seen: set[Any] | None = None) -> Iterator[tuple[str, Any]]:
    """(path, group or data set) below a group, each object once; a link that leads nowhere gives (path, None)."""
    import h5py

    seen = set() if seen is None else seen
    for key in group:
        name = f"{prefix}/{key}"
        try:
            item = group[key]
        except (KeyError, OSError):
            yield name, None
            continue
        identity = (item.file.filename, h5py.h5o.get_info(item.id).addr)
        if identity in seen:
            continue
        seen.add(identity)
        yield name, item
        if hasattr(item, "keys"):
            yield from _walk(item, path, name, seen)


def _choose(file: Any, path: str, inside: str, tree: list[tuple[str, Any]]) -> list[str]:
    """Path of the data set of frames, or paths of the linked series."""
    if inside:
        if inside not in file and not isinstance(file.get(inside, getlink=True), _link_types()):
            listed = ", ".join(_candidates(tree, (2, 3))) or "none"
            raise InputError(f"source {path}: has no data set {inside} (2-D and 3-D data sets: {listed})")
        if not hasattr(_target(file, path, inside), "keys"):
            return [inside]
        below = inside.rstrip("/") + "/"
        tree = [(name, item) for name, item in tree if name.startswith(below)]
    series = [name for name, item in tree if _EIGER_DATA.search(name) and (item is None or _is_stack(item, (3,)))]
    if series and len({name.rpartition("/")[0] for name in series}) == 1:
        return sorted(series, key=lambda name: int(name.rpartition("_")[2]))
    for n_dims in (3, 2):
        candidates = _candidates(tree, (n_dims,))
        signals = [name for name in _signals(tree) if name in candidates]
        default = [name for name in [_default_signal(file)] if name in candidates]
        for choice in (default, signals, candidates):
            if len(choice) == 1:
                return choice
        if candidates:
            raise InputError(
                f"source {path}: has {len(candidates)} data sets that may be the frames ({', '.join(candidates)}); "
                f"name one with --dataset, or as {path}:/PATH"
            )
    broken = [name for name, item in tree if item is None]
    more = f"; links that lead nowhere: {', '.join(broken)}" if broken else ""
    raise InputError(f"source {path}: has no 3-D or 2-D numeric data set{' in ' + inside if inside else ''}{more}")


def _is_stack(item: Any, n_dims: tuple[int, ...]) -> bool:
    dtype = getattr(item, "dtype", None)
    return dtype is not None and dtype.kind in "biuf" and len(item.shape or ()) in n_dims


def _candidates(tree: list[tuple[str, Any]], n_dims: tuple[int, ...]) -> list[str]:
    return [name for name, item in tree if item is not None and _is_stack(item, n_dims)]


def _signals(tree: list[tuple[str, Any]]) -> list[str]:
    """Paths of the NXdata groups' signals, each data set once under the path by which the walk met it."""
    met = {item.name: name for name, item in tree if item is not None}
    paths = [
        met.get(item[text_of(item.attrs["signal"])].name)
        for _, item in tree
        if hasattr(item, "keys") and "signal" in item.attrs and text_of(item.attrs["signal"]) in item
    ]
    return list(dict.fromkeys(path for path in paths if path is not None))


def _default_signal(file: Any) -> str:
    """The signal that the `default` attributes lead to, or an empty string."""
    group = file
    while "default" in group.attrs and text_of(group.attrs["default"]) in group:
        group = group[text_of(group.attrs["default"])]
    signal = text_of(group.attrs.get("signal", ""))
    return str(group[signal].name) if signal and signal in group else ""


def _link_types() -> tuple[type, ...]:
    import h5py

    return (h5py.SoftLink, h5py.ExternalLink)


def _target(file: Any, path: str, name: str) -> Any:
    try:
        return file[name]
    except (KeyError, OSError) as error:
        link = file.get(name, getlink=True)
        to = f"{getattr(link, 'filename', path)}:{getattr(link, 'path', name)}"
        raise InputError(f"source {path}: {name} links to {to}, which is missing or cannot be opened") from error


def _data_set(file: Any, path: str, name: str) -> Any:
    item = _target(file, path, name)
    if hasattr(item, "keys"):
        raise InputError(f"source {path}: {name} is a group, must be a data set")
    return item


def _files_behind(data_set: Any, holder: str) -> list[str]:
    """Files in which a virtual or external data set's values lie; HDF5 would give fill values where one is missing."""
    files: list[str] = []
    folder = Path(holder).parent
    name = f"source {holder}:{data_set.name}"
    left = data_set.nbytes
    for external, offset, size in data_set.external or ():
        file, length = folder / external, min(size, left)
        if not file.is_file() or file.stat().st_size < offset + length:
            raise InputError(f"{name}: its values lie in {file}, which is missing or too short")
        left -= length
        files.append(str(file.resolve()))
    for part in data_set.virtual_sources() if data_set.is_virtual else ():
        file = Path(holder) if part.file_name == "." else folder / part.file_name
        files += _files_of_part(part, file, name)
    return list(dict.fromkeys(files))


def _files_of_part(part: Any, file: Path, name: str) -> list[str]:
    import h5py

    if not file.is_file():
        raise InputError(f"{name}: part of its values lie in {file}, which is missing")
    with open_hdf5(str(file)) as opened:
        if part.dset_name not in opened:
            raise InputError(f"{name}: part of its values lie in {file}:{part.dset_name}, which is missing")
        source = opened[part.dset_name]
        if part.src_space.get_select_type() == h5py.h5s.SEL_ALL:
            enough = source.size >= part.vspace.get_select_npoints()
        else:
            last = part.src_space.get_select_bounds()[1]
            enough = all(end < length for end, length in zip(last, source.shape, strict=True))
        if not enough:
            raise InputError(
                f"{name}: part of its values lie in {file}:{part.dset_name}, which has only shape {source.shape}"
            )
        resolved = str(file.resolve())
        return [resolved, *_files_behind(source, resolved)]
