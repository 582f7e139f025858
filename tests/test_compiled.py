"""What a command imports, and compiled kernels kept between processes: each test with real ones."""

import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import braggflow
from braggflow import compiled
from braggflow.compiled import compiling, compiling_told
from tests.patience import PATIENCE

#: A kernel of a wing that calls one of the ground floor, each in a module of its own.
INNER = """\
from braggflow.compiled import kernel


@kernel(nogil=True)
def enlarged(value):
    return value * {factor}
"""
OUTER = """\
from braggflow.compiled import kernel
from braggflow.inner import enlarged


@kernel(nogil=True)
def enlarged_and_more(value):
    return enlarged(value) + 0.25
"""
MAIN = """\
import sys
from braggflow.compiled import announce, cache_folder
from braggflow.fit.outer import enlarged_and_more
import numpy as np

announce(lambda _: None)  # a busy machine may take long enough for a line

for name in sys.argv[1:]:
    print(enlarged_and_more(np.dtype(name).type(100)))
print(sum(enlarged_and_more.stats.cache_hits.values()), "loaded", cache_folder())
"""
#: int8 would overflow in a kernel compiled for a float's bits, and the other way round.
DTYPES = ("int8", "float32", "uint16")


@pytest.fixture
def kernels(tmp_path):
    """Start a process that calls a kernel with one value of each dtype, its home and temporary files in `tmp_path`.

    The kernel is one of a copy of the package.
    """
    package = tmp_path / "braggflow"
    (package / "fit").mkdir(parents=True)
    for name in ("__init__.py", "version.py", "compiled.py", "errors.py"):
        shutil.copy(Path(braggflow.__file__).with_name(name), package)
    (package / "fit" / "__init__.py").touch()
    (package / "inner.py").write_text(INNER.format(factor=2))
    (package / "fit" / "outer.py").write_text(OUTER)
    (tmp_path / "main.py").write_text(MAIN)
    (tmp_path / "tmp").mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR",)}
    environment |= {
        "PYTHONPATH": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "tmp"),
    }

    def start(*dtypes: str, first: str = "", **changed: str) -> "subprocess.Popen[str]":
        if first:
            command = [sys.executable, "-c", f"{first}; import runpy; runpy.run_path('main.py')", *dtypes]
        else:
            command = [sys.executable, "main.py", *dtypes]
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment | changed,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def said(process: "subprocess.Popen[str]") -> tuple[list[str], str]:
    """Lines of standard output, and standard error, of a process that must end well."""
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return output.splitlines(), errors


def test_help_imports_nothing_that_takes_time():
    heavy = (
        "numpy",
        "dask",
        "distributed",
        "xarray",
        "zarr",
        "numba",
        "scipy",
        "pandas",
        "torch",
        "matplotlib",
        "rich",
    )
    code = f"""
import sys
from braggflow.cli import app
app(["--help"], standalone_mode=False)
print("imported:", [name for name in {heavy} if name in sys.modules])
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "imported: []" in output


def test_processes_that_start_at_once_with_nothing_compiled_leave_each_other_the_right_code(kernels, tmp_path):
    together = [kernels(dtype) for dtype in DTYPES]
    for process in together:
        lines, errors = said(process)
        assert (lines[0], errors) == ("200.25", "")
    for _ in range(len(DTYPES)):  # an index holds what its last writer knew; each process adds what it lacks
        lines, errors = said(kernels(*DTYPES))
        assert (lines[:-1], errors) == (["200.25"] * 3, "")
        if lines[-1].startswith("3 loaded"):
            break
    assert lines[-1].startswith(f"3 loaded {tmp_path / 'cache'}")
    assert not list(tmp_path.rglob("__pycache__/*.nb?"))


def test_a_change_of_a_kernel_in_another_module_is_noticed(kernels, tmp_path):
    assert said(kernels("uint16"))[0][0] == "200.25"
    (tmp_path / "braggflow" / "inner.py").write_text(INNER.format(factor=3))
    assert said(kernels("uint16"))[0][:1] == ["300.25"]


def test_a_kernel_that_moves_to_another_module_is_never_run_from_its_old_code(kernels, tmp_path):
    package = tmp_path / "braggflow"
    assert said(kernels("uint16"))[0][0] == "200.25"
    (package / "fit" / "moved.py").write_text(INNER.format(factor=5))
    (package / "fit" / "outer.py").write_text(OUTER.replace("braggflow.inner", "braggflow.fit.moved"))
    assert said(kernels("uint16"))[0] == ["500.25", f"0 loaded {tmp_path}/cache/braggflow-{os.getuid()}"]
    (package / "fit" / "moved.py").write_text(INNER.format(factor=7))
    assert said(kernels("uint16"))[0][0] == "700.25"


def test_empty_cache_files_as_a_power_cut_leaves_them_are_replaced(kernels, tmp_path):
    said(kernels("uint16"))
    kept = list((tmp_path / "cache").rglob("*.nb?"))
    assert len(kept) == 4  # index and code of each of the two kernels
    for path in kept:
        path.write_bytes(b"")
    lines, errors = said(kernels("uint16"))
    assert (lines[0], lines[1][:8], errors) == ("200.25", "0 loaded", "")
    assert said(kernels("uint16"))[0][1].startswith("1 loaded")


@pytest.mark.parametrize("wing", ["detect", "fit", "locate", "simulate"])
def test_kernels_call_none_but_those_of_their_own_wing_and_of_the_ground_floor(wing):
    """Else a change of the callee would go unnoticed: machine code is kept by the sources of these."""
    code = f"""
