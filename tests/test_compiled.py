"""What a command imports, and compiled kernels kept between processes: each test with real ones."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import braggflow
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
from braggflow.compiled import cache_folder
from braggflow.fit.outer import enlarged_and_more
import numpy as np

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
