"""Commands that train networks: `train` on simulated peaks, `finetune` on labels."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from braggflow.cli.options import Device, Overwrite, section_from_options
from braggflow.cli.streams import say
from braggflow.config import LocateConfig
from braggflow.errors import InputError

Out = Annotated[Path, typer.Option(help="Weights to write, FILE.safetensors; their card goes to FILE.json.")]
Like = Annotated[Path | None, typer.Option(help="Simulate peaks like those of this run.")]
Seconds = Annotated[float | None, typer.Option(help="End within this time instead, the card's figures included.")]
Batch = Annotated[int | None, typer.Option(help="Patches a batch (default: 256).")]
Seed = Annotated[int, typer.Option(help="Same seed, steps and threads: same weights.")]
Threads = Annotated[int, typer.Option(help="CPU threads.")]
Figures = Annotated[
    int | None, typer.Option(min=0, help="Peaks of each class that the card's figures come from (default: 20000).")
]


def train(
    out: Out,
    network: Annotated[str | None, typer.Option(help="compact or braggnn (default: compact).")] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels on a side of a patch: 9, 11, 13 or 15 (default: 11).")
    ] = None,
    like: Like = None,
    card: Annotated[
        Path | None, typer.Option(help="Train again as this card (.json) says; other options have no effect.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Batches to train on (default: 60000).")] = None,
    seconds: Seconds = None,
    batch: Batch = None,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
    evaluation: Figures = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a network on simulated peaks. The same command again resumes."""
    began = time.perf_counter()
    from braggflow.console import saying

    with saying("loading"):
        from braggflow.cli.terminal import show_evaluation, training_progress
        from braggflow.train import TrainConfig, check_weights_path, config_of_card, simulation_like, train

    check_weights_path(out)
    if out.exists() and not overwrite:
        raise InputError(f"--out {out}: exists; choose another name or add --overwrite")
    options = _given(network=network, size=size, steps=steps, seconds=seconds, batch=batch, seed=seed)
    options |= _given(threads=threads, device=device, evaluation=evaluation)
    if like is not None:
        options["simulation"] = simulation_like(like)
    settings = config_of_card(card) if card is not None else section_from_options(TrainConfig, options)
    with training_progress() as show:
        made = train(settings, out, resume=True, progress=show, began=began)
    if "evaluation" in made:
        show_evaluation(made["evaluation"])
    _say_written(out)


def finetune(
    out: Out,
    run: Annotated[Path | None, typer.Argument(help="A run folder: its fits are what is learned.")] = None,
    hdf5: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="<frames peaks>", help="Learn from BraggNN's two HDF5 files instead."),
    ] = None,
    counts_per_photon: Annotated[
        float | None, typer.Option(min=1e-6, help="Of the frames of --hdf5 (default: 1).")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Weights to start from (default: those shipped).")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="compact or braggnn (default: compact, or what --from holds).")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels on a side of a patch: 9, 11, 13 or 15 (default: the run's, or 11).")
    ] = None,
    like: Like = None,
    steps: Annotated[int | None, typer.Option(help="Batches to train on (default: 4000).")] = None,
    seconds: Seconds = None,
    batch: Batch = None,
    evaluation: Figures = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Teach a network the peaks of your own detector, from a run's fits or from BraggNN's HDF5 files.

    Weights at --out that are not worse stay as they are, with exit status 2. The same command again resumes.
    """
    began = time.perf_counter()
    from braggflow.console import saying

    with saying("loading"):
        from braggflow.cli.terminal import progress_bar, show_evaluation, show_verdict, training_progress
        from braggflow.locate import load_localiser
        from braggflow.results import RunFolder, read_run_config
        from braggflow.train import (
            FineTuneConfig,
            check_weights_path,
            fine_tune,
            labels_from_hdf5,
            labels_from_run,
            simulation_like,
        )

    check_weights_path(out)
    if (run is None) == (hdf5 is None):
        raise InputError("finetune: give either a run folder or --hdf5 FRAMES PEAKS, which hold what is to be learned")
    if counts_per_photon is not None and hdf5 is None:
        raise InputError(
            f"--counts-per-photon {counts_per_photon}: is for --hdf5, which is not given; "
            "a run's is in its configuration"
        )
    options = _given(network=network, size=size, steps=steps, seconds=seconds, batch=batch, seed=seed)
    options |= _given(threads=threads, device=device, evaluation=evaluation)
    if run is not None:
        options.setdefault("size", read_run_config(RunFolder(run)).patches.size)
    if (model := like or run) is not None:
        options["simulation"] = simulation_like(model)
    settings = section_from_options(FineTuneConfig, options)
    weights = LocateConfig(network=network or "compact" if start is None else str(start), device="cpu")
    first = load_localiser(weights, settings.size)
    if network not in (None, first.name):
        raise InputError(f"--network {network}: --from {start} holds a {first.name} network")
    settings = settings.model_copy(update={"network": first.name})
    with progress_bar("labels") as advance:
        if hdf5 is None:
            assert run is not None
            collected = labels_from_run(run, progress=advance)
        else:
            collected = labels_from_hdf5(
                *hdf5, size=settings.size, counts_per_photon=counts_per_photon or 1.0, progress=advance
            )
    with training_progress() as show:
        outcome = fine_tune(
            settings, collected, first, out, overwrite=overwrite, resume=True, progress=show, began=began
        )
    if outcome.card is not None and "evaluation" in outcome.card:
        show_evaluation(outcome.card["evaluation"])
    show_verdict(outcome.verdict)
    if outcome.card is None:
        raise InputError(f"--out {out}: holds weights that are not worse, and stays as it is; --overwrite replaces it")
    _say_written(out)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def _say_written(out: Path) -> None:
    say(f"weights: {out}\ncard: {out.with_suffix('.json')}")