import importlib, pkgutil
from numba.core.dispatcher import Dispatcher
wing = importlib.import_module("braggflow.{wing}")
modules = [importlib.import_module(f"braggflow.{wing}.{{found.name}}") for found in pkgutil.iter_modules(wing.__path__)]
homes = {{value.py_func.__module__ for module in modules for value in vars(module).values()
         if isinstance(value, Dispatcher)}}
print(sorted(home for home in homes if home.count(".") > 1 and not home.startswith("braggflow.{wing}.")), len(homes))
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    foreign, _, count = output.rpartition(" ")
    assert (foreign, int(count) > 0) == ("[]", True)


def test_with_a_home_that_cannot_be_written_kernels_are_kept_with_the_temporary_files(kernels, tmp_path):
    (tmp_path / "cache").touch()  # no folder can be made below it, whoever the user is
    assert said(kernels("uint16")) == (["200.25", f"0 loaded {tmp_path}/tmp/braggflow-{os.getuid()}"], "")
    assert said(kernels("uint16"))[0][1].startswith("1 loaded")


def test_a_folder_that_others_can_write_in_is_not_trusted(kernels, tmp_path):
    shared = tmp_path / "cache" / f"braggflow-{os.getuid()}"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    assert said(kernels("uint16"))[0][1].endswith(f"{tmp_path}/tmp/braggflow-{os.getuid()}")
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize(
    ("nowhere", "reason"),
    [
        ("import tempfile; tempfile.tempdir = '/dev/null'", "Not a directory"),
        ("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))", "File too large"),  # as a full disk
    ],
)
def test_where_nothing_can_be_kept_kernels_work_and_one_line_says_so(kernels, nowhere, reason):
    cache = {"XDG_CACHE_HOME": "/dev/null"}
    lines, errors = said(kernels(*DTYPES, first=nowhere, **cache))
    assert lines[:-1] == ["200.25"] * 3
    assert errors.count("\n") == errors.count("NUMBA_CACHE_DIR") == 1
    assert reason in errors


#: A process that announces two and a half seconds of compiling, of about a minute.
SLOW = """
import time
from braggflow.compiled import announce, compiling
{before}
with compiling(60):
    time.sleep(2.5)
print("then")
"""


def test_compiling_is_said_in_a_log_by_a_line_at_its_start_and_one_at_its_end():
    run = subprocess.run([sys.executable, "-c", SLOW.format(before="")], capture_output=True, text=True, check=True)
    assert run.stderr.splitlines() == [
        "braggflow: compiling its kernels, once: about 60 s",
        "braggflow: its kernels are compiled, 3 s",
    ]


def test_on_a_terminal_one_line_counts_the_seconds():
    main, end = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", SLOW.format(before="")], stderr=end, stdout=subprocess.DEVNULL)
    os.close(end)
    said = b""
    while True:
        try:
            part = os.read(main, 1000)
        except OSError:  # the process has ended, Linux's way to say so
            break
        if not part:
            break
        said += part
    os.close(main)
    assert process.wait() == 0
    lines = said.decode().replace("\r\n", "\n").split("\r")
    assert lines[0] == ""
    assert len(lines) >= 4  # two or three seconds, and the end
    assert all(line.startswith("braggflow: compiling its kernels, once: ") for line in lines[1:-1])
    assert lines[1].endswith(" s of about 60 s")
    assert lines[-1].startswith("braggflow: its kernels are compiled, 3 s")
    assert said.count(b"\n") == 1


def test_a_program_may_show_it_in_a_way_of_its_own():
    before = "announce(lambda state: print(round(state.seconds, 1), state.about, state.done, flush=True))"
    run = subprocess.run([sys.executable, "-c", SLOW.format(before=before)], capture_output=True, text=True, check=True)
    *counted, last, after = run.stdout.splitlines()
    assert len(counted) >= 2
    assert all(line.endswith(" 60 False") for line in counted)
    assert last.endswith(" 60 True")
    assert (after, run.stderr) == ("then", "")


