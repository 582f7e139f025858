"""What the report says in words and tables: plain text, by the names that the page's template uses."""

from typing import Any

from braggflow.peak_table import FLAG_MEANINGS, Flag
from braggflow.results import Alarm, Provenance
from braggflow.selfcheck import CHECK_COLUMNS, check_table, scope_of

#: Failures listed one by one.
LISTED_FAILURES = 50
#: Inputs listed one by one, and digits of a checksum.
LISTED_INPUTS, DIGITS = 12, 16
_REMOVED_BY = {
    "false_peaks": "not significant against the noise of their place (detect.false_peaks)",
    "minscore": "persistence not above detect.minscore",
    "min_area": "fewer pixels than detect.min_area",
    "max_area": "more pixels than detect.max_area",
    "min_edge_distance": "maximum closer to the frame's edge than detect.min_edge_distance",
    "min_neighbour_distance": "maximum closer to a higher one than detect.min_neighbour_distance",
    "min_snr": "snr below detect.min_snr",
    "disk": "further maxima on one disk (fit.model: disk)",
}


def warnings(info: dict[str, Any]) -> list[str]:
    """What a look at a few frames said before the run, and the changes that were seen in it."""
    alarms = [f"Changed {Alarm(**alarm)}." for alarm in info.get("alarms", [])]
    return [*map(str, info.get("warnings", [])), *alarms]


