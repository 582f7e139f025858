"""Which data set of an HDF5 file holds the frames."""

import re
from dataclasses import dataclass, field
from typing import Any

from braggflow.errors import InputError
from braggflow.formats.hdf5.tree import LINK_ERRORS, Node, Tree, join, read_tree, why_broken
from braggflow.formats.readers import SMALLEST_SIDE

#: A data set or group whose name is made of such words only, with one of the first kind, holds no frames.
_CALIBRATION = re.compile(
    r"(bad|dead|hot)?(pixel)?masks?|badpixels?|darks?|(dark|flat|white)field|flats?|whites?|pedestals?|gains?|gainmap|"
    r"backgrounds?|errors?|uncertaint(y|ies)|variances?|weights?|sigma"
)
_BESIDE = re.compile(
    r"pixels?|bad|dead|hot|good|valid|detector|user|data|images?|frames?|array|field|current|maps?|averaged?|avg|mean|"
    r"median|master|corrections?|pre|post"
)
_EIGER_DATA = re.compile(r"data_(\d{6})")
#: How many names a message lists.
_LISTED = 12


@dataclass(frozen=True, slots=True)
class Choice:
    """One data set, or the numbered members of an EIGER series."""

    name: str = ""
    """Path of the data set; empty for a series."""
    series: dict[int, str] = field(default_factory=dict)
    """Paths by number, also of links that lead nowhere."""
    others: tuple[str, ...] = ()
    """What else may be frames, as `/path (shape)`."""


def choose(file: Any, path: str, inside: str, tree: Tree, *, calibration: bool = False) -> Choice:
    """The data set named by `inside`, or the one below it (below the root if it is empty) that is the frames.

    `calibration`: masks, darks and flats may be meant. Raises `InputError` where nothing or more than one thing is, or
    where the link that says which one leads nowhere.
    """
    if inside:
        if not hasattr(named(file, path, inside, tree), "keys"):
            return Choice(inside)
        tree = read_tree(file, inside)
    candidates = [node for node in tree.nodes if may_be_frames(node, tree.below, calibration=calibration)]
    series = _eiger_series(file, path, tree)
    if series:
        members = [tree.by_name.get(name) for name in series.values()]
        return Choice(series=series, others=_others(candidates, members))
    default, signals = _default_signal(file, tree), _signals(file, tree)
    lost = [name for name in tree.broken if calibration or not _is_calibration(name, tree.below)]
    stacks, images = [n for n in candidates if len(n.shape) > 2], [n for n in candidates if len(n.shape) == 2]
    for among in (stacks, images):
        if default is not None and _is_one_of(default[1], among):
            return _chosen(default[1], candidates)
        if default is not None and default[1] is None:
            raise _leads_nowhere(file, path, "the default", default[0], tree)
        of_signals = [node for node in _each_once(node for _, node in signals) if _is_one_of(node, among)]
        dead = [name for name, node in signals if node is None]
        if dead and len(of_signals) < 2:
            raise _leads_nowhere(file, path, "the signal", dead[0], tree)
        for choice in (of_signals, [node for node in among if len(node.shape) < 4], among):
            if len(choice) == 1:
                if choice is not of_signals and lost:
                    raise _leads_nowhere(file, path, "a link", lost[0], tree)
                return _chosen(choice[0], candidates)
        if among:
            raise InputError(
                f"source {path}: has {len(among)} data sets that may be the frames "
                f"({_shortened([node.names[0] for node in among])}); name one with --dataset, or as {path}:/PATH"
            )
    more = "".join(f"; {why_broken(file, name)}" for name in tree.broken[:3])
    where = f" in {inside}" if inside else ""
    raise InputError(
        f"source {path}: has no 3-D or 2-D numeric data set{where} that may be frames{more} ({listing(tree)})"
    )


def named(file: Any, path: str, inside: str, tree: Tree) -> Any:
    """The group or data set of a path that the user gave."""
    try:
        return file[inside]
    except LINK_ERRORS as error:
        reason = why_broken(file, inside)
        if " links to " in reason:
            raise InputError(f"source {path}: {reason}") from error
        raise InputError(f"source {path}: has no data set {inside} ({listing(tree)})") from error


def listing(tree: Tree) -> str:
    """The numeric data sets that are more than one number, with their shapes, for a message."""
    found = [node for node in tree.nodes if node.is_numeric and node.shape]
    found.sort(key=lambda node: -len(node.shape))
    return "its numeric data sets: " + (_shortened([_with_shape(node) for node in found]) or "none")


def may_be_frames(node: Node, below: str, *, calibration: bool = False) -> bool:
    """Whether a data set can be images, and is not called like a `calibration` where none is meant."""
    if not node.is_numeric or not 2 <= len(node.shape) <= 4 or min(node.shape[-2:]) < SMALLEST_SIDE or node.in_sample:
        return False
    return calibration or not all(_is_calibration(name, below) for name in node.names)


