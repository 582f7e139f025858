"""README and documents do what they say: each command and each block of Python in them is run, in order, in a folder
that holds what they name."""

import ast
import glob
import re
import signal
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import grimp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from distributed import LocalCluster
from typer.testing import CliRunner

import braggflow
from braggflow.cli import app
from braggflow.config import RunConfig, resolve_config
from tests.document_folders import FOLDERS, OMEGA, PLACE, ROCKING
from tests.test_docstrings import exemplified

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

#: Commands that cannot be run here, by how they begin: why, and what tests them.
ELSEWHERE = {
    "pip install": ("it installs", "tests/test_package.py"),
    "make ": ("hours, or this very test; that there is such a target is tested below", "tests/test_documents.py"),
    "sbatch run.sh": ("it needs SLURM", "tests/slurm/test_runs.py"),
    "braggflow run braggflow.yaml --follow /beamtime/scans": (
        "it goes on until Ctrl-C",
        "tests/flow/test_many_data_sets.py",
    ),
    "braggflow run braggflow.yaml --follow scan": ("another process writes it", "tests/flow/test_following.py"),
    "braggflow run braggflow.yaml --follow /beamtime/scan_": (
        "another process writes it",
        "tests/flow/test_following.py",
    ),
    "braggflow inspect in16c_010001.cbf": ("it is of real frames", "tests/cli/test_inspect.py"),
    "braggflow inspect '*.img'": ("it is of real frames", "tests/cli/test_inspect.py"),
    "braggflow inspect zr_ge2.h5": ("it is of real frames", "tests/cli/test_inspect.py"),
    "braggflow evaluate --method compact": ("an hour, and a checkpoint of others", "tests/evaluate/test_evaluation.py"),
    "braggflow train --out compact_11.safetensors": ("half an hour", "tests/train/test_trainer.py"),
    "braggflow train --network braggnn": ("an hour", "tests/train/test_trainer.py"),
    "braggflow train --card": ("half an hour", "tests/train/test_trainer.py"),
    "braggflow train --like runs/scan": ("half an hour", "tests/train/test_finetune.py"),
    "braggflow finetune": ("minutes", "tests/train/test_finetune.py"),
    "braggflow view": ("it goes on until Ctrl-C", "tests/view/test_in_browser.py"),
    "braggflow verify runs/scan": ("what it says of a long run", "tests/evaluate/test_verification.py"),
    "python benchmarks/bench_selfcheck.py": ("a measurement of minutes", "tests/selfcheck/test_self_check.py"),
    "python benchmarks/bench_tracks.py": ("a measurement of minutes", "tests/tracks/test_following.py"),
    "python benchmarks/bench_crowded.py": ("a measurement of a minute", "tests/detect/test_significance.py"),
    "python benchmarks/bench_rings.py 4": ("a measurement of minutes", "tests/detect/test_powder.py"),
    "python benchmarks/bench_sweep.py 12": ("a measurement of minutes", "tests/sweeps/test_recommendation.py"),
    "python benchmarks/bench_significance.py 20": ("a measurement of minutes", "tests/detect/test_significance.py"),
}
#: What is done smaller here than a user does it, by how the command begins: options that are added.
SMALLER = {
    "braggflow simulate demo/demo.zarr": ["--frames", "6", "--size", "96", "--peaks", "4"],
    "braggflow run demo.yaml": ["--set", "output.report=false"],  # other runs of these pages have a report
    "braggflow ingest scan.nxs:/entry/eiger/data": ["--workers", "1"],
}
#: Exit statuses other than 0.
STATUS = {"braggflow inspect aborted.h5": 3}
#: Languages of marked blocks that hold commands, as indented ones do.
SHELLS = ("console", "sh", "bash", "shell")
COMMAND = re.compile(r"\s*(?:\$ )?((?:braggflow|python|pip|make|sbatch|dask) .*)")


class Step(NamedTuple):
    """A command or a block of a page."""

    line: int
    kind: str
    """command, or the language of a block that is marked with one."""
    text: str
    shown: str = ""
    """What a command's block shows of its output."""


