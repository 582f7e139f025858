"""Following peaks: against a truth, beside laptrack, trackpy and Stone Soup on the same detections; speed and memory.

    python benchmarks/bench_tracks.py            # figures of docs/tracks.md
    python benchmarks/bench_tracks.py --speed    # speed and memory alone

These (benchmarks/peers/requirements.txt) are left out where they are not installed. Each is run
with a range of settings, and the one with the best IDF1 is shown: they are given the truth, braggflow is not.
"""

import argparse
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import xarray as xr
from harness import markdown
from numpy.typing import NDArray

import braggflow
from braggflow.evaluate import TrackScore, score_tracks
from braggflow.simulate import MovingPeaks, simulate_moving_peaks

SEEDS, FRAMES, GAP = range(8), 480, 5
#: The others take minutes for all settings: they are given the first of these series.
PEER_SEEDS = range(2)
RANGES = (2.0, 3.0, 4.0, 5.0)


def table_of(rows: NDArray[np.void], n_frames: int) -> xr.Dataset:
    """Detections as a peak table."""
    columns = {"fwhm_major": rows["fwhm"], "fwhm_minor": rows["fwhm"], "angle": np.zeros(len(rows), np.float32)}
    columns |= {name: rows[name] for name in ("y", "x", "y_std", "x_std", "intensity")}
    columns["peak_frame"] = rows["frame"]
    return xr.Dataset({name: ("peak", values) for name, values in columns.items()}, {"frame": np.arange(n_frames)})


def with_braggflow(truth: MovingPeaks) -> Iterator[tuple[TrackScore, xr.Dataset]]:
    found = braggflow.track(table_of(truth.detections, FRAMES))
    related = {name: found[name].values for name in ("parent", "merged_into")}
    yield score_tracks(found["track_id"].values, truth, max_gap=GAP, **related), found


def with_trackpy(truth: MovingPeaks) -> Iterator[tuple[TrackScore, None]]:
    import pandas as pd
    import trackpy

    trackpy.quiet()
    rows = truth.detections
    data = pd.DataFrame({name: rows[name] for name in ("y", "x", "frame")})
    ways: dict[str, Callable[..., Any]] = {
        "plain": trackpy.link,
        "predicted": trackpy.predict.NearestVelocityPredict().link_df,
    }
    for link in ways.values():
        for search_range in RANGES:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    linked = link(data.copy(), search_range, memory=GAP).sort_index()
            except trackpy.SubnetOversizeException:
                continue
            yield score_tracks(linked["particle"].to_numpy(np.int64), truth, max_gap=GAP), None


def with_laptrack(truth: MovingPeaks) -> Iterator[tuple[TrackScore, None]]:
    import pandas as pd
    from laptrack import LapTrack

    rows = truth.detections
    data = pd.DataFrame({name: rows[name] for name in ("y", "x", "frame")})
    for cutoff in RANGES:
        tracker = LapTrack(
            cutoff=cutoff**2,
            gap_closing_cutoff=cutoff**2,
            gap_closing_max_frame_count=GAP,
            splitting_cutoff=5.0**2,
            merging_cutoff=5.0**2,
        )
        tracks, splits, merges = tracker.predict_dataframe(data, ["y", "x"], "frame", only_coordinate_cols=False)
        number = tracks["track_id"].to_numpy(np.int64)
        related = {"parent": _relatives(splits, number, 0), "merged_into": _relatives(merges, number, 1)}
        yield score_tracks(number, truth, max_gap=GAP, **related), None


