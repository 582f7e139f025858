"""What it costs that no other user of the machine gets into a local cluster: certificates beside none, in one run.

Start: from the call until both workers have done a first task. Rate: 400 tasks a round that search one 512² frame of 14
peaks each, results of the size of a part's summary. Medians of alternating clusters, and of the ratio of neighbours.

    python benchmarks/bench_local_tls.py [pairs, 9]
"""

import statistics
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from distributed import Client, wait

from braggflow.cluster.connect import local_cluster
from braggflow.cluster.profiles import LocalProfile
from braggflow.config import ComputeConfig
from braggflow.pipeline import find_peaks

WORKERS, TASKS, ROUNDS = 2, 400, 3


def search(seed: int) -> dict[str, Any]:
    frame = np.random.default_rng(seed % 8).poisson(4, (512, 512)).astype(np.uint16)
    frame[20:500:40, 30] = 200
    return {"peaks": find_peaks(frame).sizes["peak"], "seed": seed}


def started(client: Client) -> None:
    client.wait_for_workers(WORKERS)
    wait(client.map(search, range(WORKERS), pure=False))


def measured(tls: bool, work: Callable[[int], Any] = search) -> tuple[float, float]:
    """Seconds until a cluster has worked, and its tasks a second."""
    begun = perf_counter()
    with local_cluster(ComputeConfig(), LocalProfile(kind="local", workers=WORKERS, tls=tls)) as client:
        started(client)
        start, rounds = perf_counter() - begun, []
        for _ in range(ROUNDS):
            begun = perf_counter()
            client.gather(client.map(work, range(TASKS), pure=False))
            rounds.append(TASKS / (perf_counter() - begun))
    return start, statistics.median(rounds)


def main(pairs: int = 9) -> None:
    measured(tls=True)  # what is loaded and compiled once
    orders = ((True, False) if at % 2 else (False, True) for at in range(pairs))
    rows = [{tls: measured(tls) for tls in order} for order in orders]
    for number, name in enumerate(("seconds until both workers have worked", "tasks a second")):
        ours, plain = (statistics.median(row[tls][number] for row in rows) for tls in (True, False))
        ratios = statistics.quantiles([row[True][number] / row[False][number] for row in rows], n=4)
        spread = f"{ratios[1]:.3f} ({ratios[0]:.3f} to {ratios[2]:.3f})"
        print(f"{name}: {ours:.3g} with certificates, {plain:.3g} without, ratio {spread}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
