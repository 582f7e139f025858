"""The command line as a user has it: real processes, their output and their exit statuses."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import braggflow
from braggflow.cli import app
from braggflow.config import RunConfig, load_config
from braggflow.train import TrainConfig
from tests.patience import PATIENCE
from tests.stores import make_store

COMPLETE, REFUSED, PARTIAL = 0, 2, 3
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS", "TERM")},
    "OMP_NUM_THREADS": "1",
    "TERM": "xterm",
}
HELP = {
    "config": ["init", "example", "schema"],
    "config example": ["--overwrite"],
    "export": ["--out", "--to", "--overwrite"],
    "inspect": ["--dataset", "--coord", "--json"],
    "ingest": [
        *("--out", "--dataset", "--coord", "--mask", "--dark", "--flat", "--workers", "--require-complete"),
        "--overwrite",
    ],
    "simulate": ["--frames", "--size", "--peaks", "--seed", "--overwrite"],
    "run": ["--out", "--set", "--require-complete", "--workers", "--cluster", "--follow", "--idle"],
    "cluster": ["check", "script"],
    "cluster check": ["--scripts"],
    "cluster script": ["--out", "--set", "--follow", "--walltime", "--write", "--overwrite"],
    "status": ["--watch", "--json"],
    "preview": ["--frame", "--set", "--out"],
    "explain": ["--at", "--frame", "--config", "--out"],
    "report": ["--frame", "--axis"],
    "movie": ["--out", "--fps", "--start", "--stop", "--step", "--max-frames"],
    "score": ["--radius", "--json"],
    "train": [
        *("--out", "--network", "--size", "--steps", "--seconds", "--batch", "--seed", "--device", "--overwrite"),
        *("--card", "--like", "--evaluation"),
    ],
    "finetune": [
        *("--out", "--network", "--size", "--steps", "--seconds", "--batch", "--seed", "--device", "--overwrite"),
        *("--hdf5", "--counts-per-photon", "--from", "--like", "--evaluation"),
    ],
    "evaluate": [
        *("--method", "--weights", "--size", "--peaks", "--seed", "--frames", "--device", "--json", "--plot"),
    ],
}
#: One group of tasks for each file of frames, so that one file's damage is not all of the run's.
SETTINGS = ["detect.minval=20", "locate.network=none", "output.report=false", "compute.task_seconds=0.01"]
RUN = ["run", "braggflow.yaml", "scan.zarr", "--workers", "1", *(word for key in SETTINGS for word in ("--set", key))]


def command(*words):
    return [sys.executable, "-m", "braggflow", *map(str, words)]


def call(folder, *words):
    """The finished process; whatever happened, its output is plain text and shows no traceback."""
    done = subprocess.run(
        command(*words), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    return done


def succeed(folder, *words):
    done = call(folder, *words)
    assert done.returncode == COMPLETE, done.stderr
    return done


def on_a_terminal(folder, *words):
    """Exit status and what a terminal 110 columns wide received."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    process = subprocess.Popen(
        command(*words), cwd=folder, env=ENVIRONMENT, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    received = bytearray()
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux's way of saying that the other side is closed
            break
        if not chunk:
            break
        received += chunk
    os.close(ours)
    return process.wait(), received.decode()


