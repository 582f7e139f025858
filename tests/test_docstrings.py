"""The reference that users read is the docstrings: their examples run, and no parameter is left unsaid."""

import ast
import doctest
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from distributed import Client
from pydantic import BaseModel

import braggflow
from braggflow import detect, evaluate, exchange, fit, geometry, locate, masks, results, show, simulate, train
from braggflow.peak_rows import BraggAccessor

PUBLIC = [name for name in braggflow.__all__ if name != "__version__"]
PROFILES = get_args(braggflow.Profile)
#: What the doors of the wings offer to a notebook.
OF_WINGS = [
    BraggAccessor,
    detect.cut_patches,
    detect.detect,
    evaluate.evaluate,
    evaluate.score,
    exchange.export_peaks,
    fit.fit_patches,
    geometry.change,
    geometry.region,
    geometry.strain_of,
    locate.load_localiser,
    locate.locate_patches,
    masks.propose,
    results.data_set_statuses,
    show.frame_figure,
    *(getattr(show, name) for name in show.__all__ if name.startswith("plot_")),
    show.write_batch_report,
    show.write_movie,
    show.write_report,
    simulate.simulate_series,
    train.fine_tune,
    train.train,
]
#: Its example would have to make a run of hundreds of peaks and to train twice; tests/train/test_finetune.py does.
WITHOUT_EXAMPLE = [train.fine_tune]
#: Whatever is wrong with its arguments was found before.
RAISES_NOTHING = [detect.cut_patches, show.plot_comparison]
#: In numpydoc's order.
TITLES = ("Parameters", "Returns", "Raises", "Examples")

#: `write_report` draws for seconds: its example is marked to be skipped, and tests/show/test_report.py writes reports.
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def documented() -> Iterator[Any]:
    """Every class and function whose docstring is checked; `Profile` is the union of three classes."""
    for name in PUBLIC:
        value = getattr(braggflow, name)
        yield from PROFILES if name == "Profile" else [value]
    yield from OF_WINGS


def exemplified() -> dict[str, Any]:
    """The classes and functions that the door of a wing exports with an example, by their whole names."""
    folders = Path(braggflow.__file__).parent.glob("*/__init__.py")
    wings = [import_module(f"braggflow.{folder.parent.name}") for folder in folders]
    values = {f"{wing.__name__}.{name}": getattr(wing, name) for wing in wings for name in wing.__all__}
    kinds = (inspect.isclass, inspect.isfunction)
    return {
        name: value
        for name, value in values.items()
        if any(of_kind(value) for of_kind in kinds) and ">>>" in (value.__doc__ or "")
    }


def name_of(value: Any) -> str:
    return f"{value.__module__.removeprefix('braggflow.')}.{value.__name__}"


def sections(value: Any) -> dict[str, str]:
    """The numpydoc sections of a docstring by their titles; what stands before the first is called Summary."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.getdoc(value) or "", flags=re.MULTILINE)
    return {"Summary": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(section: str) -> dict[str, str]:
    """The entries `a, b : type` of a section, by each of their names, with what is said of them."""
    found = {}
    for head, said in re.findall(r"^(\w[^\n]*)\n((?:(?:    [^\n]*)?\n?)*)", section, flags=re.MULTILINE):
        for name in head.split(" : ")[0].split(","):
            found[name.strip()] = said.strip()
    return found


@pytest.fixture(scope="module")
def beamtime(tmp_path_factory):
    """A folder with a frames store, `scan.zarr`, and its run, `runs/scan`: what examples have that do not make them."""
    folder = tmp_path_factory.mktemp("beamtime")
    simulate.simulate_series(folder / "scan.zarr", n_frames=4, shape=(64, 64), peaks=2)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as client:
        config = {"output": {"report": False}}
        braggflow.run(config, [folder / "scan.zarr"], out=folder / "runs", client=client)
    return folder


@pytest.mark.parametrize(
    "value",
    dict.fromkeys(value for value in (*documented(), *exemplified().values()) if value not in WITHOUT_EXAMPLE),
    ids=name_of,
)
def test_the_examples_do_what_they_show(value, tmp_path, monkeypatch, request):
    if "simulate_series(" not in value.__doc__ and "runs/scan" in value.__doc__:
        shutil.copytree(request.getfixturevalue("beamtime"), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)  # examples write files beside them
    (examples,) = doctest.DocTestFinder(recurse=False).find(value, name_of(value), globs={"__name__": "__main__"})
    assert examples.examples, "has no example"
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(examples, out=said.append)
    assert not result.failed, "".join(said)


@pytest.mark.parametrize("value", [value for value in documented() if inspect.isfunction(value)], ids=name_of)
def test_a_function_says_what_it_takes_returns_and_raises(value: Callable[..., Any]):
    said = sections(value)
    summary = said["Summary"].strip().split("\n\n")[0]
    assert "\n" not in summary, f"more than one line says what it does: {summary}"
    assert summary.endswith(".") or ":" in summary
    missing = set(TITLES) - {*said} - ({"Examples"} if value in WITHOUT_EXAMPLE else set())
    assert missing <= ({"Raises"} if value in RAISES_NOTHING else set())
    assert [title for title in said if title in TITLES] == [title for title in TITLES if title in said]
    parameters = entries(said["Parameters"])
    assert list(parameters) == list(inspect.signature(value).parameters)
    assert [name for name, text in parameters.items() if not text] == [], "nothing is said of these"
    assert value in RAISES_NOTHING or "InputError" in entries(said["Raises"])


@pytest.mark.parametrize("value", [value for value in documented() if inspect.isclass(value)], ids=name_of)
def test_a_class_says_what_each_of_its_fields_is(value: type):
    said = sections(value)
    assert "Examples" in said
    if issubclass(value, BaseModel):
        missing = [name for name, field in value.model_fields.items() if not field.description]
    elif is_dataclass(value):
        missing = sorted(set(value.__dataclass_fields__) - {*entries(said.get("Attributes", "")), *fields_said(value)})
    else:
        missing = []
    assert missing == []


def fields_said(value: type) -> Iterator[str]:
    """The fields of a class that a string stands behind."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    assert isinstance(definition, ast.ClassDef)
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            yield field.target.id
