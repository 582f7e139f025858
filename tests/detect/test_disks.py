"""One row a disk, in its middle, at the limit: from detection to the table."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import braggflow
from braggflow.config import DetectConfig, load_config
from braggflow.detect import detect, on_disks
from braggflow.peak_table import Flag, Method
from braggflow.simulate import DISK_DTYPE, expected_disks

CONFIG = Path(__file__).parents[2] / "configs" / "electron_disks.yaml"


def frame(
    radius: float, amplitude: tuple[float, float], background: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected counts (y, x) of a frame of disks, apart by 24 px or so, and their centres (n, 2)."""
    rng = np.random.default_rng(seed)
    image, centres, size = np.full((224, 224), float(background)), [], 2 * int(radius) + 7
    for y, x in np.argwhere(np.ones((8, 8), bool)) * 24 + 24 + rng.uniform(-2, 2, (64, 2)):
        top, left = int(y) - size // 2, int(x) - size // 2
        disk = np.array([(y - top, x - left, radius, 0.4, rng.uniform(*amplitude), 0)], DISK_DTYPE)
        image[top : top + size, left : left + size] += expected_disks(disk, size)[0]
        centres.append((y, x))
    return image, np.array(centres)


@pytest.mark.parametrize("radius", [3.0, 4.0, 5.0])
@pytest.mark.parametrize(("amplitude", "background"), [((20, 100), 0.5), ((60, 100), 30), ((100, 2000), 5)])
@pytest.mark.parametrize("given", ["sigma", "counts"])
def test_a_disk_is_one_row_at_its_centre(
    radius: float, amplitude: tuple[float, float], background: float, given: str
) -> None:
    image, centres = frame(radius, amplitude, background, seed=1)
    # Disks cover a fifth of these frames.
    counts = [f"detect.minval={amplitude[0] / 2}", f"detect.minscore={amplitude[0] / 4}"]
    config = load_config(CONFIG, counts if given == "counts" else [])
    table = braggflow.find_peaks(np.random.default_rng(2).poisson(image), config=config)
    assert table.sizes["peak"] == len(centres)
    error = np.stack([table["y"], table["x"]], 1)[:, None] - centres
    error = error[np.arange(len(centres)), np.hypot(*error.transpose(2, 0, 1)).argmin(1)]
    assert np.abs(error).max() < 0.5
    assert (table["method"] == Method.disk).all()
    assert (table["flags"] & Flag.fit_failed == 0).all()
    assert table["fwhm_major"].values == pytest.approx(2 * radius, abs=0.8)
    pull = np.abs(error) / np.stack([table["y_std"], table["x_std"]], 1)
    assert pull.max() < 5
    assert np.mean(pull < 1) == pytest.approx(0.683, abs=0.12)


def test_maxima_on_one_disk_are_counted_as_removed() -> None:
    image, centres = frame(4.0, (400, 500), 5.0, seed=3)
    counts, mask = np.random.default_rng(4).poisson(image), np.zeros(image.shape, bool)
    config = load_config(CONFIG, ["detect.minval=100", "detect.minscore=10", "detect.background=none"]).detect
    maxima = detect(counts, mask, config)
    found = on_disks(maxima, counts, mask, size=15)
    assert len(found.table) == len(centres)
    assert found.removed["disk"] == len(maxima.table) - len(centres) > 64
    middle = np.stack([found.table["y_pixel"], found.table["x_pixel"]], 1)
    assert np.hypot(*(middle[:, None] - centres).transpose(2, 0, 1)).min(1).max() < 1.2
    assert (np.lexsort((middle[:, 1], middle[:, 0])) == np.arange(len(middle))).all()
    # Each row is that of its disk's highest maximum.
    births = {float(birth) for birth in maxima.table["birth"]}
    assert all(float(birth) in births for birth in found.table["birth"])


def test_a_frame_without_peaks_has_no_disk() -> None:
    counts, mask = np.ones((32, 32), np.int32), np.zeros((32, 32), bool)
    found = on_disks(detect(counts, mask, DetectConfig(minval=5, minscore=2)), counts, mask, size=15)
    assert len(found.table) == 0
    assert found.removed["disk"] == 0


def test_disks_cut_by_the_frame_or_by_masked_pixels_stay_where_they_are() -> None:
    image, _ = frame(4.0, (400, 500), 5.0, seed=5)
    counts, mask = np.random.default_rng(6).poisson(image)[20:, 20:], np.zeros((204, 204), bool)
    mask[:, 50] = True
    counts[:, 50] = 10**6
    found = on_disks(detect(counts, mask, DetectConfig(minval=100, minscore=10)), counts, mask, size=15)
    assert len(found.table) == 64
    assert (found.table["y_pixel"] >= 0).all()
    assert (found.table["x_pixel"] < 204).all()
