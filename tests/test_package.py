"""What users install: the wheel, outside the checkout."""

import ast
import email
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import braggflow

ROOT = Path(__file__).parents[1]

#: Run by a Python that starts isolated (-I): neither the folder it is in nor PYTHONPATH is searched. The wheel's folder
#: is put before everything else, also before the checkout that an editable installation points to.
USE = """
import sys
import numpy as np
import braggflow
y, x = np.mgrid[:48, :48]
frame = np.random.default_rng(0).poisson(5 + 500 * np.exp(-((y - 20.3) ** 2 + (x - 30.6) ** 2) / 4.5)).astype("uint16")
table = braggflow.find_peaks(frame, minval=50, minscore=50)
print(braggflow.__version__, *table["y"].values, *table["x"].values, *table["y_network"].values)
print(*(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "braggflow"))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_a_wheel_holds_the_package_its_weights_and_its_types_and_nothing_else(names):
    tops = {name.split("/")[0] for name in names}
    assert tops == {"braggflow", f"braggflow-{braggflow.__version__}.dist-info"}
    package = ROOT / "workflow" / "braggflow"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    examples = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "cluster").glob("*.yaml")]
    assert {name for name in names if name.startswith("braggflow/")} == {
        *(path.relative_to(package.parent).as_posix() for path in files),
        *(f"braggflow/examples/{path.name}" for path in examples),
    }
    assert {
        "braggflow/py.typed",
        "braggflow/locate/weights/compact_11.safetensors",
        "braggflow/locate/weights/compact_11.json",
    } <= {*names}


def test_a_wheel_holds_its_version_licence_and_command(wheel, names):
    info = f"braggflow-{braggflow.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert b"braggflow = braggflow.cli:main" in archive.read(f"{info}/entry_points.txt")
    assert metadata["Version"] == braggflow.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"


def first_page() -> list[list[str]]:
    """The commands that the README's first page has for an installed package, less what installs it."""
    block = re.search(r"^(    pip install .*\n(?:    .*\n)+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert block is not None
    commands = [line.split("#")[0].split() for line in block[1].splitlines()]
    return [words for words in commands if words[0] == "braggflow"]


@pytest.mark.slow
def test_the_first_page_of_the_readme_runs_from_an_installed_wheel_alone(wheel, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    links = [word for place in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", place)]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", *links, "--python", python]
    subprocess.run([*uv, "--constraint", ROOT / "constraints.txt", wheel], check=True)
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    said = []
    for words in first_page():
        fewer = ["--frames", "12"] if words[1] == "simulate" else []
        command = [python.with_name("braggflow"), *words[1:], *fewer]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        said.append(done.stdout)
    assert [words[1] for words in first_page()] == ["simulate", "config", "run", "score", "export"]
    assert re.search(r"^all +\d+ +\d+ +(0\.9\d+|1\.0+)$", said[3], re.MULTILINE)
    lines = (folder / "peaks.csv").read_text().splitlines()
    assert lines[0].startswith("peak_frame,")
    assert len(lines) > 100
    # In Python too, and nothing of it came from the checkout.
    used = subprocess.run(
        [python, "-I", "-c", USE], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    first, second = used.stdout.splitlines()
    version, y, x, y_network = first.split()
    assert version == braggflow.__version__
    assert (float(y), float(x), float(y_network)) == (
        pytest.approx(20.3, abs=0.1),
        pytest.approx(30.6, abs=0.1),
        pytest.approx(20.3, abs=0.1),
    )
    assert all(Path(module).is_relative_to(tmp_path / "venv") for module in second.split())


def test_the_files_that_the_documents_name_are_there():
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for name in re.findall(r"\b(?:configs|cluster|docs|benchmarks)/[\w./-]*\w", document.read_text()):
            assert (ROOT / name).exists(), f"{document.name} names {name}"


def test_the_lowest_versions_that_are_tested_are_those_that_are_declared():
    lines = (ROOT / "constraints-minimum.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        declared = Requirement(line)
        (bound,) = declared.specifier
        assert bound.operator == ">=", line
        version = Version(tested[declared.name.lower()])
        parts = len(Version(bound.version).release)
        assert version.release[:parts] == Version(bound.version).release, f"{line}: `make minimum`"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_what_is_there(path):
    """They are run by hand, so that what they call by an old name would be found when figures are needed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("braggflow"):
            module = import_module(node.module)
            lacking = [name.name for name in node.names if not hasattr(module, name.name)]
            assert [name for name in lacking if find_spec(f"{node.module}.{name}") is None] == [], node.module
