"""Frames that kill the worker that processes them: found by processing each frame of a suspected group alone."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from braggflow.flow.data_set import DataSetRun
from braggflow.pipeline import Group

#: How often a group that killed workers is searched for the frame that does it.
MAX_SEARCHES = 3


@dataclass(slots=True)
class Search:
    """A group that kills workers; `position` is the frame that is processed alone now."""

    work: DataSetRun
    group: Group
    left: Iterator[int]
    position: int = -1
    poison: dict[int, str] = field(default_factory=dict)
    """Why each frame that killed its worker failed, by position."""


class PoisonSearch:
    """The groups to be searched, one after the other and frame by frame.

    One frame at a time in the whole run: whatever else waits on a worker that dies would be blamed too.
    """

    def __init__(self) -> None:
        self._searches: deque[Search] = deque()

    def add(self, work: DataSetRun, group: Group) -> bool:
        """Take up a group that killed workers; False where searching it has not helped before."""
        searched = work.searched.get(group.first, 0)
        if searched >= MAX_SEARCHES:
            return False
        work.searched[group.first] = searched + 1
        self._searches.append(Search(work, group, iter(range(group.first, group.stop))))
        return True

    def forget(self, work: DataSetRun) -> None:
        """Search no more in a data set."""
        self._searches = deque(search for search in self._searches if search.work is not work)

    @property
    def just_begun(self) -> bool:
        """Whether the group that was added last is the only one, so that no frame is under way."""
        return len(self._searches) == 1

    def next_frame(self) -> Search | None:
        """The search with its next frame at `position`; None where the first group is through, or there is none."""
        if not self._searches:
            return None
        search = self._searches[0]
        search.position = next(search.left, -1)
        return search if search.position >= 0 else None

    def blame(self, reason: str) -> None:
        """Record that the frame under way killed its worker."""
        search = self._searches[0]
        search.poison[search.position] = reason

    def take_searched(self) -> tuple[DataSetRun, Group, Mapping[int, str]] | None:
        """The group that is through, and its frames that are not to be touched again; None where there is none."""
        if not self._searches:
            return None
        search = self._searches.popleft()
        return search.work, search.group, search.poison
