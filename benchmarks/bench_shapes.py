"""What is made of shapes that are no single profile: rows, flags and errors of rings, arcs, streaks, disks, odd spots.

Frames of 512², Poisson noise. Rings, arcs and streaks, split and asymmetric spots: default settings but `background:
local`, network and Gaussian fit asked. `on no ridge` and `ridges` are the answer of `detect.arcs` for the table's rows,
flags are shares of the rows. Disks: `configs/electron_disks.yaml`, and what the Gaussian makes of them; the error is
that of the fit over the information limit. Last, what network and fit say of patches of the shapes.

    python benchmarks/bench_shapes.py
"""

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import braggflow
from braggflow.config import FitConfig, LocateConfig, load_config
from braggflow.detect import arcs
from braggflow.fit import fit_patches
from braggflow.locate import IN_DOMAIN, load_localiser, locate_patches
from braggflow.peak_table import Flag
from braggflow.pipeline import MAX_OFFSET
from braggflow.simulate import DISK_DTYPE, expected_disks, limit_of_disks

SIDE, FRAMES = 512, 4
FLAGS = (Flag.ring, Flag.out_of_domain, Flag.fit_failed, Flag.disagree)
Y, X = np.mgrid[:SIDE, :SIDE]
CENTRE = (255.7, 256.2)
CONFIG = Path(__file__).parent.parent / "configs" / "electron_disks.yaml"
Image = NDArray[np.float64]


def ring(radius: float, sigma: float, height: float, *, length: float = 360) -> Image:
    """A ring, or its arc of so many degrees."""
    turn = np.degrees(np.arctan2(Y - CENTRE[0], X - CENTRE[1])) % 360
    distance = np.hypot(Y - CENTRE[0], X - CENTRE[1]) - radius
    return np.where(turn < length, height * np.exp(-(distance**2) / (2 * sigma**2)), 0)


def streaks(length: float, width: float, height: float, rng: np.random.Generator) -> Image:
    """Eight streaks in any direction."""
    image = np.zeros((SIDE, SIDE))
    for k in range(8):
        angle, y, x = rng.uniform(0, np.pi), 60 + 55 * k, rng.uniform(60, SIDE - 60)
        along = (X - x) * np.cos(angle) + (Y - y) * np.sin(angle)
        across = (Y - y) * np.cos(angle) - (X - x) * np.sin(angle)
        image += height * (np.abs(along) < length / 2) * np.exp(-4 * np.log(2) * (across / width) ** 2)
    return image


def spots(kind: str, height: float, rng: np.random.Generator) -> Image:
    """64 spots: round, split (two, 3 px apart) or asymmetric (to one side three times as wide as to the other)."""
    image = np.zeros((SIDE, SIDE))
    for y, x in np.argwhere(np.ones((8, 8))) * 60 + 40 + rng.uniform(-0.5, 0.5, (64, 2)):
        angle = rng.uniform(0, 2 * np.pi)
        along, across = (
            (X - x) * np.cos(angle) + (Y - y) * np.sin(angle),
            (Y - y) * np.cos(angle) - (X - x) * np.sin(angle),
        )
        if kind == "split":
            sides = (np.exp(-((along - 1.5) ** 2) / 2) + np.exp(-((along + 1.5) ** 2) / 2)) / 1.1
        elif kind == "asymmetric":
            sides = np.exp(-(along**2) / 2 / np.where(along > 0, 3.0, 1.0) ** 2)
        else:
            sides = np.exp(-(along**2) / 2)
        image += height * sides * np.exp(-(across**2) / 2)
    return image


