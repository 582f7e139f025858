"""A series slow enough for its run to be disturbed, profiles of the test cluster, and `braggflow run` as a process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr

from braggflow.flow import run
from braggflow.results import RunFolder, open_peaks, read_run_info
from tests.patience import PATIENCE
from tests.slurm.conftest import wait_until
from tests.stores import assert_same_table, make_store, spots

#: The reference engine is slow: 0.2 s for each of the series' frames.
SETTINGS: dict[str, dict[str, Any]] = {
    "detect": {"engine": "findpeaks", "minval": 15, "minscore": 10},
    "locate": {"network": "compact", "position": "network"},
    "output": {"report": False},
    "compute": {"task_seconds": 0.01},
}
#: Saves the GPU worker where the table is not compared.
WITHOUT_NETWORK = ("--set", "locate.network=none", "--set", "locate.position=fit")


@dataclass(frozen=True)
class Series:
    """A frames store, the file of its settings, and the table of an undisturbed run on this machine."""

    data: Path
    settings: Path
    table: xr.Dataset


def make_series(folder: Path) -> Series:
    """48 frames, one to a chunk, and their table."""
    images = np.stack([spots((80, 80), 5, seed=seed) for seed in range(48)])
    data = make_store(folder / "scan.zarr", images, chunk=1)
    (folder / "run.yaml").write_text(json.dumps(SETTINGS))
    (outcome,) = run(SETTINGS, [data], out=folder / "undisturbed")
    assert outcome.status == "complete"
    return Series(data, folder / "run.yaml", open_peaks(outcome.folder).load())


def outside_interface() -> str:
    """A network interface beside loopback."""
    return next(name for name in psutil.net_if_addrs() if name != "lo" and psutil.net_if_stats()[name].isup)


def write_profile(folder: Path, **keys: Any) -> Path:
    """A cluster profile with both groups, each from no job to as many as there are nodes; `keys` stand above that."""
    groups = {"cpu": {"queue": "cpu", "cores": 1, "maximum": 2}, "gpu": {"queue": "gpu", "cores": 1, "maximum": 1}}
    content = {
        "kind": "slurm",
        "directory": str(folder / "shared"),
        "walltime": "0:30:00",
        "interface": outside_interface(),
        "memory": "2GB",
        "seconds_per_worker": 3,
        **{key: value for key, value in keys.items() if key not in groups},
        **{name: group | keys.get(name, {}) for name, group in groups.items()},
    }
    folder.mkdir(exist_ok=True)
    path = folder / "profile.yaml"
    path.write_text(json.dumps(content))
    return path


@dataclass
class Run:
    """`braggflow run` as a process."""

    process: "subprocess.Popen[bytes]"
    out: Path
    log: Path

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text()

    @property
    def info(self) -> dict[str, Any]:
        """The content of run.json."""
        return read_run_info(RunFolder(self.out / "scan"))

    def wait_until_begun(self) -> None:
        """Wait until tasks are submitted."""
        assert wait_until(lambda: self.ended or (self.out / "scan" / "run.json").exists()), self.output
        assert not self.ended, self.output

    @property
    def parts(self) -> int:
        """Groups of frames that are done."""
        return len(list((self.out / "scan" / "parts").glob("part-*")))

    def wait_for_parts(self, n: int) -> None:
        """Wait until `n` groups of frames are done."""
        assert wait_until(lambda: self.ended or self.parts >= n), self.output
        assert not self.ended, self.output

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def ctrl_c(self) -> None:
        """Send SIGINT as a terminal does: to the process and its children."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, status: int, *, patience: float = PATIENCE) -> str:
        """What it has printed when it has ended, which must be with this exit status and without a traceback."""
        assert wait_until(lambda: self.ended, patience), self.output
        assert self.process.returncode == status, self.output
        assert "Traceback" not in self.output
        return self.output

    def assert_complete(self, undisturbed: xr.Dataset) -> None:
        """Check that the run ends as if nothing had happened."""
        self.end(0)
        assert self.info["status"] == "complete"
        assert_same_table(open_peaks(self.out / "scan"), undisturbed)


@contextmanager
def started(series: Series, profile: Path, *options: str | Path) -> Iterator[Run]:
    """A run of the series with results beside the profile; a process that has not ended is killed afterwards."""
    out = profile.parent / "out"
    log = profile.parent / f"log-{len(list(profile.parent.glob('log-*')))}"
    command = [sys.executable, "-m", "braggflow", "run", series.settings, series.data, "--out", out]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--cluster", profile, *options],
            start_new_session=True,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Run(process, out, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
