"""Commands that measure accuracy, and what settings do to it: `check`, `evaluate`, `score`, `sweep`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from braggflow.cli.options import Device, JsonFile, PatchSize, section_from_options, write_json
from braggflow.cli.streams import say
from braggflow.config import CheckConfig, LocateConfig, PatchesConfig
from braggflow.errors import InputError, printable

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


def sweep(
    source: Annotated[
        str, typer.Argument(help="A run folder, a frames store, or any file, folder or pattern that ingest reads.")
    ],
    config: Annotated[
        Path | None, typer.Option(help="Configuration, YAML (default: that of the run, or every key at its default).")
    ] = None,
    settings: Annotated[list[str], typer.Option("--set", help="As for braggflow run.")] = [],  # noqa: B006
    minval: Annotated[
        str | None, typer.Option(help="Levels: 20,40,80 or '5 sigma,8 sigma'; none: no such cut.", metavar="LIST")
    ] = None,
    minscore: Annotated[str | None, typer.Option(help="Levels, as --minval.", metavar="LIST")] = None,
    false_peaks: Annotated[
        str | None, typer.Option(help="Levels: 0.01,0.1,1; none: findpeaks' rule.", metavar="LIST")
    ] = None,
    frames: Annotated[
        str, typer.Option(help="How many frames are looked at, in pairs of neighbours; or all.", metavar="N|all")
    ] = "20",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write sweep.html, sweep.png, sweep.csv and recommended.yaml into."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Show how the peaks depend on minval, minscore and false_peaks, and recommend a setting on the plateau."""
    from braggflow.cli.terminal import progress_bar, show_sweep
    from braggflow.console import saying

    number = frames if frames == "all" else int(frames) if frames.isdecimal() else 0
    if not number:
        raise InputError(f"--frames {frames}: must be a whole number of 1 or more, or all")
    if json_file is not None and not json_file.parent.is_dir():
        raise InputError(f"--json {json_file}: folder {json_file.parent} does not exist")
    with progress_bar("sweeping", before=f"opening {source}", compiles=True) as advance:
        from braggflow.sweeps import sweep

        found = sweep(
            source,
            _config_of_sweep(source, config, settings),
            minval=_levels(minval),
            minscore=_levels(minscore),
            false_peaks=_levels(false_peaks),
            frames=number,  # type: ignore[arg-type]  # a number, or all
            progress=advance,
        )
    show_sweep(found)
    if out is not None:
        with saying("drawing"):
            written = found.write(out)
        for path in written.values():
            say(printable(str(path)))
    if json_file is not None:
        write_json(json_file, found.as_dict())


def _config_of_sweep(source: str, config: Path | None, settings: list[str]) -> Any:
    """The configuration that is given, None where it is that of a run or the default."""
    from braggflow.config import load_config, resolve_config
    from braggflow.results import RunFolder, read_run_config

    if config is not None:
        return load_config(config, settings)
    if not settings:
        return None
    folder = RunFolder(Path(source))
    return resolve_config(read_run_config(folder).model_dump(mode="json") if folder.info.exists() else {}, settings)


def _levels(text: str | None) -> list[Any] | None:
    """The levels of an option, parted by commas: numbers, text such as 6 sigma, None for none."""
    if text is None:
        return None

    def level(part: str) -> Any:
        if part.lower() in ("none", "null"):
            return None
        try:
            return float(part)
        except ValueError:
            return part

    return [level(part.strip()) for part in text.split(",")]
