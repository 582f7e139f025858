"""The command line: parse, then one call."""

# Every import that takes time stands inside the command that needs it: `braggflow --help` is quick.
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from braggflow import __version__
from braggflow.config import InputError, LocaliseConfig, Section

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPLETE, REFUSED, PARTIAL = 0, 2, 3
#: The status that typer ends with after Ctrl-C.
_INTERRUPTED = 130

SomeSection = TypeVar("SomeSection", bound=Section)

app = typer.Typer(
    help="Bragg peaks from series of detector frames: found, located to sub-pixel, fitted and tabulated.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Local worker processes (default: one per core).")]
NetworkName = Annotated[str, typer.Option(help="compact or braggnn.")]
PatchSize = Annotated[int, typer.Option(help="Pixels on a side of a patch: 9, 11, 13 or 15.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")]


def main() -> None:
    """Run the command line; bad input ends with one message and exit status 2."""
    try:
        app()
    except InputError as error:
        _refuse(str(error))
    except OSError as error:
        if error.filename is None:  # not about a file of the user's: a connection, for one
            raise
        _refuse(f"{error.filename}: {error.strerror}")
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
        typer.echo("braggflow: stopped; run the same command again to go on", err=True)
        sys.exit(PARTIAL)


def _refuse(message: str) -> None:
    typer.secho(f"braggflow: {message}", err=True, fg="red")
    sys.exit(REFUSED)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("braggflow.yaml"),
    overwrite: Overwrite = False,
) -> None:
    """Write a starter configuration. It holds every key at its default, each with a comment."""
    from braggflow import config

    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists; choose another name or add --overwrite")
    try:
        path.write_text(config.starter(), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    typer.echo(f"{path} written. Next: braggflow run {path} NAME.zarr")


@app.command()
def ingest(
    sources: Annotated[list[str], typer.Argument(help="Files, folders or globs; FILE.h5:/path names a data set.")],
    out: Annotated[Path, typer.Option(help="Frames store to make, NAME.zarr.")],
    dataset: Annotated[str | None, typer.Option(help="HDF5 data set with the frames, if not the only one.")] = None,
    coord: Annotated[list[str], typer.Option(help="Per-frame coordinate, NAME=/path/in/file; repeat for more.")] = [],  # noqa: B006
    mask: Annotated[str | None, typer.Option(help="Image, non-zero = ignore.")] = None,
    dark: Annotated[str | None, typer.Option(help="Dark frame.")] = None,
    flat: Annotated[str | None, typer.Option(help="Flat field.")] = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert detector files into a frames store. HDF5/NeXus, TIFF, CBF, EDF, GE, ADSC, ... are read."""
    coords = dict(_pair(text, "--coord") for text in coord)
    from braggflow import display
    from braggflow.ingest import ingest as convert

    with display.bar("ingest") as advance:
        path = convert(
            list(sources),
            out,
            dataset=dataset,
            coords=coords,
            mask=mask,
            dark=dark,
            flat=flat,
            overwrite=overwrite,
            workers=workers,
            progress=advance,
        )
    display.frames_store(path)


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Frames store to make, NAME.zarr.")],
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")] = 480,
    size: Annotated[int, typer.Option(min=64, max=8192, help="Rows and columns of a frame.")] = 512,
    peaks: Annotated[int, typer.Option(min=1, help="Peaks per frame, about.")] = 14,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same frames.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make an operando-like series with known peaks. The exact truth is written beside it, NAME.truth.zarr."""
    from braggflow import display
    from braggflow.series import simulate_series

    with display.bar("simulate") as advance:
        truth = simulate_series(
            out, n_frames=frames, shape=(size, size), peaks=peaks, seed=seed, overwrite=overwrite, progress=advance
        )
    display.frames_store(out)
    typer.echo(f"truth: {truth}")


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="Configuration, YAML (see: braggflow init).")],
    data: Annotated[list[str] | None, typer.Argument(help="Frames stores; stand above the configuration's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results (default: output.folder).")] = None,
    settings: Annotated[list[str], typer.Option("--set", help="Change a key: detect.minval=20; repeat.")] = [],  # noqa: B006
    workers: Workers = None,
) -> None:
    """Find, locate and fit the peaks of one or more series. The same command again resumes."""
    from braggflow import config as configuration

    if workers is not None:
        settings = [*settings, f"compute.workers={workers}"]
    resolved = configuration.load(config, settings)
    from braggflow import display, runs

    with display.live() as show:
        outcomes = runs.run(resolved, data or (), out=out, progress=show)
    display.summary(outcomes)
    raise typer.Exit(COMPLETE if all(outcome.status == "complete" for outcome in outcomes) else PARTIAL)