class Beamtime(NamedTuple):
    """A folder in which a series was simulated, run on a terminal with a file truncated, and again with it whole."""

    folder: Path
    simulated: subprocess.CompletedProcess[str]
    first: tuple[int, str]
    state: subprocess.CompletedProcess[str]
    second: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def beamtime(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beamtime")
    succeed(folder, "config", "init")
    simulated = succeed(folder, "simulate", "cycle.zarr", "--frames", 12, "--size", 96, "--peaks", 4)
    series = braggflow.open_frames(folder / "cycle.zarr").load()
    path = make_store(folder / "scan.zarr", series["frames"].values, chunk=2, mask=series["mask"].values != 0)
    file = path / "frames" / "c" / "2" / "0" / "0"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    first = on_a_terminal(folder, *RUN)
    state = succeed(folder, "status", "runs")
    file.write_bytes(whole)
    return Beamtime(folder, simulated, first, state, succeed(folder, *RUN))


# Each command of a run, in the order that a user types them.


def test_a_starter_configuration_holds_the_defaults_and_is_not_overwritten(beamtime):
    folder = beamtime.folder
    assert load_config(folder / "braggflow.yaml") == RunConfig()
    before = (folder / "braggflow.yaml").read_text()
    refused = call(folder, "config", "init")
    assert refused.returncode == REFUSED
    assert refused.stderr == "braggflow: braggflow.yaml: exists; choose another name or add --overwrite\n"
    assert (folder / "braggflow.yaml").read_text() == before
    nowhere = call(folder, "config", "init", "nowhere/b.yaml")
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (REFUSED, 1)
    assert "nowhere/b.yaml: cannot be written (No such file or directory)" in nowhere.stderr


def test_a_simulated_series_is_described(beamtime):
    folder, simulated = beamtime.folder, beamtime.simulated
    assert re.match(r"cycle\.zarr: 12 × 96 × 96 uint16, \d+ pixels masked, coordinates: .*voltage", simulated.stdout)
    assert "truth: cycle.truth.zarr" in simulated.stdout
    assert (folder / "cycle.truth.zarr").is_dir()
    assert simulated.stderr.endswith("simulate: 12/12 frames\n")


def test_a_terminal_shows_rate_peaks_failures_and_time_left(beamtime):
    code, received = beamtime.first
    assert code == PARTIAL, received
    assert "\x1b[" in received
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", received)
    for stage in ("loading", "opening scan", "looking at a few frames", "starting workers"):
        assert f"{stage} ━" in text
    assert "dashboard" not in text  # other users could look at it
    line = r"scan ━+ +\d+% +(\d+:\d\d:\d\d left)? *\d+/12 frames, [\d.]+ frames/s, \d+ peaks, \d+ frames failed"
    shown = [found[0] for found in re.finditer(line, text)]
    assert len(shown) >= 2
    assert " 12/12 frames" in shown[-1]
    assert shown[-1].endswith(" 2 frames failed")


def test_a_partial_run_says_what_failed_and_how_to_go_on(beamtime):
    assert "scan: 2 frames failed, see: braggflow status " in beamtime.first[1]
    assert "The same command tries them again." in beamtime.first[1]
    state = beamtime.state.stdout
    assert re.search(r"scan: frame 4: .*Zstd decompression error", state)
    assert "scan: frame 5: " in state
    assert "the same braggflow run tries them again" in state
    assert re.search(r"scan .*partial .*6/6 .*12 .* 2 .*\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", state)


def test_the_same_command_completes_the_run_and_shows_in_a_log_how_it_goes_and_where_the_result_is(beamtime):
    told = beamtime.second.stderr.splitlines()
    name, frames, *lines = told[told[0].startswith("opening") :]
    assert (name, frames) == ("scan.zarr", "  frames       12 frames of 96 × 96 pixels (y, x), uint16")
    assert re.fullmatch(r"scan: 12/12 frames, [\d.]+ frames/s, \d+ peaks, 0 frames failed", lines[-1])
    run = beamtime.folder / "runs" / "scan"
    assert re.search(rf"scan .*complete .*12 .*0 .*{braggflow.open_peaks(run).sizes['peak']} ", beamtime.second.stdout)
    assert beamtime.second.stdout.endswith(f"\npeaks: {run}/peaks.zarr\n")
    assert json.loads((run / "run.json").read_text())["parts"]["redone"] == 1
    assert load_config(run / "run.yaml").detect.minval == 20


def test_a_run_that_is_complete_is_not_done_again(beamtime):
    parts = list((beamtime.folder / "runs" / "scan" / "parts").iterdir())
    before = {path: path.stat().st_mtime_ns for path in parts}
    again = succeed(beamtime.folder, *RUN)
    assert re.search(r"scan .*complete .*done before", again.stdout)
    assert again.stderr in ("", "opening scan\n")
    assert before == {path: path.stat().st_mtime_ns for path in parts}


def test_a_run_is_scored_against_the_truth(beamtime, tmp_path):
    folder = beamtime.folder
    scored = succeed(folder, "score", "runs/scan", "cycle.truth.zarr", "--json", tmp_path / "score.json")
    recall = re.search(r"^all +\d+ +\d+ +([\d.]+)$", scored.stdout, re.MULTILINE)
    assert recall is not None
    assert float(recall[1]) > 0.8
    assert json.loads((tmp_path / "score.json").read_text())


def test_the_peaks_are_exported_and_the_file_is_named(beamtime):
    folder = beamtime.folder
    for suffix in ("csv", "parquet", "h5"):
        assert succeed(folder, "export", "runs/scan", "--out", f"peaks.{suffix}").stdout == f"peaks.{suffix}\n"
    lines = (folder / "peaks.csv").read_text().splitlines()
    assert len(lines) == 1 + braggflow.open_peaks(folder / "runs" / "scan").sizes["peak"]
    refused = call(folder, "export", "runs/scan", "--out", "peaks.csv")
    assert refused.returncode == REFUSED
    assert refused.stderr == "braggflow: --out peaks.csv: exists; choose another name or add --overwrite\n"


def test_an_example_is_written_and_loads_and_without_a_name_all_are_listed(tmp_path):
    listed = succeed(tmp_path, "config", "example").stdout
    assert {"demo", "rotation", "pilatus", "slurm", "pbs"} <= {line.split()[0] for line in listed.splitlines()}
    assert "rotation         Rotation scan (far-field HEDM, 3DXRD)\n" in listed
    said = succeed(tmp_path, "config", "example", "rotation").stdout
    assert said == "rotation.yaml written. Rotation scan (far-field HEDM, 3DXRD).\n"
    assert load_config(tmp_path / "rotation.yaml").detect.min_area == 3
    assert succeed(tmp_path, "config", "example", "slurm", "mine.yaml").stdout.startswith("mine.yaml written. ")
    assert call(tmp_path, "config", "example", "demo", "mine.yaml").returncode == REFUSED


def test_a_report_and_a_movie_are_written_and_named(beamtime):
    folder = beamtime.folder
    assert succeed(folder, "report", "runs/scan").stdout == "runs/scan/report.html\n"
    assert (folder / "runs" / "scan" / "report.html").stat().st_size > 10_000
    assert succeed(folder, "movie", "runs/scan", "--out", "short.gif", "--max-frames", 2).stdout == "short.gif\n"
    assert (folder / "short.gif").read_bytes()[:3] == b"GIF"


def test_an_array_file_is_ingested_and_never_overwritten_unasked(tmp_path):
    np.save(tmp_path / "scan.npy", np.full((3, 64, 64), 7, np.uint16))
    words = ["ingest", "scan.npy", "--out", "scan.zarr", "--workers", 1]
    assert "scan.zarr: 3 × 64 × 64 uint16, no mask, coordinates: none" in succeed(tmp_path, *words).stdout
    refused = call(tmp_path, *words)
    assert (refused.returncode, refused.stdout) == (REFUSED, "")
    assert refused.stderr == ("braggflow: --out scan.zarr: exists; choose another name, or --overwrite to replace it\n")
    np.save(tmp_path / "scan.npy", np.full((4, 64, 64), 7, np.uint16))
    assert "4 × 64 × 64" in succeed(tmp_path, *words, "--overwrite").stdout


# Bad input: one message, exit status 2, nothing written.

BAD = {
    "key in the file": (
        ["run", "typo.yaml", "scan.zarr"],
        r"configuration typo\.yaml: detect\.minvall: .*Did you mean",
    ),
    "key in --set": (
        ["run", "c.yaml", "--set", "fit.modle=gaussian"],
        r"fit\.modle: unknown key .*Did you mean model\?",
    ),
    "type": (
        ["run", "c.yaml", "--set", "detect.minval=high"],
        r"detect\.minval: 'high' is not accepted; must be a num",
    ),
    "--set form": (["run", "c.yaml", "--set", "detect"], r"--set detect: must be section\.key=value"),
    "no configuration": (["run", "nope.yaml"], r"configuration nope\.yaml: cannot be read \(No such file"),
    "no frames store": (["run", "c.yaml", "nope.zarr"], r"frames store nope\.zarr: does not exist"),
    "section left out": (
        ["run", "c.yaml", "--set", "minval=3"],
        r"minval: unknown key .*Did you mean detect\.minval\?",
    ),
    "data first": (
        ["run", "scan.zarr", "c.yaml"],
        r"configuration scan\.zarr: is named as data are, .*the configuration comes first",
    ),
    "two configurations": (["run", "c.yaml", "typo.yaml"], r"data: typo\.yaml: is a configuration, which comes first"),
    "many workers": (
        ["run", "c.yaml", "--workers", 100_000],
        r"--workers: 100,000 worker processes would hinder each other on \d+ cores?; must be",
    ),
    "format": (["export", "runs/scan", "--out", "peaks.xlsx"], r"--out peaks\.xlsx: its suffix names no format"),
    "no table": (["export", "nowhere", "--out", "peaks.csv"], r"nowhere: holds no peak table"),
    "no example": (["config", "example", "hedm"], r"hedm: is no example; must be one of demo, .*rotation.*slurm"),
    "no run": (["status", "nowhere"], r"nowhere: holds no run"),
    "coord form": (["ingest", "a.npy", "--out", "b.zarr", "--coord", "omega"], r"--coord omega: must be NAME=VALUE"),
    "coord": (
        ["ingest", "a.npy", "--out", "b.zarr", "--coord", "omega=/x", "--workers", 1],
        r"--coord omega: .*a\.npy has no data sets; write --coord NAME=FILE\.h5:/PATH",
    ),
    "method": (["evaluate", "--method", "resnet"], r"--method resnet: must be braggnn, compact, fit"),
    "card": (["train", "--card", "c.yaml", "--out", "w.safetensors"], r"--card c\.yaml: is no card of a network"),
}
MISUSE = {
    "workers": (["run", "c.yaml", "--workers", 0], r"Invalid value for '--workers'.*greater than or equal to 1"),
    "no --out": (["ingest", "a.npy"], r"Missing option '--out'"),
    "option": (["run", "c.yaml", "--ouput", "x"], r"No such option: --ouput"),
    "command": (["refine"], r"No such command 'refine'"),
    "number": (["simulate", "s.zarr", "--frames", "many"], r"Invalid value for '--frames'"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What every command of BAD and MISUSE did, and what lies in the folder afterwards."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "c.yaml").write_text("fit: {model: gaussian}\n")
    (folder / "typo.yaml").write_text("detect: {minvall: 5}\n")
    np.save(folder / "a.npy", np.zeros((2, 64, 64), np.uint16))
    make_store(folder / "scan.zarr", np.zeros((2, 64, 64), np.uint16))
    before = {path.name for path in folder.iterdir()}
    cases = BAD | MISUSE
    with ThreadPoolExecutor(2) as pool:
        done = dict(zip(cases, pool.map(lambda case: call(folder, *case[0]), cases.values()), strict=True))
    return done, {path.name for path in folder.iterdir()} - before


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_one_line_that_says_what_and_status_2(refusals, case):
    done = refusals[0][case]
    assert (done.returncode, done.stdout) == (REFUSED, "")
    assert re.search(BAD[case][1], done.stderr), done.stderr
    *opening, refusal = done.stderr.splitlines()
    assert refusal.startswith("braggflow: ")
    assert all(
        line.startswith("opening ") for line in opening
    )  # on a busy machine that may take long enough to be said


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_ends_with_the_reason_the_usage_and_status_2(refusals, case):
    done = refusals[0][case]
    assert (done.returncode, done.stdout) == (REFUSED, "")
    assert re.search(MISUSE[case][1], done.stderr), done.stderr
    assert "Usage: " in done.stderr


def test_bad_input_leaves_nothing_behind(refusals):
    assert refusals[1] == set()


def test_figures_that_cannot_be_written_are_refused(beamtime):
    refused = call(beamtime.folder, "score", "runs/scan", "cycle.truth.zarr", "--json", "nowhere/score.json")
    assert (refused.returncode, refused.stderr) == (
        REFUSED,
        "braggflow: nowhere/score.json: No such file or directory\n",
    )


def test_ctrl_c_ends_with_a_line_and_status_3(tmp_path):
    words = command("simulate", "long.zarr", "--frames", 5000)
    with subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        while not (line := process.stderr.readline()).startswith("simulate: "):
            assert line.startswith("compiling, once")  # in a fresh installation
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "braggflow: stopped; run the same command again to go on\n"
    assert process.returncode == PARTIAL
    assert not (tmp_path / "long.zarr").exists()


# Networks.


def test_a_network_is_trained_evaluated_and_trained_again_from_its_card(tmp_path):
    words = ["train", "--out", "w.safetensors", "--size", 9, "--steps", 100, "--batch", 8, "--evaluation", 100]
    trained = succeed(tmp_path, *words)
    assert re.search(r"training: step 100, loss -?[\d.]+.*\d+ patches/s\n", trained.stderr)
    assert "weights: w.safetensors\ncard: w.json\n" in trained.stdout
    refused = call(tmp_path, *words)
    assert (refused.returncode, refused.stderr) == (
        REFUSED,
        "braggflow: --out w.safetensors: exists; choose another name or add --overwrite\n",
    )
    stated = json.loads((tmp_path / "w.json").read_text())["evaluation"]
    for kind, values in stated["classes"].items():
        assert re.search(rf"{kind} .*{values['rms_over_limit']:.4f} ", trained.stdout)
    words = ["evaluate", "--method", "fit", "--weights", "w.safetensors", "--size", 9, "--peaks", 100]
    succeed(tmp_path, *words, "--json", "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    for kind, values in stated["classes"].items():
        assert figures[kind]["w"]["rms_over_limit"] == pytest.approx(values["rms_over_limit"])
    succeed(tmp_path, "train", "--card", "w.json", "--out", "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()


# Help.


def test_help_lists_every_option_with_a_text():
    with ThreadPoolExecutor(2) as pool:
        pages = dict(zip(HELP, pool.map(lambda name: succeed(".", *name.split(), "--help").stdout, HELP), strict=True))
    for name, options in HELP.items():
        for option in options:
            assert re.search(rf"^  {option}( <[\w \[\]]+>)?\s+\S+", pages[name], re.MULTILINE), (name, option)
    defaults = TrainConfig()
    training = " ".join(pages["train"].split())
    for name in ("steps", "batch", "evaluation"):
        assert f"(default: {getattr(defaults, name)}" in training
    overview = succeed(".", "--help").stdout
    for name in (name for name in HELP if " " not in name):
        assert re.search(rf"^  {name} +[A-Z].*\.$", overview, re.MULTILINE), name


def test_the_version_is_the_packages():
    assert succeed(".", "--version").stdout == f"{braggflow.__version__}\n"


def test_the_command_line_loads_nothing_heavy():
    heavy = {"torch", "dask", "distributed", "xarray", "zarr", "matplotlib", "numba", "scipy", "h5py"}
    script = "import sys, braggflow.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert heavy & set(loaded) == set()


def test_a_run_called_from_python_leaves_its_callers_signals_as_they_were(tmp_path, monkeypatch):
    make_store(tmp_path / "scan.zarr", np.zeros((2, 32, 32), np.uint16), chunk=1)
    (tmp_path / "c.yaml").write_text("locate: {network: none}\noutput: {report: false}\n")
    monkeypatch.chdir(tmp_path)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as end:
        app(["run", "c.yaml", "scan.zarr"])
    assert end.value.code == COMPLETE
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