def headline(info: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands first: how much there was, how long it took, what the detector is taken for."""
    dataset, counts = info["dataset"], info["counts"]
    n_frames, n_failed = counts["frames"], counts["frames_failed"]
    shape = " × ".join(f"{n}" for n in dataset["shape"])
    rows = [
        ("Frames", f"{n_frames:,} of {shape} (frame, y, x), {dataset['dtype']}"),
        ("Failed frames", f"{n_failed:,}"),
        ("Peaks", f"{counts['peaks']:,} ({counts['peaks'] / max(1, n_frames - n_failed):.1f} a frame)"),
        ("Time", _time(info)),
    ]
    if "verdict" in info.get("check", {}):
        rows.append(("Self-check", info["check"]["verdict"]))
    rows += _detector(info)
    parts = info["parts"]
    if parts["redone"] < parts["total"]:
        rows.append(("Parts", f"{parts['done']:,} of {parts['total']:,}; {parts['redone']:,} made in the last session"))
    if "written" in info:
        rows.append(("Written", info["written"]))
    rows.append(("Frames store", dataset["path"]))
    return rows


def _time(info: dict[str, Any]) -> str:
    """How long the run took, and how many frames a second it processed once its first task had begun."""
    seconds, counts = info["seconds"], info["counts"]
    wall = float(seconds["wall"])
    # Runs of older versions know their whole time only.
    frames, processing = counts.get("frames_processed", counts["frames"]), float(seconds.get("processing", wall))
    return f"{wall:.1f} s" + (f" ({frames / processing:.1f} frames/s)" if processing > 0 else "")


def _detector(info: dict[str, Any]) -> list[tuple[str, str]]:
    """The detector's constants, how they were found, and what is to be known of them; of an older run nothing."""
    found = info.get("detector")
    if found is None:
        return []

    def number(key: str) -> str:
        std = found[f"{key}_std"]
        return f"{found[key]:.4g}" + ("" if std is None else f" ± {std:.2g}")

    told = f"{number('counts_per_photon')} counts a photon, read noise {number('read_noise')} counts: {found['how']}"
    bad = found.get("bad_pixels")
    if bad:
        kinds = ", ".join(f"{len(bad[kind]):,} {kind}" for kind in ("hot", "noisy", "dead"))
        spots = f"; {bad['persistent_spots']:,} other spots are there in nearly all of them"
        told += f"; bad pixels found in {bad['frames']:,} frames and ignored: {kinds}{spots}"
    return [("Detector", told), *(("", note) for note in found["notes"])]


def counted(info: dict[str, Any]) -> dict[str, Any]:
    """The tables of what was filtered, flagged, and located by which method."""
    counts = info["counts"]
    n_peaks = counts["peaks"]
    return {
        "n_peaks": f"{n_peaks:,}",
        "removed": [(name, f"{n:,}", _REMOVED_BY.get(name, "")) for name, n in counts["removed"].items()],
        "flags": [
            (str(flag.name), f"{n:,}", f"{n / max(1, n_peaks):.1%}", FLAG_MEANINGS[flag])
            for flag in Flag
            if (n := counts["flags"].get(flag.name)) is not None
        ],
        "methods": [(name, f"{n:,}", f"{n / max(1, n_peaks):.1%}") for name, n in counts["methods"].items() if n],
    }


def repeated(found: dict[str, Any]) -> dict[str, Any]:
    """The table of repeatability, and the sentence above it."""
    if "reason" in found:
        return {"repeated": [], "repeated_told": f"Not known: {found['reason']}"}
    if found["ratio"] is None:
        return {"repeated": [], "repeated_told": f"Not known: only {found['peaks']:,} peaks have fits of both halves."}
    told = (
        f"{found['peaks']:,} peaks of {found['frames']:,} frames, each fitted on both halves of its pixels, split like "
        f"a checkerboard: the positions differ by {found['ratio']:.2f} ± {found['ratio_std']:.2f} times what their "
        "stated uncertainties say (1: these are honest; above: they are too small; locate.scale_std takes the factor). "
        f"{found['failed']:,} more are left out: a half could not be fitted, or not well."
    )
    rows = [
        (
            of["class"],
            f"{of['snr'][0]:g} to {of['snr'][1]:g}" if of["snr"][1] is not None else f"{of['snr'][0]:g} and more",
            f"{of['peaks']:,}",
            f"{of['ratio']:.2f} ± {of['ratio_std']:.2f}",
        )
        for of in found["bins"]
    ]
    return {"repeated": rows, "repeated_told": told}


def checked(info: dict[str, Any]) -> dict[str, Any]:
    """The table of the self-check, and the sentences above it."""
    found = info.get("check", {"left_out": "the run is of an older version; braggflow check makes it"})
    if "left_out" in found:
        return {"check_columns": CHECK_COLUMNS, "checked": [], "check_told": f"Not made: {found['left_out']}"}
    told = f"{found['verdict'][0].upper()}{found['verdict'][1:]}. {scope_of(found)}"
    return {"check_columns": CHECK_COLUMNS, "checked": check_table(found), "check_told": told}


def failures(info: dict[str, Any]) -> dict[str, Any]:
    """The frames that could not be processed, the first of them with their reasons."""
    failed = info["failures"]
    n = len(failed)
    return {
        "failures": [(f"{failure['frame']}", failure["reason"]) for failure in failed[:LISTED_FAILURES]],
        "failed_frames": f"{n:,} {'frame' if n == 1 else 'frames'}",
        "more_failures": n > LISTED_FAILURES,
    }


def made_from(made: Provenance) -> dict[str, Any]:
    """The sentence on code and model, and the table of what was read."""
    told = (
        f"{made.code_told()}; network: {made.model_told()}. "
        f"The run is {made.run[:DIGITS]}; all its rows were made alike."
    )
    inputs = [
        (one.role, one.name, "" if one.bytes is None else f"{one.bytes:,}", one.changed, one.checksum[:DIGITS])
        for one in made.inputs[:LISTED_INPUTS]
    ]
    more = len(made.inputs) - len(inputs)
    return {"made_told": told, "inputs": inputs, "more_inputs": f"And {more:,} more." if more else ""}


def stages(info: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Seconds and share of each stage, over all workers."""
    found = info["seconds"]["stages"]
    total = sum(found.values()) or 1.0
    return [(stage, f"{seconds:.2f}", f"{seconds / total:.0%}") for stage, seconds in found.items()]