def test_kernels_that_were_not_compiled_ahead_say_so_when_they_are_and_only_then(tmp_path):
    code = """
import numpy as np
from braggflow.detect import arcs
frame, one = np.ones((20, 20), np.int32), np.ones(1)
arcs(frame, frame == 0, np.array([9]), np.array([9]), one, one)
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    first, *_, last = runs[0].stderr.splitlines()
    assert first == "braggflow: compiling its kernels, once: some seconds"
    assert last.startswith("braggflow: its kernels are compiled, ")
    assert runs[1].stderr == ""


def test_of_processes_that_start_at_once_one_compiles_ahead_and_the_others_wait(kernels, tmp_path):
    (tmp_path / "main.py").write_text("""
import time
from braggflow.compiled import announce, compile_once
announce(lambda _: None)
def work():
    print("worked", flush=True)
    time.sleep(1)
    return True
compile_once(("fit",), work, about=1)
print("on")
""")
    together = [kernels() for _ in range(3)]
    lines = [said(process)[0] for process in together]
    assert sorted(lines) == [["on"], ["on"], ["worked", "on"]]
    assert said(kernels())[0] == ["on"]


def test_work_that_failed_is_done_again(kernels, tmp_path):
    (tmp_path / "main.py").write_text("""
from braggflow.compiled import compile_once
compile_once(("fit",), lambda: print("worked"), about=1)
""")
    assert [said(kernels())[0] for _ in range(2)] == [["worked"], ["worked"]]


#: Searches frames of all usual types by all usual settings, and counts what numba compiles.
USUAL = """
import sys
from pathlib import Path
import numpy as np
from numba.core import event
from numba.core.event import Listener

class Count(Listener):
    names = []
    def on_start(self, told):
        self.names.append(told.data["dispatcher"].py_func.__qualname__)
    def on_end(self, told):
        pass

event.register("numba:compile", Count())
import braggflow

y, x = np.mgrid[:64, :64]
spots = ((20, 20, 200), (20, 27, 120), (44, 40, 90), (45, 43, 60))
expected = 4 + sum(height * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 3) for row, column, height in spots)
drawn = np.minimum(np.random.default_rng(0).poisson(expected), 255)
np.save("mask.npy", (x == 33).astype(np.uint8))
found = 0
for dtype in "uint8 uint16 int16 int32 uint32 int64 float32 float64".split():
    frame = drawn.astype(dtype)
    for settings in (
        {},
        {"mask": "mask.npy"},
        {"bin": 2},
        {"minval": "5 sigma", "minscore": "4 sigma"},
        {"minval": "5 sigma", "minscore": "4 sigma", "config": {"detect": {"false_peaks": None}}},
        {"model": "pseudo_voigt"},
        {"model": "disk", "patch_size": 15},
        {"network": "braggnn"},
        {"network": "none"},
    ):
        found += braggflow.find_peaks(frame, **settings).sizes["peak"]
    frame.flags.writeable = False
    found += braggflow.find_peaks(frame[::-1, ::-1]).sizes["peak"]
print(found, len(Count.names), *sorted(set(Count.names)))
"""


def test_sources_that_are_written_again_are_compiled_again(tmp_path, monkeypatch):
    source, compiled_for = tmp_path / "compiled.py", []
    source.touch()
    monkeypatch.setattr(compiled, "sources_of", lambda *_: [source])

    def work():
        compiled_for.append(source.stat().st_mtime_ns)
        return True

    for _ in range(2):
        compiled.compile_once((), work, about=1)
    assert len(compiled_for) == 1
    later = compiled_for[0] + 1_000_000_000
    os.utime(source, ns=(later, later))
    compiled.compile_once((), work, about=1)
    assert compiled_for[1:] == [later]


def test_with_all_compiled_ahead_frames_of_the_usual_types_and_settings_compile_nothing(tmp_path):
    ahead = "from braggflow.pipeline import compile_ahead; compile_ahead()"
    subprocess.run([sys.executable, "-c", ahead], check=True, cwd=tmp_path)
    run = subprocess.run([sys.executable, "-c", USUAL], capture_output=True, text=True, check=True, cwd=tmp_path)
    found, compiled_now, *names = run.stdout.split()
    assert int(found) > 100
    assert (compiled_now, names) == ("0", [])
    assert "braggflow: compiling" not in run.stderr


def test_a_line_that_moves_says_compiling_while_it_lasts_and_then_what_it_said_before():
    told = []
    with compiling_told(lambda *state: told.append(state[0])) as line:
        line("looking at a few frames", None, "")
        with compiling(about=30):
            time.sleep(1.0)
    assert told[0] == told[-1] == "looking at a few frames"
    assert set(told[1:-1]) == {"compiling, once after an installation: about 30 s"}
