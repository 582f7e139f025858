"""Commands that measure accuracy: `check`, `evaluate`, `score`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from braggflow.cli.options import Device, JsonFile, PatchSize, section_from_options, write_json
from braggflow.cli.streams import say
from braggflow.config import CheckConfig, LocateConfig, PatchesConfig
from braggflow.errors import InputError

#: Frames that `check` takes at most: no limit.
_ALL = 2**31


def check(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    fraction: Annotated[float, typer.Option(min=1e-6, max=1, help="Share of the frames, one at least.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the frames and of the added peaks.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Look for added peaks of known place in copies of a run's frames. Prints what share is found, and how exactly."""
    from braggflow.console import saying
    from braggflow.results import RunFolder, read_run_info, run_lock, write_run_info

    folder = RunFolder(run)
    read_run_info(folder)
    with run_lock(folder), saying("checking"):
        from braggflow.pipeline import compile_ahead
        from braggflow.selfcheck import check_run
        from braggflow.show import write_report

        compile_ahead()
        settings = section_from_options(CheckConfig, {"fraction": fraction, "seed": seed, "max_frames": _ALL})
        found = check_run(folder, settings)
        if "left_out" in found:
            raise InputError(f"{run}: {found['left_out']}")
        write_run_info(folder, {**read_run_info(folder), "check": found})
        if folder.report.exists():
            write_report(run)
    for line in _check_lines(found):
        say(line)
    if json_file is not None:
        write_json(json_file, found)


def _check_lines(found: dict[str, Any]) -> list[str]:
    """A check as text for a terminal: what it says, what it was made of, its table."""
    from braggflow.selfcheck import CHECK_COLUMNS, check_table, scope_of

    rows = [CHECK_COLUMNS, *check_table(found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return [found["verdict"], scope_of(found), "", *table]


def score(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    truth: Annotated[Path, typer.Argument(help="The truth that simulate wrote, NAME.truth.zarr.")],
    radius: Annotated[float, typer.Option(min=0.1, help="Largest distance of a match, pixels.")] = 3.0,
    json_file: JsonFile = None,
) -> None:
    """Compare a run's peaks with the truth. Prints recall, precision and position error by class."""
    from braggflow.console import saying

    with saying("comparing peaks with the truth"):
        from braggflow.evaluate import load_truth, score
        from braggflow.results import open_peaks

        result = score(open_peaks(run), load_truth(truth), radius=radius)
    say(result.table())
    if json_file is not None:
        write_json(json_file, result.as_dict())


def evaluate(
    method: Annotated[
        list[str],
        typer.Option(
            help="compact, braggnn, fit, fit_excluding or centroid; repeat for more (default: the networks shipped for "
            "--size, fit, centroid)."
        ),
    ] = [],  # noqa: B006
    weights: Annotated[
        list[str], typer.Option(help="Weights of a network to measure too, .safetensors or .pth; repeat for more.")
    ] = [],  # noqa: B006
    size: PatchSize = 11,
    peaks: Annotated[int, typer.Option(min=100, help="Simulated peaks of each class.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated peaks.")] = 1,
    frames: Annotated[bool, typer.Option("--frames", help="Measure on simulated frames too.")] = False,
    device: Device = "auto",
    json_file: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures to this .png, .pdf or .svg too.")] = None,
) -> None:
    """Measure networks, fit and centroid on simulated peaks. Prints errors by class, over the Cramér-Rao limit."""
    from braggflow.console import saying

    with saying("loading"):
        from braggflow.cli.terminal import evaluation_progress
        from braggflow.evaluate import (
            accuracy_table,
            check_plot_path,
            evaluate,
            plot_accuracy,
            select_estimators,
        )

    for option, path in (("--json", json_file), ("--plot", plot)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{option} {path}: folder {path.parent} does not exist")
    if plot is not None:
        check_plot_path(plot)
    side = section_from_options(PatchesConfig, {"size": size}).size
    chosen = select_estimators(method, weights, section_from_options(LocateConfig, {"device": device}), size=side)
    with evaluation_progress() as show:
        result = evaluate(chosen, n=peaks, seed=seed, size=side, frames=frames, progress=show)
    say(accuracy_table(result))
    if json_file is not None:
        write_json(json_file, result.as_dict())
    if plot is not None:
        plot_accuracy(result, plot)
