"""The command line: parse, then one call."""

# Every import that takes time stands inside the command that needs it: `braggflow --help` is quick.
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from braggflow import __version__, cli_cluster
from braggflow.config import InputError, LocaliseConfig, PatchesConfig, Section

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

app.add_typer(cli_cluster.app, name="cluster")

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
    data: Annotated[
        list[str] | None,
        typer.Argument(
            help="Frames stores, HDF5 files, folders of stores, patterns, list files; stand above the configuration's."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results (default: output.folder).")] = None,
    settings: Annotated[list[str], typer.Option("--set", help="Change a key: detect.minval=20; repeat.")] = [],  # noqa: B006
    workers: Workers = None,
    cluster: Annotated[
        Path | None, typer.Option(metavar="PROFILE", help="Where to compute: a cluster profile, YAML (default: here).")
    ] = None,
    follow: Annotated[
        Path | None, typer.Option(help="Also take the frames stores of this folder as they are finished, until Ctrl-C.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option(min=0, help="With --follow: end when none has come for so many seconds.")
    ] = None,
) -> None:
    """Find, locate and fit the peaks of one or more series. The same command again resumes."""
    from braggflow import config as configuration

    if workers is not None:
        settings = [*settings, f"compute.workers={workers}"]
    resolved = configuration.load(config, settings)
    if idle is not None and follow is None:
        raise InputError(f"--idle {idle:g}: is for --follow, which is not given")
    if cluster is None:
        from braggflow import local_workers

        local_workers.start(resolved)  # it imports while this process does
    from braggflow import display, runs

    # A batch system that ends this process asks for the same orderly end as a user does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with display.live() as show:
        outcomes = runs.run(
            resolved, data or (), out=out, profile=cluster, follow=follow, idle_seconds=idle, progress=show
        )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and told
    display.summary(outcomes)
    raise typer.Exit(COMPLETE if all(outcome.status == "complete" for outcome in outcomes) else PARTIAL)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="A run folder, or a folder of them.")],
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until no run goes on, or Ctrl-C.")] = False,
) -> None:
    """Show what is done, what failed and why."""
    from braggflow import display

    display.status(folder, watch=watch)


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
    network: Annotated[
        str | None, typer.Option(help="compact or braggnn (default: compact, or what --from holds).")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels on a side of a patch: 9, 11, 13 or 15 (default: 11, or the run's).")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(help="Train again as this card (.json) says; other options have no effect."),
    ] = None,
    like: Annotated[Path | None, typer.Option(help="Simulate peaks like those of this run.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Learn the peaks of this run from its fits.")] = None,
    labels_hdf5: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="<frames peaks>", help="Learn from the two HDF5 files that BraggNN is trained on."),
    ] = None,
    gain: Annotated[
        float | None, typer.Option(min=1e-6, help="Counts per photon of --labels-hdf5 (default: 1).")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Weights to start from, with labels (default: those shipped).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Batches to train on (default: 60000; with labels: 4000).")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after this time instead.")] = None,
    batch: Annotated[int | None, typer.Option(help="Patches a batch (default: 256).")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, steps and threads: same weights.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    device: Device = "auto",
    evaluation: Annotated[
        int | None, typer.Option(min=0, help="Peaks of each class that the card's figures come from (default: 20000).")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a network on simulated peaks, or teach it your own. The same command again resumes."""
    from braggflow import display
    from braggflow import train as training

    given = {
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
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    training.check_out(out)
    if labels is not None and labels_hdf5 is not None:
        raise InputError(f"--labels {labels}: --labels-hdf5 is given too; give one of them")
    if gain is not None and labels_hdf5 is None:
        raise InputError(f"--gain {gain}: is for --labels-hdf5, which is not given; a run's is in its configuration")
    if (source := labels or labels_hdf5) is not None:
        if card is not None:
            raise InputError(f"--card {card}: is of a training without labels; give one or the other")
        _fine_tune(options, out, source, like=like, start=start, gain=gain or 1.0, overwrite=overwrite)
        return
    if start is not None:
        raise InputError(f"--from {start}: is for --labels and --labels-hdf5, neither is given")
    if out.exists() and not overwrite:
        raise InputError(f"--out {out}: exists; choose another name or add --overwrite")
    if like is not None:
        from braggflow.labels import scenes_like

        options["scenes"] = scenes_like(like)
    settings = training.configuration_of(card) if card is not None else _section(training.TrainConfig, options)
    with display.training() as show:
        made = training.train(settings, out, resume=True, progress=show)
    if "evaluation" in made:
        display.evaluation(made["evaluation"])
    _say_written(out)


def _fine_tune(
    options: dict[str, Any],
    out: Path,
    source: Path | tuple[Path, Path],
    *,
    like: Path | None,
    start: Path | None,
    gain: float,
    overwrite: bool,
) -> None:
    """`train` with labels from a run or from two files; weights at `out` that are not worse end it with status 2."""
    from braggflow import display, finetune, labels, localise, store
    from braggflow.labels_hdf5 import from_hdf5

    if isinstance(source, Path):
        options.setdefault("size", store.read_settings(store.RunFolder(source)).patches.size)
        like = like or source
    if like is not None:
        options["scenes"] = labels.scenes_like(like)
    settings = _section(finetune.FineTuneConfig, options)
    weights = {"method": options.get("network", "auto"), "checkpoint": start and str(start), "device": "cpu"}
    first = localise.load(LocaliseConfig.model_validate(weights), settings.size)
    settings = settings.model_copy(update={"network": first.name})
    with display.bar("labels") as advance:
        if isinstance(source, Path):
            collected = labels.from_run(source, progress=advance)
        else:
            collected = from_hdf5(*source, size=settings.size, gain=gain, progress=advance)
    with display.training() as show:
        outcome = finetune.fine_tune(settings, collected, first, out, overwrite=overwrite, resume=True, progress=show)
    if outcome.card is not None and "evaluation" in outcome.card:
        display.evaluation(outcome.card["evaluation"])
    display.verdict(outcome.verdict)
    if outcome.card is None:
        raise InputError(f"--out {out}: holds weights that are not worse, and stays as it is; --overwrite replaces it")
    _say_written(out)


def _say_written(out: Path) -> None:
    typer.echo(f"weights: {out}\ncard: {out.with_suffix('.json')}")


@app.command()
def evaluate(
    method: Annotated[
        list[str],
        typer.Option(
            help="compact, braggnn, fit, fit_excluding or centroid; repeat for more (default: the networks shipped for "
            "--size, fit, centroid)."
        ),
    ] = [],  # noqa: B006
    checkpoint: Annotated[
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
    from braggflow import accuracy, display, methods
    from braggflow import evaluate as evaluation

    for option, path in (("--json", json_file), ("--plot", plot)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{option} {path}: folder {path.parent} does not exist")
    if plot is not None:
        accuracy.check_plot(plot)
    side = _section(PatchesConfig, {"size": size}).size
    chosen = methods.select(method, checkpoint, _section(LocaliseConfig, {"device": device}), size=side)
    with display.evaluation_progress() as show:
        result = evaluation.evaluate(chosen, n=peaks, seed=seed, size=side, frames=frames, progress=show)
    typer.echo(accuracy.table(result))
    if json_file is not None:
        _write_json(json_file, result.as_dict())
    if plot is not None:
        accuracy.plot(result, plot)


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
