"""Counts tasks that a scheduler had to start more than once: what lost workers cost."""

from collections import Counter
from typing import Any
from uuid import uuid4

from distributed import Client, Scheduler, SchedulerPlugin


class _CounterPlugin(SchedulerPlugin):
    """Counts, by data set (the second part of a key), tasks sent to a worker again."""

    def __init__(self) -> None:
        self.sent = set[Any]()
        self.again = Counter[str]()

    def transition(self, key: Any, start: str, finish: str, *_: Any, stimulus_id: str, **__: Any) -> None:  # noqa: ARG002
        """Called by the scheduler whenever a task changes its state."""
        if finish == "forgotten":
            self.sent.discard(key)
        elif finish == "processing" and isinstance(key, tuple):
            if key in self.sent:
                self.again[key[1]] += 1
            self.sent.add(key)


class RerunCounter:
    """Of one run, on the scheduler of its client; 0 where the scheduler has no braggflow."""

    def __init__(self, client: Client) -> None:
        self._client, self._name = client, f"braggflow-reruns-{uuid4().hex[:8]}"
        try:
            client.register_plugin(_CounterPlugin(), name=self._name)
        except (ImportError, AttributeError, TypeError):
            self._name = ""

    def of(self, dataset: str) -> int:
        """Tasks of a data set that were sent again; asked once, then forgotten."""
        if not self._name:
            return 0
        return int(self._client.run_on_scheduler(_take, name=self._name, dataset=dataset))

    def close(self) -> None:
        """Stop counting."""
        if self._name and self._client.status == "running":
            self._client.unregister_scheduler_plugin(self._name)


def _take(name: str, dataset: str, dask_scheduler: Scheduler) -> int:
    counter = dask_scheduler.plugins[name]
    assert isinstance(counter, _CounterPlugin)
    return counter.again.pop(dataset, 0)