def line(name: str, shapes: int, tables: list[tuple[xr.Dataset, NDArray[np.int64]]], background: float) -> None:
    """One line of the table of rings, streaks and spots: numbers a frame, shares of rows."""
    rows = free = kept = 0
    flagged = dict.fromkeys(FLAGS, 0)
    for table, counts in tables:
        y, x, flags = (table[column].values for column in ("y_pixel", "x_pixel", "flags"))
        level = np.full(len(y), background)
        arc = arcs(counts, np.zeros(counts.shape, bool), y, x, level, np.sqrt(level))
        rows, free, kept = rows + len(y), free + int((arc < 0).sum()), kept + len(np.unique(arc[arc >= 0]))
        for flag in flagged:
            flagged[flag] += int((flags & flag != 0).sum())
    shares = " | ".join(f"{number / max(rows, 1):.2f}" for number in flagged.values())
    n = len(tables)
    print(f"| {name} | {shapes} | {rows / n:.1f} | {free / n:.1f} | {kept / n:.1f} | {shares} |", flush=True)


def ridges_and_spots() -> None:
    """Print what is found of rings, arcs, streaks and odd spots."""
    rng = np.random.default_rng(1)
    named = " | ".join(str(flag.name) for flag in FLAGS)
    print(f"| shape, height on background | shapes | rows a frame | on no ridge | ridges | {named} |")
    print("|---|---|---|---|---|" + "---|" * len(FLAGS))
    for height, background in ((20, 0.5), (100, 5), (100, 30), (1000, 30)):
        images = {
            "ring, radius 30": (1, ring(30, 1.2, height)),
            "ring, radius 100": (1, ring(100, 1.5, height)),
            "ring, radius 200, sigma 3": (1, ring(200, 3, height)),
            "arc of 20 degrees": (1, ring(150, 1.5, height, length=20)),
            "streaks 20 x 1": (8, streaks(20, 1, height, rng)),
            "streaks 40 x 3": (8, streaks(40, 3, height, rng)),
            "round spots": (64, spots("round", height, rng)),
            "split spots": (64, spots("split", height, rng)),
            "asymmetric spots": (64, spots("asymmetric", height, rng)),
        }
        for name, (shapes, image) in images.items():
            frames = rng.poisson(background + image, (FRAMES, SIDE, SIDE))
            tables = [(braggflow.find_peaks(counts, background="local"), counts) for counts in frames]
            line(f"{name}, {height} on {background}", shapes, tables, background)


