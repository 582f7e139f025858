"""The architecture is what `.importlinter` and docs/architecture.md say, and a wrong import is found."""

import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import braggflow
from braggflow.version import RESULT_WINGS

ROOT = Path(__file__).parents[1]
PACKAGE = Path(braggflow.__file__).parent
WINGS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
#: A line that breaks a rule: where it is written, and the rule that must be named.
WRONG = {
    "upwards": ("frames/store.py", "from braggflow.flow import run", "A wing imports only wings below it"),
    "beside": ("fit/start.py", "from braggflow.cluster import Pools", "A wing imports only wings below it"),
    "past the door": (
        "show/plots.py",
        "from braggflow.detect.filters import Detection",
        "detect is entered by its door",
    ),
    "in a circle": ("frames/store.py", "from braggflow.frames.opening import open_frames", "No circle"),
    "the face": ("results/parts.py", "import braggflow", "No module imports the package's face"),
    "dask": ("pipeline/stages.py", "import dask", "Only cluster and flow know Dask"),
    "distributed": ("results/folder.py", "from distributed import Client", "Only cluster and flow know Dask"),
    "torch": ("pipeline/assembly.py", "import torch", "Only locate, train and evaluate know torch"),
    "dask_jobqueue": ("flow/running.py", "import dask_jobqueue", "Only one module knows dask-jobqueue"),
}


def lint(folder: Path) -> "subprocess.CompletedProcess[str]":
    """What import-linter, as `make lint` calls it, says of the package in a folder."""
    first = "import sys; sys.path.insert(0, 'workflow')"
    program = f"{first}; from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of a copy of the package with all the wrong lines in it."""
    folder = tmp_path_factory.mktemp("wrong")
    left_out = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(PACKAGE, folder / "workflow" / "braggflow", ignore=left_out)
    shutil.copy(ROOT / ".importlinter", folder)
    for path, wrong, _ in WRONG.values():
        module = folder / "workflow" / "braggflow" / path
        module.write_text(f"{module.read_text()}\n{wrong}\n")
    said = lint(folder)
    assert said.returncode == 1, said.stdout + said.stderr
    return said.stdout


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_import_breaks_its_rule_and_is_named(line: str, broken: str) -> None:
    path, _, rule = WRONG[line]
    assert any(row.startswith(rule) and "BROKEN" in row for row in broken.splitlines()), broken
    assert f"braggflow.{path.removesuffix('.py').replace('/', '.')} -> " in broken


def test_the_rules_hold() -> None:
    said = lint(ROOT)
    assert said.returncode == 0, said.stdout


def test_the_code_hash_of_a_run_covers_all_that_the_chain_of_stages_imports() -> None:
    imported = grimp.build_graph("braggflow", cache_dir=None).find_upstream_modules(
        "braggflow.pipeline", as_package=True
    )
    wings = {name.split(".")[1] for name in imported if name.split(".")[1] in WINGS}
    assert wings | {"pipeline"} == set(RESULT_WINGS)


def test_rooms_and_folders_stay_small() -> None:
    rooms = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: n for path, n in rooms.items() if n > 450} == {}
    folders = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in rooms}}
    assert {folder: n for folder, n in folders.items() if n > 14} == {}


@pytest.mark.parametrize("wing", WINGS)
def test_a_door_says_what_its_wing_is_for_and_gives_what_it_names(wing: str) -> None:
    door = __import__(f"braggflow.{wing}", fromlist=["__all__"])
    assert len(door.__doc__.split()) > 5
    assert door.__all__
    assert all(getattr(door, name) is not None for name in door.__all__)
    # Else the module stands in the way of what it exports, as soon as it is imported.
    assert not {path.stem for path in Path(door.__file__).parent.iterdir()} & set(door.__all__)


def test_the_page_on_the_architecture_names_every_wing() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [wing for wing in WINGS if f"`{wing}`" not in page] == []
