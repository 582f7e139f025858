"""What a worker needs of memory: stated before a run, and enough."""

import json
import subprocess
import sys

import numpy as np
import pytest

from braggflow.cluster.profiles import LocalProfile
from braggflow.config import RunConfig
from braggflow.errors import InputError
from braggflow.flow import run
from braggflow.frames import create_store, finish_store, open_frames, open_series
from braggflow.pipeline import check_memory, memory_need, plan_groups

MEASURE = """
import re, sys
import distributed
import braggflow.flow
from braggflow import frames, pipeline
from braggflow.config import RunConfig
data, config = frames.open_frames(sys.argv[1]), RunConfig.model_validate_json(sys.argv[2])
opened, groups = frames.open_series(data, config), pipeline.plan_groups(data, config)
for group in groups[:3]:
    found = [pipeline.search_chunk(opened, first, stop) for first, stop in group.chunks]
    pipeline.complete_peaks(config, found, pipeline.locate_peaks(config, found))
need = pipeline.memory_need(opened, groups)
# Not what getrusage tells: that begins with the memory of the process that started this one.
used = int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(used, need.process + need.thread)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Frames of 2048² with a spot on every 50th row and column."""
    path = tmp_path_factory.mktemp("memory") / "a.zarr"
    image = np.random.default_rng(0).poisson(5, (2048, 2048)).astype(np.uint16)
    image[25::50, 25::50] += 500
    create_store(path, n_frames=6, shape=image.shape, dtype=image.dtype)[:] = np.broadcast_to(image, (6, *image.shape))
    finish_store(path)
    return path


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("fits", {"detect": {"minval": 30, "minscore": 20}, "locate": {"network": "none"}}),
        ("network", {"detect": {"minval": 30, "minscore": 20}, "locate": {"network": "compact"}}),
        ("binned", {"detect": {"minval": 60, "minscore": 20}, "locate": {"network": "none"}, "frames": {"bin": 2}}),
    ],
)
def test_the_stated_need_holds_and_is_not_twice_what_is_used(store, name, sections):
    config = RunConfig.model_validate({**sections, "fit": {"fraction": 1}})
    command = [sys.executable, "-c", MEASURE, str(store), config.model_dump_json()]
    subprocess.check_output(command)  # compiles, which workers leave to their client
    used, need = json.loads(f"[{subprocess.check_output(command, text=True).strip().replace(' ', ',')}]")
    assert used <= need <= 2 * used


def test_a_plan_over_the_workers_limit_is_refused_before_it_starts(tmp_path, store):
    profile = LocalProfile(kind="local", workers=1, memory_limit="400MiB")
    with pytest.raises(InputError, match=r"a\.zarr: a worker needs \d+ MiB, its limit is 400 MiB; raise compute"):
        run({"output": {"folder": str(tmp_path / "out")}}, [store], cluster=profile)
    assert not (tmp_path / "out" / "a").exists()


def test_more_threads_and_larger_chunks_need_more(store):
    data = open_frames(store)
    opened = open_series(data, RunConfig())
    need = memory_need(opened, plan_groups(data, RunConfig()))
    check_memory("a", need, 0, 1000)  # no limit
    limit = int(need.process + 2 * need.thread) + 1
    check_memory("a", need, limit, 2)
    with pytest.raises(InputError, match="for 3 threads"):
        check_memory("a", need, limit, 3)