def frame_of_disks(
    radius: int, low: float, high: float, background: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Counts, the centres (n, 2) of 324 disks, and the information limit (n, 2) of each."""
    size, image, centres = 2 * radius + 9, np.full((SIDE, SIDE), float(background)), []
    drawn = np.zeros(324, DISK_DTYPE)
    drawn["radius"], drawn["edge"] = radius, 0.4
    drawn["amplitude"] = np.exp(rng.uniform(np.log(low), np.log(high), len(drawn)))
    for k, (y, x) in enumerate(np.argwhere(np.ones((18, 18))) * 27 + 25 + rng.uniform(-2, 2, (324, 2))):
        top, left = int(y) - size // 2, int(x) - size // 2
        drawn[k]["y"], drawn[k]["x"] = y - top, x - left
        image[top : top + size, left : left + size] += expected_disks(drawn[k : k + 1], size)[0]
        centres.append((y, x))
    drawn["y"] = drawn["x"] = 7.2
    drawn["background"] = background
    return rng.poisson(image), np.array(centres), limit_of_disks(drawn, 15)


def disks() -> None:
    """Print how disks are placed."""
    rng = np.random.default_rng(2)
    print("\n| radius, height on background | model | found | rows a disk | fit_failed | RMS / limit | 1 σ | 2 σ |")
    print("|---|---|---|---|---|---|---|---|")
    for radius in (3, 4, 5):
        for low, high, background in ((20, 100, 0.5), (60, 100, 30), (100, 2000, 5)):
            counts, centres, limit = frame_of_disks(radius, low, high, background, rng)
            for model in ("gaussian", "disk"):
                levels = [f"detect.minval={background + low / 2}", f"detect.minscore={low / 4}"]
                config = load_config(CONFIG, [*levels, "detect.background=none", f"fit.model={model}"])
                table = braggflow.find_peaks(counts, config=config)
                at = np.stack([table["y_pixel"], table["x_pixel"]], 1)[:, None] - centres
                nearest = np.hypot(*at.transpose(2, 0, 1)).argmin(1)
                error = np.stack([table["y_fit"], table["x_fit"]], 1) - centres[nearest]
                fitted = np.isfinite(error[:, 0])
                ratio = np.sqrt(np.mean(error[fitted] ** 2) / np.mean(limit[nearest[fitted]] ** 2))
                pull = np.abs(error / np.stack([table["y_fit_std"], table["x_fit_std"]], 1))[fitted]
                found, rows = len(np.unique(nearest)) / len(centres), len(nearest) / len(centres)
                print(
                    f"| {radius}, {low}–{high} on {background} | {model} | {found:.3f} | {rows:.2f} | "
                    f"{1 - fitted.mean():.3f} | {ratio:.2f} | {(pull < 1).mean():.3f} | {(pull < 2).mean():.3f} |",
                    flush=True,
                )


def patch(kind: str, rng: np.random.Generator, size: int = 11) -> Image:
    """Expected counts, of height 1, of one patch cut at a maximum of the shape."""
    shift, angle = rng.uniform(-0.7, 0.7, 2), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] - size // 2 - shift[:, None, None]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if kind.startswith("disk"):
        middle = size // 2 + shift
        return expected_disks(np.array([(*middle, float(kind[-1]), 0.4, 1, 0)], DISK_DTYPE), size)[0]
    if kind == "ring":
        return np.exp(-((np.hypot(along, across - 100) - 100) ** 2) / (2 * rng.uniform(1, 2) ** 2))
    if kind == "streak":
        end = rng.uniform(2, 18)  # of 20 px
        inside = (along < end) & (along > end - 20)
        return np.where(inside, np.exp(-4 * np.log(2) * (across / rng.uniform(1, 3)) ** 2), 0)
    if kind == "split":
        half = rng.uniform(1.0, 1.75)
        lines = np.exp(-((along - half) ** 2) / 2) + np.exp(-((along + half) ** 2) / 2)
        return lines / lines.max() * np.exp(-(across**2) / 2)
    wider = 3.0 if kind == "asymmetric" else 1.0
    return np.exp(-(along**2) / 2 / np.where(along > 0, wider, 1.0) ** 2 - across**2 / 2)


def verdicts() -> None:
    """Print what network and fit say of patches of the shapes, alone in their patch."""
    rng = np.random.default_rng(3)
    print("\n| patches of 11 x 11 | height | outside the network's domain | Gaussian fit failed | chi2 above 1.5 |")
    print("|---|---|---|---|---|")
    for kind in ("round", "ring", "streak", "disk 3", "disk 4", "split", "asymmetric"):
        for low, high in ((20, 100), (100, 2000)):
            heights, n = np.exp(rng.uniform(np.log(low), np.log(high), 1000)), 1000
            expected = np.array([patch(kind, rng) * height + rng.uniform(0.5, 10) for height in heights])
            counts, state = rng.poisson(expected).astype(np.float32), np.zeros((n, 11, 11), np.uint8)
            located = locate_patches(load_localiser(LocateConfig(), 11), counts, state)
            outside = (located.domain < IN_DOMAIN) | (np.linalg.norm(located.positions - 5, axis=1) > MAX_OFFSET)
            fits = fit_patches(counts, state, np.full((n, 3, 2), np.nan, np.float32), FitConfig())
            good = fits["converged"] & (np.hypot(fits["y"] - 5, fits["x"] - 5) <= MAX_OFFSET)
            odd = (fits["chi2"] > 1.5) & good
            print(
                f"| {kind} | {low}–{high} | {outside.mean():.2f} | {1 - good.mean():.2f} | {odd.mean():.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    ridges_and_spots()
    disks()
    verdicts()