def steps(page: Path) -> list[Step]:
    """The commands and marked blocks of a page in their order."""
    found: list[Step] = []
    fence, block, begin = "", [""], 0
    showing = False  # lines that follow are what the last command prints
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if marked := re.match(r"\s*```(\w*)", line):
            if fence and fence not in SHELLS:
                found.append(Step(begin, fence, textwrap.dedent("\n".join(block))))
            fence, block, begin = ("" if fence else marked[1] or "console"), [], number
            showing = False
            continue
        if fence in SHELLS:
            line = f"    {line}"
        if fence and fence not in SHELLS:
            block.append(line)
        elif line.startswith("    ") and (command := COMMAND.match(line)):
            text, showing = command[1], "$ " in line
            while text.endswith("\\"):
                text = text[:-1] + next(lines)[1].strip()
            found += [Step(number, "command", part.strip()) for part in text.split("&&")]
        elif showing and line.startswith("    "):
            found[-1] = found[-1]._replace(shown=f"{found[-1].shown}{line}\n")
        else:
            showing = False
    return found


def words(command: str) -> list[str]:
    """The words of a command as a shell makes them, patterns without quotes replaced by what they match."""
    made = []
    for word in re.findall(r"'[^']*'|\S+", re.split(r"\s#\s", command)[0]):
        bare = word.strip("'")
        matches = sorted(glob.glob(word)) if bare == word and glob.has_magic(word) else []  # noqa: PTH207
        made += matches or [bare]
    return made


def called(command: str) -> str:
    """What a command of braggflow prints; fails where it ends with another status than it should."""
    _, *arguments = words(command)
    more = [option for begin, options in SMALLER.items() if command.startswith(begin) for option in options]
    handler = signal.getsignal(signal.SIGINT)
    try:
        result = CliRunner().invoke(app, [*arguments, *more])
    finally:
        signal.signal(signal.SIGINT, handler)
    status = next((status for begin, status in STATUS.items() if command.startswith(begin)), 0)
    assert result.exit_code == status, f"{command}: {result.exception!r}\n{result.output}"
    return result.stdout