@app.command()
def status(folder: Annotated[Path, typer.Argument(help="A run folder, or a folder of them.")]) -> None:
    """Show what is done, what failed and why."""
    from braggflow import display, store

    folders = [folder] if (folder / "run.json").exists() else sorted(path.parent for path in folder.glob("*/run.json"))
    if not folders:
        raise InputError(f"{folder}: holds no run")
    display.status([store.RunFolder(path) for path in folders])


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html of a run again."""
    from braggflow.report import write_report

    typer.echo(write_report(run))


@app.command()
def movie(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write, .gif or .mp4 (default: movie.gif in the run).")
    ] = None,
    fps: Annotated[int, typer.Option(min=1, max=60, help="Frames per second.")] = 12,
    start: Annotated[int | None, typer.Option(help="First frame number.")] = None,
    stop: Annotated[int | None, typer.Option(help="Last frame number.")] = None,
    step: Annotated[int, typer.Option(min=1, help="Every step-th frame.")] = 1,
    max_frames: Annotated[int, typer.Option(min=1, help="Thin longer series to this many.")] = 200,
) -> None:
    """Animate the frames with their located peaks."""
    from braggflow.movie import write_movie

    typer.echo(write_movie(run, out, fps=fps, frames=slice(start, stop, step), max_frames=max_frames))


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    truth: Annotated[Path, typer.Argument(help="The truth that simulate wrote, NAME.truth.zarr.")],
    radius: Annotated[float, typer.Option(min=0.1, help="Largest distance of a match, pixels.")] = 3.0,
    json_file: JsonFile = None,
) -> None:
    """Compare a run's peaks with the truth. Prints recall, precision and position error by class."""
    from braggflow import score as scoring
    from braggflow.store import open_peaks

    result = scoring.score(open_peaks(run), scoring.load_truth(truth), radius=radius)
    typer.echo(result.table())
    if json_file is not None:
        _write_json(json_file, result.as_dict())


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Weights to write, FILE.safetensors; their card goes to FILE.json.")],
    network: NetworkName = "compact",
    size: PatchSize = 11,
    steps: Annotated[int | None, typer.Option(help="Batches to train on (default: 40000).")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after this time instead.")] = None,
    batch: Annotated[int | None, typer.Option(help="Patches a batch (default: 256).")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, steps and threads: same weights.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    device: Device = "auto",
    evaluation: Annotated[
        int | None, typer.Option(help="Peaks of each class to measure the result on (default: 20000).")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a network on simulated peaks. The same command again resumes an interrupted training."""
    if out.exists() and not overwrite:
        raise InputError(f"--out {out}: exists; choose another name or add --overwrite")
    from braggflow import display
    from braggflow import train as training

    options = {
        "network": network,
        "size": size,
        "steps": steps,
        "seconds": seconds,
        "batch": batch,
        "seed": seed,
        "threads": threads,
        "device": device,
        "evaluation": evaluation,
    }
    settings = _section(training.TrainConfig, {name: value for name, value in options.items() if value is not None})
    with display.training() as show:
        card = training.train(settings, out, resume=True, progress=show)
    display.evaluation(card["evaluation"])
    typer.echo(f"weights: {out}\ncard: {out.with_suffix('.json')}")


@app.command()
def evaluate(
    network: NetworkName = "compact",
    size: PatchSize = 11,
    checkpoint: Annotated[
        str | None, typer.Option(help="Weights, .safetensors or .pth (default: those shipped of --network).")
    ] = None,
    peaks: Annotated[int, typer.Option(min=100, help="Simulated peaks of each class.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated peaks.")] = 1,
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Measure a network on simulated peaks. Prints errors by class, in pixels and over the Cramér-Rao limit."""
    from braggflow import localise

    if network not in localise.NETWORKS:
        raise InputError(f"--network {network}: must be {' or '.join(localise.NETWORKS)}")
    settings = _section(
        LocaliseConfig, {"method": "auto" if checkpoint else network, "checkpoint": checkpoint, "device": device}
    )
    from braggflow import display
    from braggflow import train as training

    figures = training.evaluate(localise.load(settings, size), n=peaks, seed=seed)
    display.evaluation(figures)
    if json_file is not None:
        _write_json(json_file, figures)


def _section(model: type[SomeSection], options: "Mapping[str, Any]") -> SomeSection:
    """A configuration section from command-line options of the same names."""
    try:
        return model.model_validate(options)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"--{problem['loc'][0]} {problem['input']}: {problem['msg']}") from error


def _write_json(path: Path, content: object) -> None:
    import json

    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError(f"{option} {text}: must be NAME=VALUE")
    return name, value
