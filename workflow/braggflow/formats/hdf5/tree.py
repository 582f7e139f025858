"""What an HDF5 file holds: every object once with all its names, and the links that lead nowhere."""

import posixpath
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from braggflow.formats.metadata import text_of

#: What h5py raises where a path cannot be followed to an object that it can open.
LINK_ERRORS = (KeyError, OSError, RuntimeError, ValueError, TypeError)
#: More links in a row than this are taken for a circle, as by HDF5.
_LINKS_IN_A_ROW = 16


def open_hdf5(path: str) -> Any:
    """An HDF5 file open for reading, with the filters of hdf5plugin at hand."""
    import h5py
    import hdf5plugin  # noqa: F401  registers its filters

    # Nothing is written: a lock would only refuse read-only file systems and files that a detector still holds.
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "open for write" not in str(error):
            raise
        try:  # being written in SWMR mode, or its writer ended early: such a file opens in that mode only
            return h5py.File(path, "r", locking=False, swmr=True)
        except OSError:
            raise error from None


@dataclass(slots=True)
class Node:
    """A group or data set."""

    names: list[str]
    """Its paths, those over hard links first; of a group's members only the paths below its first name are known."""
    is_group: bool
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] | None = None
    """None for a group, and where NumPy has no such type."""
    nx_class: str = ""
    default: str = ""
    signal: str = ""
    in_sample: bool = False
    """Whether it lies below an NXsample by all its names."""

    @property
    def is_numeric(self) -> bool:
        """Whether it is a data set of real numbers."""
        return self.dtype is not None and self.dtype.kind in "biuf"


@dataclass(slots=True)
class Tree:
    """The objects below a group in the order of the walk, hard links before others."""

    below: str
    nodes: list[Node] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Paths of links that lead nowhere, except those below an NXsample."""
    by_name: dict[str, Node] = field(default_factory=dict)
    by_identity: dict[tuple[str, int], Node] = field(default_factory=dict)

    def find(self, file: Any, name: str) -> Node | None:
        """The node of any path to it, or None where the path leads nowhere or to what the walk has not met."""
        if name in self.by_name:
            return self.by_name[name]
        try:
            return self.by_identity.get(_identity(file[name]))
        except LINK_ERRORS:
            return None


def read_tree(file: Any, below: str = "/") -> Tree:
    """Everything below a group, also over soft and external links. Nothing is kept open."""
    tree = Tree(below)
    links = deque([(below, False)])
    while links:
        name, in_sample = links.popleft()
        try:
            item = file[name]
        except LINK_ERRORS:
            if not in_sample:
                tree.broken.append(name)
            continue
        _add(tree, name, item, in_sample, links)
    return tree


def _add(tree: Tree, name: str, item: Any, in_sample: bool, links: deque[tuple[str, bool]]) -> None:
    """Add an object and what hangs on it by hard links; other links are left for later in `links`."""
    import h5py

    todo = [(name, item, in_sample)]
    while todo:
        name, item, in_sample = todo.pop()
        identity = _identity(item)
        if identity in tree.by_identity:
            known = tree.by_name[name] = tree.by_identity[identity]
            known.names.append(name)
            known.in_sample &= in_sample
            continue
        node = _describe(name, item, in_sample)
        tree.nodes.append(node)
        tree.by_identity[identity] = tree.by_name[name] = node
        if not node.is_group:
            continue
        members = []
        in_sample = in_sample or node.nx_class == "NXsample"
        for key in item:
            place = join(name, key)
            try:
                hard = item.id.links.get_info(key.encode(errors="surrogateescape")).type == h5py.h5l.TYPE_HARD
                if hard:
                    members.append((place, item[key], in_sample))
                else:
                    links.append((place, in_sample))
            except LINK_ERRORS:
                tree.broken.append(place)
        todo += reversed(members)


def _describe(name: str, item: Any, in_sample: bool) -> Node:
    import h5py

    if isinstance(item, h5py.Group):
        nx_class, default, signal = (attribute_text(item, key) for key in ("NX_class", "default", "signal"))
        return Node([name], True, nx_class=nx_class, default=default, signal=signal, in_sample=in_sample)
    try:
        return Node([name], False, tuple(item.shape or ()), item.dtype, in_sample=in_sample)
    except (AttributeError, *LINK_ERRORS):  # a named type, or a type that NumPy does not have
        return Node([name], False, in_sample=in_sample)


def _identity(item: Any) -> tuple[str, int]:
    """File and address: the same whichever links lead to an object."""
    import h5py

    return h5py.h5f.get_name(item.id).decode(errors="surrogateescape"), h5py.h5o.get_info(item.id).addr


def join(group: str, name: str) -> str:
    """The path of a member named relative to its group, or from the root."""
    return posixpath.normpath(posixpath.join(group, name))


def attribute_texts(item: Any, name: str) -> list[str]:
    """An attribute that is a text or a list of texts; nothing where it is absent or of another type."""
    try:
        value = item.attrs.get(name)
    except (AttributeError, *LINK_ERRORS):
        return []
    values = value.ravel().tolist() if isinstance(value, np.ndarray) else [value]
    return [text_of(text).rstrip("\0") for text in values if isinstance(text, str | bytes)]


def attribute_text(item: Any, name: str) -> str:
    """An attribute that is one text, else an empty one."""
    texts = attribute_texts(item, name)
    return texts[0] if len(texts) == 1 else ""


def located(holder: str, name: str) -> Path:
    """The file that HDF5 opens for a name written in the file `holder`.

    An absolute one that has been moved is looked for beside `holder`; not in the current folder, where HDF5 looks last.
    """
    place = Path(holder).parent / name
    beside = Path(holder).parent / Path(name).name
    return beside if Path(name).is_absolute() and not place.is_file() and beside.is_file() else place


def why_broken(file: Any, name: str, depth: int = _LINKS_IN_A_ROW) -> str:
    """Why a path cannot be followed: `/a/b links to nowhere.h5:/d, which is missing or cannot be opened`."""
    import h5py

    parent, place = file, "/"
    for part in name.strip("/").split("/"):
        place = join(place, part)
        try:
            parent = file[place]
            continue
        except LINK_ERRORS:
            pass
        try:
            link = parent.get(part, getlink=True)
        except (AttributeError, *LINK_ERRORS):
            link = None
        if link is None:
            return f"there is no {place}"
        if isinstance(link, h5py.SoftLink):
            target = join(posixpath.dirname(place), link.path)
            beyond = why_broken(file, target, depth - 1) if depth else ""
            return f"{place} links to {link.path}, {_beyond(beyond)}"
        if isinstance(link, h5py.ExternalLink):
            at = located(parent.file.filename, link.filename)
            beyond = ""
            if depth and at.is_file():
                try:
                    with open_hdf5(str(at)) as other:
                        beyond = why_broken(other, link.path, depth - 1)
                except OSError:
                    beyond = ""
            return f"{place} links to {link.filename}:{link.path}, {_beyond(beyond)}"
        return f"{place} cannot be opened"
    return ""


def _beyond(reason: str) -> str:
    return f"where {reason}" if " links to " in reason else "which is missing or cannot be opened"