def with_stonesoup(truth: MovingPeaks) -> Iterator[tuple[TrackScore, None]]:
    """Global nearest neighbours, Kalman filters of constant velocity: what its tutorials build of its components."""
    from datetime import datetime, timedelta

    from stonesoup.dataassociator.neighbour import GNNWith2DAssignment
    from stonesoup.deleter.time import UpdateTimeStepsDeleter
    from stonesoup.hypothesiser.distance import DistanceHypothesiser
    from stonesoup.initiator.simple import SimpleMeasurementInitiator
    from stonesoup.measures import Mahalanobis
    from stonesoup.models.measurement.linear import LinearGaussian
    from stonesoup.models.transition.linear import CombinedLinearGaussianTransitionModel, ConstantVelocity
    from stonesoup.predictor.kalman import KalmanPredictor
    from stonesoup.types.detection import Detection
    from stonesoup.types.state import GaussianState
    from stonesoup.updater.kalman import KalmanUpdater

    rows, start = truth.detections, datetime(2026, 1, 1)
    frames = []
    for number in range(FRAMES):
        of_frame = np.flatnonzero(rows["frame"] == number)
        model = LinearGaussian(4, (0, 2), np.diag([np.median(rows["y_std"]) ** 2, np.median(rows["x_std"]) ** 2]))
        at = start + timedelta(seconds=number)
        found = {
            Detection([[rows["y"][i]], [rows["x"][i]]], timestamp=at, measurement_model=model, metadata={"row": i})
            for i in of_frame.tolist()
        }
        frames.append((at, found))
    for scatter in (0.01, 0.1, 1.0):
        transition = CombinedLinearGaussianTransitionModel([ConstantVelocity(scatter), ConstantVelocity(scatter)])
        updater = KalmanUpdater(None)
        hypothesiser = DistanceHypothesiser(KalmanPredictor(transition), updater, Mahalanobis(), missed_distance=5)
        associator, deleter = GNNWith2DAssignment(hypothesiser), UpdateTimeStepsDeleter(GAP + 1)
        initiator = SimpleMeasurementInitiator(GaussianState([[0], [0], [0], [0]], np.diag([0, 1.0, 0, 1.0])))
        track_of, tracks, ever = np.full(len(rows), -1, np.int64), set(), {}
        for at, found in frames:
            taken = set()
            for track, hypothesis in associator.associate(tracks, found, at).items():
                if hypothesis:
                    track.append(updater.update(hypothesis))
                    taken.add(hypothesis.measurement)
                else:
                    track.append(hypothesis.prediction)
            tracks -= deleter.delete_tracks(tracks)
            begun = initiator.initiate(found - taken, at)
            tracks |= begun
            for track in {*begun, *tracks}:
                last = track.states[-1]
                if hasattr(last, "hypothesis") and last.timestamp == at:
                    track_of[last.hypothesis.measurement.metadata["row"]] = ever.setdefault(track.id, len(ever))
        yield score_tracks(track_of, truth, max_gap=GAP), None


def _relatives(frame: Any, track: NDArray[np.int64], child_last: int) -> NDArray[np.int64]:
    relative = np.full(int(track.max()) + 1, -1)
    for parent, child in frame.to_numpy(np.int64).tolist():
        relative[child if not child_last else parent] = parent if not child_last else child
    return relative


def accuracy() -> list[dict[str, Any]]:
    ways = (
        ("braggflow", with_braggflow, SEEDS),
        ("braggflow", with_braggflow, PEER_SEEDS),
        ("laptrack", with_laptrack, PEER_SEEDS),
        ("trackpy", with_trackpy, PEER_SEEDS),
        ("stonesoup", with_stonesoup, PEER_SEEDS),
    )
    rows = []
    for name, way, seeds in ways:
        if name != "braggflow" and find_spec(name) is None:
            print(f"{name} is not installed")
            continue
        truths = [simulate_moving_peaks(FRAMES, 50, seed=seed) for seed in seeds]
        # One setting for all series: the best of them over all.
        every = [[score for score, _ in way(truth)] for truth in truths]
        best = max(zip(*every, strict=True), key=lambda scores: float(np.mean([score.idf1 for score in scores])))
        rows.append(_row(name, list(best)))
    return rows


def _row(name: str, scores: list[TrackScore]) -> dict[str, Any]:
    links = np.array([score.links for score in scores])

    def weighted(what: str) -> float:
        return float(100 * np.average([getattr(score, what) for score in scores], weights=links))

    def of(what: str) -> str:
        found, there = np.sum([getattr(score, what) for score in scores], axis=0)
        return f"{found} of {there}"

    return {
        "program": name,
        "series": len(scores),
        "true links found, %": f"{weighted('found'):.2f}",
        "wrong links, %": f"{weighted('wrong'):.2f}",
        "splits": of("splits"),
        "merges": of("merges"),
        "switches 4 px apart": sum(score.switches for score in scores),
        "IDF1": f"{np.mean([score.idf1 for score in scores]):.3f}",
    }


