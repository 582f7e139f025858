"""A group that killed workers is searched frame by frame, one frame at a time, and not for ever."""

from itertools import islice
from types import SimpleNamespace

from braggflow.flow.poison import MAX_SEARCHES, PoisonSearch
from braggflow.pipeline import Group


def group(first, stop):
    return Group(first, stop, ((first, stop),))


def test_each_frame_is_tried_alone_and_what_killed_is_remembered():
    work, search = SimpleNamespace(searched={}), PoisonSearch()
    assert search.add(work, group(4, 7))
    assert search.just_begun
    assert search.add(work, group(9, 10))
    assert not search.just_begun
    tried = []
    for frame in islice(iter(search.next_frame, None), 9):
        tried.append(frame.position)
        if frame.position == 5:
            search.blame("killed its worker")
    assert tried == [4, 5, 6]
    assert search.take_searched() == (work, group(4, 7), {5: "killed its worker"})
    assert search.next_frame().position == 9
    search.forget(work)
    assert search.next_frame() is None
    assert search.take_searched() is None


def test_a_group_that_starts_at_frame_0_and_one_that_is_empty_come_to_an_end():
    work, search = SimpleNamespace(searched={}), PoisonSearch()
    search.add(work, group(0, 1))
    assert search.next_frame().position == 0
    assert search.next_frame() is None
    assert search.next_frame() is None
    assert search.take_searched() == (work, group(0, 1), {})


def test_a_group_is_searched_so_often_and_no_more():
    work, search = SimpleNamespace(searched={}), PoisonSearch()
    assert [search.add(work, group(2, 4)) for _ in range(MAX_SEARCHES + 2)] == [True] * MAX_SEARCHES + [False] * 2
    assert work.searched == {2: MAX_SEARCHES}
    assert search.add(work, group(0, 2))