@dataclass
class Played:
    """A page whose commands and blocks were run."""

    folder: Path
    values: dict[str, Any] = field(default_factory=dict)
    """What each expression of its Python gave, by its text."""
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    said: dict[str, str] = field(default_factory=dict)
    """What each command printed."""

    def execute(self, text: str) -> None:
        """Run a block, and keep what each expression in it gives."""
        for node in ast.parse(text).body:
            code = ast.unparse(node)
            if isinstance(node, ast.Expr):
                self.values[code] = eval(code, self.names)
            else:
                exec(compile(ast.Module([node], []), "block", "exec"), self.names)
            plt.close("all")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A Dask scheduler with a worker, which stands for the batch system of the documents' profiles."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        resources={"CPU": 1},
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, scheduler: str) -> Callable[[str], Played]:
    """Run a page, once."""

    def profile(command: str) -> None:
        script = " cluster script " in command
        text = (ROOT / "cluster" / "slurm.yaml").read_text() if script else f"kind: existing\naddress: {scheduler}\n"
        for name in ("slurm.yaml", "cluster/slurm.yaml"):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(text)

    @cache
    def played(page: str) -> Played:
        (path,) = (path for path in PAGES if path.stem == page)
        done = Played(tmp_path_factory.mktemp(page))
        FOLDERS.get(page, lambda _: None)(done.folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(done.folder)
            # One core: what worker processes of this machine would do is done here.
            patch.setattr("os.sched_getaffinity", lambda _: {0})
            for step in steps(path):
                profile(step.text)
                if step.kind == "python":
                    done.execute(step.text)
                elif step.kind == "command" and not elsewhere(step.text):
                    assert step.text.startswith("braggflow "), f"{path.name}:{step.line}: {step.text}: what tests it?"
                    done.said[step.text] = called(step.text)
                    if step.shown:
                        assert done.said[step.text].split() == step.shown.split()
        return done

    return played


def elsewhere(command: str) -> list[str]:
    """The entries of the table that say of a command that it is not run here."""
    return [begin for begin in ELSEWHERE if command.startswith(begin)]


@pytest.mark.parametrize(
    "page",
    PAGES,
    ids=lambda page: page.stem,
)
@pytest.mark.documents
def test_every_command_and_every_block_of_python_runs(page: Path, play: Callable[[str], Played]) -> None:
    play(page.stem)


def test_what_is_not_run_here_is_tested_elsewhere() -> None:
    commands = [step.text for page in PAGES for step in steps(page) if step.kind == "command"]
    for table in (ELSEWHERE, SMALLER, STATUS):
        for begin in table:
            assert any(command.startswith(begin) for command in commands), f"no document has {begin!r} any more"
    for begin, (_, test) in ELSEWHERE.items():
        assert (ROOT / test).is_file(), begin


# The five questions, asked of a series whose answers are known.


def answer(readme: Played, begin: str) -> Any:
    """What the one line of the README that begins so gave."""
    (text,) = (text for text in readme.values if text.startswith(begin))
    return readme.values[text]


@pytest.fixture
def readme(play: Callable[[str], Played], monkeypatch: pytest.MonkeyPatch) -> Played:
    played = play("README")
    monkeypatch.chdir(played.folder)
    return played


@pytest.mark.documents
def test_position_and_intensity_of_one_reflection_against_omega(readme: Played) -> None:
    table = answer(readme, "peaks.bragg.near(")
    assert list(table.columns) == ["peak_frame", "omega", "y", "x", "intensity"]
    np.testing.assert_array_equal(table["omega"], OMEGA[table["peak_frame"]])
    bright = np.flatnonzero(ROCKING > 300)
    assert table["peak_frame"][table["peak_frame"].isin(bright)].tolist() == bright.tolist()  # each frame once
    seen = table.set_index("peak_frame").loc[bright]
    np.testing.assert_allclose(seen[["y", "x"]], np.broadcast_to(PLACE, (len(bright), 2)), atol=0.3)
    # Within five sigma of its photons and those of a patch of background, and what of it lies beyond the patch.
    np.testing.assert_allclose(seen["intensity"], ROCKING[bright], atol=5 * np.sqrt(4000 + 121 * 4), rtol=0.02)
    assert abs(np.average(OMEGA[bright], weights=seen["intensity"])) < 0.05


@pytest.mark.documents
def test_all_peaks_as_a_table_in_python_and_in_files(readme: Played) -> None:
    run, table = braggflow.open_run("runs/scan"), readme.names["table"]
    assert len(table) == run.info["counts"]["peaks"] > 18 * 200
    assert list(table.columns[:2]) == ["peak_frame", "omega"]
    np.testing.assert_array_equal(table["omega"], OMEGA[table["peak_frame"]])
    pd.testing.assert_frame_equal(pd.read_parquet("peaks.parquet"), table)
    table.to_csv("by_pandas.csv", index=False)
    pd.testing.assert_frame_equal(
        pd.read_csv("by_pandas.csv"), table.reset_index(drop=True), check_dtype=False, rtol=1e-6
    )
    assert (readme.names["good"]["flags"] == 0).all()


@pytest.mark.documents
def test_a_frame_with_its_peaks_drawn(readme: Played) -> None:
    figure = answer(readme, "braggflow.plot_frame(")
    n = readme.names["peaks"].sel(peak_frame=17).sizes["peak"]
    assert any(f"frame 17, {n} peaks" in text.get_text() for text in figure.texts)


@pytest.mark.documents
def test_two_settings_compared(readme: Played) -> None:
    found, peaks = answer(readme, "peaks.bragg.compare("), readme.names["peaks"]
    other = braggflow.open_peaks("other/scan")
    assert found.frames == 18
    assert len(found.distance) + found.only_first.sizes["peak"] == peaks.sizes["peak"]
    assert len(found.distance) + found.only_second.sizes["peak"] == other.sizes["peak"]
    # The higher minval of the other run keeps the same peaks of those that are high enough, and no others.
    maxima = peaks["parent"].values < 0
    high = np.count_nonzero(peaks["birth"].values[maxima] >= 40)
    assert np.count_nonzero(other["parent"].values < 0) == high
    assert len(found.distance) >= high
    assert 0 < high < np.count_nonzero(maxima)


@pytest.mark.documents
def test_the_settings_that_give_so_many_peaks(readme: Played) -> None:
    levels, peaks, wanted = answer(readme, "peaks.bragg.levels_for("), readme.names["peaks"], 200 * len(OMEGA)
    for name, level in levels.items():
        settings = {"detect": {name: level}, "fit": {"fraction": 0}, "locate": {"network": "none"}}
        found = braggflow.find_peaks(braggflow.open_frames("scan.zarr"), config=settings).sizes["peak"]
        assert found == peaks.bragg.count(**{name: level}).sum(), name
        if name == "false_peaks":
            assert found == wanted
        else:  # counts are whole numbers, and many maxima are as high as one another
            more, fewer = (int(peaks.bragg.count(**{name: level + by}).sum()) for by in (-1, 1))
            assert fewer <= wanted <= more, name
            assert found == pytest.approx(wanted, rel=0.03), name


# What stands within sentences and tables.

CODE = re.compile(r"`([^`\n]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_named_in_sentences_are_there_with_their_options(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = page.read_text(encoding="utf-8")
    for named in [*CODE.findall(text), *(step.text for step in steps(page) if step.kind == "command")]:
        first, *rest = named.split("#")[0].split()
        if first == "make":
            assert rest[0] in targets, named
        if first == "python" and rest:  # alone it is a key of a profile
            assert (ROOT / rest[0]).is_file(), named
        if first != "braggflow":
            continue
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands") and rest:
            assert rest[0] in command.commands, named
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word.strip("[]") for word in rest if word.startswith("--")} <= known, named


#: What is written like a key and is none: modules of the package, and files.
NO_KEYS = {"detect.arcs", "fit.deblend", "frames.zarr", "frames.h5", "frames.csv", "frames.FrameReader"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_that_are_named_are_keys(page: Path) -> None:
    sections = {name: type(field.default) for name, field in RunConfig.model_fields.items() if name != "data"}
    for code in CODE.findall(page.read_text(encoding="utf-8")):
        for section, key in re.findall(rf"(?<![\w./])({'|'.join(sections)})\.(\w+)", code):
            if f"{section}.{key}" not in NO_KEYS - {"fit.deblend"}:
                assert key in sections[section].model_fields, code
    for step in steps(page):
        if step.kind == "yaml":
            resolve_config(yaml.safe_load(step.text))


def test_one_lines_of_python_in_sentences_run(readme: Played) -> None:
    peaks = readme.names["peaks"]
    names = {
        **readme.names,
        "other": peaks,
        "frames": braggflow.open_frames("scan.zarr").isel(frame=slice(6)),
        "run": "runs/scan",
    }
    exec("import braggflow.simulate, braggflow.results", names)
    lines = {
        code
        for page in PAGES
        for code in CODE.findall(page.read_text(encoding="utf-8"))
        if re.match(r"(peaks|table|find_peaks|braggflow)[.\[(].*[)\]]$", code) and "..." not in code
    }
    assert len(lines) > 12
    for line in sorted(lines):
        try:
            eval(line.replace("find_peaks(", "braggflow.find_peaks(") if line.startswith("find") else line, names)
        except braggflow.InputError as error:
            pytest.fail(f"{line}: {error}")
        plt.close("all")


def test_the_page_on_the_architecture_says_which_wing_imports_which() -> None:
    graph = grimp.build_graph("braggflow", cache_dir=None)
    wings = {path.parent.name for path in (ROOT / "workflow" / "braggflow").glob("*/__init__.py")}
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.stem for path in (ROOT / "workflow" / "braggflow").glob("[a-z]*.py")}
    assert {module for module in modules if f"| `{module}` |" not in page} == set()
    for wing in wings:
        inside = {f"braggflow.{wing}", *graph.find_descendants(f"braggflow.{wing}")}
        imported = {
            name.split(".")[1]
            for module in inside
            for name in graph.find_modules_directly_imported_by(module)
            if "." in name
        }
        (row,) = re.findall(rf"^\| `{wing}` \|.*\|([^|]*)\|$", page, re.MULTILINE)
        said = set(re.findall(r"`(\w+)`", row))
        expected = imported & wings - {wing}
        assert said == (wings - {"cli"} - expected if "all but" in row else expected), wing


def test_names_of_the_code_are_there() -> None:
    files = [*(ROOT / "workflow").rglob("*.py"), ROOT / "tests" / "conftest.py"]
    known = {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        for named in CODE.findall((ROOT / page).read_text(encoding="utf-8")):
            if re.fullmatch(r"_?[A-Za-z]+(_[A-Za-z]+)+|[A-Z]\w+", named):
                assert named in known, f"{page}: {named}"
            if re.fullmatch(r"\w+(/\w+)*\.py", named):
                assert any((ROOT / folder / named).exists() for folder in ("workflow/braggflow", "tests", ".")), named


def test_the_reference_has_every_public_name_and_all_of_the_doors_that_has_an_example() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: ([\w.]+)\.(\w+)$", page, re.MULTILINE)
    shown = [getattr(import_module(module), name) for module, name in named]
    public = {name: getattr(braggflow, name) for name in braggflow.__all__ if name != "__version__"}
    of_doors = {name: value for name, value in exemplified().items() if name.rpartition(".")[2] not in public}
    assert [name for name, value in {**public, **of_doors}.items() if not any(value is one for one in shown)] == []
