"""Many cases tried in worker processes, which may hang or die of them."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.mutations import make_case
from tests.patience import PATIENCE

#: Seconds after which a file counts as one that hangs.
HANG = 20.0
#: Where a hang is no fault of ours that could be mended here, by the place where it hangs.
KNOWN = {
    # HDF5 2.0.0: texts of attributes lie in a global heap, and a size of 0 in it is walked over for ever.
    "h5py/_hl/attrs.py": "libhdf5 loops over a damaged global heap",
}
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


class Worker:
    """A process that tries cases; anew where it hung or died. Its files lie in a folder that goes with it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.folder = ""

    def ask(self, case: int) -> dict[str, object]:
        """What became of a case."""
        process = self.process or self._start()
        assert process.stdin is not None
        process.stdin.write(f"{case}\n")
        process.stdin.flush()
        line = self._line(HANG)
        if line:
            answer: dict[str, object] = json.loads(line)
            return answer
        code = None if line is None else process.wait()
        process.kill()
        process.wait()
        where = (Path(self.folder) / "errors").read_text(errors="replace")
        self.stop()
        how = f"hangs for more than {HANG:g} s" if code is None else f"the process died of it ({_died(code)})"
        return {"case": case, "traceback": f"{where}\n{how}, {_place(where)}"}

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None
            shutil.rmtree(self.folder)

    def _start(self) -> "subprocess.Popen[str]":
        self.folder = tempfile.mkdtemp(prefix="fuzz")
        with (Path(self.folder) / "errors").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.trial"],
                cwd=ROOT,
                env={**ENVIRONMENT, "TMPDIR": self.folder},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_forward, args=(self.process, self.lines), daemon=True).start()
        if self._line(PATIENCE) != "ready\n":
            raise RuntimeError((Path(self.folder) / "errors").read_text())
        return self.process

    def _line(self, seconds: float) -> str | None:
        """The next line, empty where the process has ended, None where none has come in time."""
        try:
            return self.lines.get(timeout=seconds)
        except queue.Empty:
            return None


def _forward(process: "subprocess.Popen[str]", lines: "queue.Queue[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")


def _died(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _place(trace: str) -> str:
    """The innermost line of the last traceback that faulthandler wrote."""
    frames = [line.strip() for line in trace.rpartition("most recent call first")[2].splitlines() if "File" in line]
    return frames[0].replace(f"{ROOT}/", "") if frames else "nobody knows where"


def _known(answer: dict[str, object]) -> str | None:
    last = str(answer.get("traceback", "")).rpartition("\n")[2]
    return next((why for place, why in KNOWN.items() if last.startswith("hangs") and place in last), None)


class Campaign:
    """Cases, what became of each, and what must not have."""

    def __init__(self, cases: Iterable[int], workers: int) -> None:
        self.cases, self.workers = list(cases), workers
        self.counts: Counter[tuple[str, str]] = Counter()
        self.findings: list[str] = []

    def go(self, tell: Callable[[str], None] = lambda _finding: None) -> None:
        """Try all; each finding is told when it is made."""
        workers = [Worker() for _ in range(self.workers)]
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in workers:
            idle.put(worker)

        def answer(case: int) -> dict[str, object]:
            worker = idle.get()
            try:
                return worker.ask(case)
            finally:
                idle.put(worker)

        try:
            with ThreadPoolExecutor(self.workers) as pool:
                for answered in pool.map(answer, self.cases):
                    known = len(self.findings)
                    self._count(answered)
                    for finding in self.findings[known:]:
                        tell(finding)
        finally:
            for worker in workers:
                worker.stop()

    def _count(self, answer: dict[str, object]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            kind, mutation, _ = make_case(int(str(answer["case"])), Path(folder))
        if (known := _known(answer)) is not None:
            self.counts[kind, known] += 1
            return
        if "traceback" in answer:
            self.counts[kind, "finding"] += 1
            lines = str(answer["traceback"]).strip().splitlines()
            self.findings.append("\n".join([f"{kind}: {lines[-1]}", f"case {answer['case']}: {mutation}", *lines]))
            return
        found = answer["found"]
        assert isinstance(found, dict)
        for step, outcome in found.items():
            self.counts[kind, f"{step} {outcome.split(':')[0]}"] += 1

    def table(self) -> str:
        """How often each kind of file came to what."""
        columns = sorted({outcome for _, outcome in self.counts})
        kinds = sorted({kind for kind, _ in self.counts})
        rows = [[kind, *(str(self.counts[kind, column]) for column in columns)] for kind in kinds]
        rows.append(["all", *(str(sum(self.counts[kind, column] for kind in kinds)) for column in columns)])
        widths = [max(len(row[at]) for row in [["", *columns], *rows]) for at in range(len(columns) + 1)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in [["", *columns], *rows]
        )


def run_on_a_cluster(first: int, n: int) -> list[str]:
    """Findings of a real run that is given `n` mutated HDF5 files and stores at once."""
    if n == 0:
        return []
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        paths: list[Path] = []
        case = first
        while len(paths) < n:
            place = Path(folder) / str(case)
            place.mkdir()
            path = make_case(case, place)[2]
            case += 1
            if path.suffix in (".h5", ".nxs", ".zarr") and path.exists():
                paths.append(path.rename(place / f"c{case - 1}{path.suffix}"))
        config = Path(folder) / "c.yaml"
        config.write_text("{detect: {minval: 20}, locate: {network: none}, output: {report: false}}\n")
        words = ["run", str(config), *map(str, paths), "--out", f"{folder}/runs", "--workers", "2"]
        done = subprocess.run(
            [sys.executable, "-m", "braggflow", *words],
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    print(f"run: {n} data sets, exit status {done.returncode}\n{done.stdout[:2000]}")
    if done.returncode in (0, 2, 3) and "Traceback" not in done.stderr:
        return []
    return [f"run: exit status {done.returncode}\n{done.stderr}"]
