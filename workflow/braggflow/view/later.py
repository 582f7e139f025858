"""Work that takes longer than a page may wait: done beside it, of each kind one at a time, the latest alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from bokeh.document import Document

from braggflow.errors import InputError

_T = TypeVar("_T")


class Later:
    """Calls functions in threads, one for each kind of them, and hands what they return to the page's own."""

    def __init__(self, document: Document, failed: Callable[[str], None]) -> None:
        self._document, self._failed = document, failed
        self._latest: dict[str, int] = {}
        self._threads: dict[str, ThreadPoolExecutor] = {}
        document.on_session_destroyed(lambda _: self.stop())

    def do(self, kind: str, work: Callable[[Callable[[], bool]], _T], done: Callable[[_T], None]) -> None:
        """Call `work`, then `done` with its result, unless another of this kind was asked for meanwhile.

        `work` is given a function that says whether its result is still wanted.
        """
        number = self._latest[kind] = self._latest.get(kind, 0) + 1

        def wanted() -> bool:
            return self._latest[kind] == number

        def call() -> None:
            if not wanted():
                return
            try:
                result = work(wanted)
            except InputError as error:
                message = str(error)
                self.tell(lambda: self._failed(message) if wanted() else None)
            else:
                self.tell(lambda: done(result) if wanted() else None)

        if kind not in self._threads:
            self._threads[kind] = ThreadPoolExecutor(1, thread_name_prefix=f"braggflow-view-{kind}")
        self._threads[kind].submit(call).add_done_callback(lambda future: future.result())

    def drop(self, kind: str) -> None:
        """Nothing of this kind is wanted any more."""
        self._latest[kind] = self._latest.get(kind, 0) + 1

    def tell(self, action: Callable[[], Any]) -> None:
        """Have something done by the page's own thread: from any thread."""
        self._document.add_next_tick_callback(action)

    def stop(self) -> None:
        """End: what has not begun is dropped."""
        for kind in self._latest:
            self.drop(kind)
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)
