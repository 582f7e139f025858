"""Commands that train networks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from braggflow.cli.options import Device, Overwrite, section_from_options
from braggflow.config import LocateConfig
from braggflow.errors import InputError


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
    from braggflow.cli.terminal import show_evaluation, training_progress
    from braggflow.train import TrainConfig, check_weights_path, config_of_card, train

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
    check_weights_path(out)
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
        from braggflow.train import simulation_like

        options["scenes"] = simulation_like(like)
    settings = config_of_card(card) if card is not None else section_from_options(TrainConfig, options)
    with training_progress() as show:
        made = train(settings, out, resume=True, progress=show)
    if "evaluation" in made:
        show_evaluation(made["evaluation"])
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
    from braggflow.cli.terminal import progress_bar, show_evaluation, show_verdict, training_progress
    from braggflow.locate import load_localiser
    from braggflow.results import RunFolder, read_run_config
    from braggflow.train import FineTuneConfig, fine_tune, labels_from_hdf5, labels_from_run, simulation_like

    if isinstance(source, Path):
        options.setdefault("size", read_run_config(RunFolder(source)).patches.size)
        like = like or source
    if like is not None:
        options["scenes"] = simulation_like(like)
    settings = section_from_options(FineTuneConfig, options)
    weights = {"method": options.get("network", "auto"), "checkpoint": start and str(start), "device": "cpu"}
    first = load_localiser(LocateConfig.model_validate(weights), settings.size)
    settings = settings.model_copy(update={"network": first.name})
    with progress_bar("labels") as advance:
        if isinstance(source, Path):
            collected = labels_from_run(source, progress=advance)
        else:
            collected = labels_from_hdf5(*source, size=settings.size, gain=gain, progress=advance)
    with training_progress() as show:
        outcome = fine_tune(settings, collected, first, out, overwrite=overwrite, resume=True, progress=show)
    if outcome.card is not None and "evaluation" in outcome.card:
        show_evaluation(outcome.card["evaluation"])
    show_verdict(outcome.verdict)
    if outcome.card is None:
        raise InputError(f"--out {out}: holds weights that are not worse, and stays as it is; --overwrite replaces it")
    _say_written(out)


def _say_written(out: Path) -> None:
    typer.echo(f"weights: {out}\ncard: {out.with_suffix('.json')}")