def _is_calibration(name: str, below: str) -> bool:
    """Whether a part of the path below the group that is searched is called like a mask, dark, flat or the like."""
    for part in name.removeprefix(below).split("/"):
        words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", part)}
        calibration = {word for word in words if _CALIBRATION.fullmatch(word)}
        bad_pixels = {"bad", "dead", "hot"} & words and {"pixel", "pixels"} & words
        if (calibration or bad_pixels) and all(_BESIDE.fullmatch(word) for word in words - calibration):
            return True
    return False


def _eiger_series(file: Any, path: str, tree: Tree) -> dict[int, str]:
    """The data sets and links called data_NNNNNN by number, of the one group that has any such."""
    groups: dict[str, dict[int, str]] = {}
    for name in [*tree.by_name, *tree.broken]:
        group, _, last = name.rpartition("/")
        number, node = _EIGER_DATA.fullmatch(last), tree.by_name.get(name)
        if number and (node is None or not node.is_group):
            groups.setdefault(group, {})[int(number[1])] = name
    # Without a member that is a stack or a broken link, it is something else of that name.
    groups = {
        group: dict(sorted(members.items()))
        for group, members in groups.items()
        if any(_is_member(tree.by_name.get(name)) for name in members.values())
    }
    # The same members in two groups are one series.
    distinct = {tuple(id(tree.by_name.get(n, n)) for n in members.values()): group for group, members in groups.items()}
    if len(distinct) > 1:
        default = _default_signal(file, tree)
        group = default[0].rpartition("/")[0] if default else ""
        if group not in groups:
            raise InputError(
                f"source {path}: has {len(distinct)} series of data_NNNNNN ({_shortened([g or '/' for g in groups])}); "
                f"name one with --dataset, or as {path}:/PATH"
            )
        return groups[group]
    return next(iter(groups.values()), {})


def _is_member(node: Node | None) -> bool:
    return node is None or (node.is_numeric and len(node.shape) == 3 and min(node.shape[-2:]) >= SMALLEST_SIDE)


def _signals(file: Any, tree: Tree) -> list[tuple[str, Node | None]]:
    """Path and data set, None where it leads nowhere, of every group's signal."""
    found = [_signal(file, tree, node) for node in tree.nodes if node.is_group and not node.in_sample]
    return [signal for signal in found if signal is not None]


def _signal(file: Any, tree: Tree, group: Node) -> tuple[str, Node | None] | None:
    """Path and data set of a group's signal: named by its attribute, or marked by an attribute of the data set."""
    if group.signal:
        name = join(group.names[0], group.signal)
        return name, tree.find(file, name)
    if group.nx_class == "NXdata":  # the way of NeXus before 2014
        for key in file[group.names[0]]:
            name = join(group.names[0], key)
            node = tree.by_name.get(name)
            if node is not None and node.is_numeric and str(file[name].attrs.get("signal", "")) in ("1", "b'1'"):
                return name, node
    return None


def _default_signal(file: Any, tree: Tree) -> tuple[str, Node | None] | None:
    """Where the `default` attributes lead: path and data set, None instead of it where they lead nowhere."""
    node, met = tree.by_name[tree.below], set()
    while node.default and node.names[0] not in met:
        met.add(node.names[0])
        name = join(node.names[0], node.default)
        after = tree.find(file, name)
        if after is None or not after.is_group:
            return name, after
        node = after
    return _signal(file, tree, node)


def _is_one_of(node: Node | None, nodes: list[Node]) -> bool:
    return any(node is other for other in nodes)


def _each_once(nodes: Any) -> list[Node]:
    return list({id(node): node for node in nodes if node is not None}.values())


def _chosen(node: Node | None, candidates: list[Node]) -> Choice:
    assert node is not None
    return Choice(node.names[0], others=_others(candidates, [node]))


def _others(candidates: list[Node], taken: list[Node | None]) -> tuple[str, ...]:
    """Candidates beside what is taken; single images beside a series are none."""
    series = any(node is None or len(node.shape) > 2 for node in taken)
    left = [node for node in candidates if not _is_one_of(node, [t for t in taken if t is not None])]
    return tuple(_with_shape(node) for node in left if len(node.shape) > 2 or not series)


def _with_shape(node: Node) -> str:
    return f"{node.names[0]} {node.shape}"


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _leads_nowhere(file: Any, path: str, what: str, name: str, tree: Tree) -> InputError:
    """The refusal to take another data set where the one that is meant is not there."""
    return InputError(
        f"source {path}: {what} that may be the frames leads nowhere: {why_broken(file, name)}. Mend it, or name the "
        f"data set that is meant with --dataset, or as {path}:/PATH ({listing(tree)})"
    )