def calibration() -> list[dict[str, Any]]:
    rows = []
    for seed in SEEDS:
        truth = simulate_moving_peaks(FRAMES, 50, seed=seed)
        ((_, found),) = with_braggflow(truth)
        true = truth.detections
        on = (found["track_id"].values >= 0) & (true["peak_id"] >= 0) & ~true["blended"]
        error = np.concatenate([(found[f"{axis}_smooth"].values - true[f"{axis}_true"])[on] for axis in "yx"])
        stated = np.concatenate([found[f"{axis}_smooth_std"].values[on] for axis in "yx"])
        raw = np.concatenate([(true[axis] - true[f"{axis}_true"])[on] for axis in "yx"])
        rows.append(
            {
                "seed": seed,
                "within 1 sigma": f"{np.mean(np.abs(error) < stated):.3f}",
                "median error, smoothed over found": f"{np.median(np.abs(error)) / np.median(np.abs(raw)):.2f}",
                "std scale": f"{found.attrs['smooth_std_scale']:.2f}",
            }
        )
    return rows


def speed() -> list[dict[str, Any]]:
    rows = []
    for n_frames, per_frame in ((100, 10_000), (20_000, 20), (2_000, 200)):
        data = still_peaks(n_frames, per_frame)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        found = braggflow.track(data)
        seconds = time.process_time() - start
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        peaks = data.sizes["peak"]
        rows.append(
            {
                "frames": n_frames,
                "peaks a frame": per_frame,
                "seconds of a core": f"{seconds:.1f}",
                "peaks a minute": f"{peaks / seconds * 60:.2g}",
                "memory more, bytes a peak": round(more * 1024 / peaks),
                "tracks": found.sizes["track"],
            }
        )
    return rows


def still_peaks(n_frames: int, per_frame: int) -> xr.Dataset:
    """Peaks that move a little on a detector of 2048², of which 2 % are missing in each frame and 2 % are false."""
    rng = np.random.default_rng(0)
    place, velocity = rng.uniform(0, 2047, (per_frame, 2)), rng.normal(0, 0.05, (per_frame, 2))
    level = np.exp(rng.uniform(5, 10, per_frame))
    frames = np.repeat(np.arange(n_frames), per_frame)
    at = np.tile(np.arange(per_frame), n_frames)
    moved = place[at] + velocity[at] * (frames % 400)[:, None] + rng.normal(0, 0.05, (len(at), 2))
    false = rng.random(len(at)) < 0.02
    moved[false] = rng.uniform(0, 2047, (np.count_nonzero(false), 2))
    width = 3 * np.exp(0.03 * rng.standard_normal(len(at)))
    columns = {
        "peak_frame": frames,
        "y": moved[:, 0],
        "x": moved[:, 1],
        "y_std": np.full(len(at), 0.05, np.float32),
        "x_std": np.full(len(at), 0.05, np.float32),
        "intensity": level[at] * np.exp(0.05 * rng.standard_normal(len(at))),
        "fwhm_major": width,
        "fwhm_minor": width,
        "angle": np.zeros(len(at)),
    }
    kept = rng.random(len(at)) >= 0.02
    return xr.Dataset(
        {name: ("peak", values[kept]) for name, values in columns.items()}, {"frame": np.arange(n_frames)}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", action="store_true")
    braggflow.track(table_of(simulate_moving_peaks(8, 4, seed=0).detections, 8))  # compiled
    if not parser.parse_args().speed:
        print(f"\nlinks, {len(SEEDS)} series of {FRAMES} frames\n{markdown(accuracy())}", flush=True)
        print(f"\nsmoothed positions\n{markdown(calibration())}", flush=True)
    print(f"\nspeed\n{markdown(speed())}", flush=True)


if __name__ == "__main__":
    main()
