"""What the site takes from the code, and its notebooks. That it builds without a warning: `make docs`."""

import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest
import typer
from nbclient import NotebookClient
from traitlets.config import Config

from braggflow.cli import app
from braggflow.cluster.profiles import BatchProfile, ExistingProfile, GpuGroup, JobGroup, LocalProfile
from braggflow.config import RunConfig, Section

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """What is put in the place of each comment `<!-- made: NAME -->`."""
    return {name: make() for name, make in runpy.run_path(str(DOCS / "site_reference.py"))["MADE"].items()}


def test_the_configuration_page_has_every_key_with_its_default_and_meaning(made: dict[str, str]) -> None:
    for section, field in RunConfig.model_fields.items():
        if isinstance(field.default, Section):
            for key, inner in type(field.default).model_fields.items():
                (row,) = (line for line in made["configuration"].splitlines() if f"| `{section}.{key}` |" in line)
                assert row.endswith(f"| {inner.description} |")
                assert row.count(" | ") == 3
    assert "| `frames.bin` | `1` | whole number ≥ 1 and ≤ 16 |" in made["configuration"]
    assert "| `detect.minval` | `null` | number ≥ 0 or {sigma: number > 0} or null |" in made["configuration"]


def test_keys_defaults_and_what_is_accepted_are_as_they_were_written_down(made: dict[str, str]) -> None:
    """A change of any is made on purpose: here, and in CHANGELOG.md where it changes results."""
    lines = [line for name in ("configuration", "profiles") for line in made[name].splitlines()]
    keys = [line.rpartition(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| `")]
    assert keys == (Path(__file__).parent / "keys.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("profile", [LocalProfile, ExistingProfile, BatchProfile, JobGroup, GpuGroup])
def test_the_profiles_page_has_every_key_of_every_kind(profile: type[Section], made: dict[str, str]) -> None:
    for key, field in profile.model_fields.items():
        rows = [line for line in made["profiles"].splitlines() if line.startswith("| `") and f"{key}` |" in line]
        assert any(row.endswith(f"| {field.description} |") for row in rows), key


def test_the_commands_page_has_every_command_with_its_options(made: dict[str, str]) -> None:
    def leaves(command: Any, name: str) -> list[tuple[str, Any]]:
        inner = getattr(command, "commands", {})
        return [leaf for key in inner for leaf in leaves(inner[key], f"{name} {key}")] or [(name, command)]

    for name, command in leaves(typer.main.get_command(app), "braggflow"):
        part = made["commands"].partition(f" `{name}`\n")[2].split("\n## ")[0]
        assert " ".join(command.help.split()) in " ".join(part.split()), name
        for parameter in command.params:
            assert all(option in part for option in parameter.opts if option.startswith("--")), name


def test_pages_say_where_each_of_these_belongs(made: dict[str, str]) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    assert [name for name in made if pages.count(f"<!-- made: {name} -->") != 1] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_gave(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert [cell.source for cell in cells if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.documents
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_kernel_without_a_warning(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BRAGGFLOW_REAL_DATA", raising=False)
    for folder in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(folder, str(tmp_path / folder))
    notebook = nbformat.read(path, as_version=4)
    unheard = Config({"KernelManager": {"transport_encryption": "auto"}})
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=280, config=unheard, resources=where).execute()
    given = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = "".join(output.text for output in given if output.get("name") == "stderr")
    assert re.sub(r"\s*braggflow: (compiling its|its kernels are compiled)[^\r\n]*\s*", "", said) == ""
    shown = [output.data for output in given if output.output_type != "stream"]
    assert sum("image/png" in data or "data:image/png" in data.get("text/html", "") for data in shown) >= 2
