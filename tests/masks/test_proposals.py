"""What the frames of a series propose to ignore, and what they do not."""

import numpy as np
import xarray as xr

from braggflow.config import RunConfig
from braggflow.frames import frames_from_array, open_series
from braggflow.masks import Proposal, propose


def proposals(counts: np.ndarray, mask: np.ndarray | None = None) -> dict[str, Proposal]:
    data = xr.Dataset({"frames": (("frame", "y", "x"), counts)})
    if mask is not None:
        data["mask"] = (("y", "x"), mask)
    return {proposal.kind: proposal for proposal in propose(open_series(frames_from_array(data), RunConfig()))}


def series(background: float = 20, frames: int = 16) -> np.ndarray:
    return np.random.default_rng(0).poisson(background, (frames, 64, 96))


def test_bad_pixels_and_gaps_are_proposed_each_by_itself() -> None:
    counts = series()
    counts[:, 10, 12] += 300
    counts[::2, 30, 31] += 200
    counts[:, 50, 5] = 0
    counts[:, :, 40:43] = 0
    counts[:, 20] = 7
    found = proposals(counts)
    assert np.argwhere(found["hot"].array).tolist() == [[10, 12]]
    assert np.argwhere(found["noisy"].array).tolist() == [[30, 31]]
    assert np.argwhere(found["dead"].array).tolist() == [[50, 5]]
    expected = np.zeros(counts.shape[1:], bool)
    expected[20], expected[:, 40:43] = True, True
    assert np.array_equal(found["gaps"].array, expected)
    assert found["gaps"].words == "1 row, 3 columns in which nothing changes (16 frames looked at)."
    assert found["hot"].words.startswith("1 hot pixel: ")


def test_what_is_masked_already_is_not_proposed() -> None:
    counts = series()
    counts[:, 10, 12] += 300
    counts[:, :, 40:43] = 0
    mask = np.zeros(counts.shape[1:], bool)
    mask[10, 12], mask[:, 40:42] = True, True
    found = proposals(counts, mask)
    assert not found["hot"].array.any()
    assert found["gaps"].array.sum() == 64


def test_a_detector_without_fault_has_no_proposals() -> None:
    assert not any(proposal.array.any() for proposal in proposals(series()).values())


def test_frames_of_hardly_any_counts_have_no_gaps() -> None:
    counts = np.zeros((16, 64, 96), np.uint16)
    counts[:, 30:33, 50:53] = series()[:, :3, :3]  # all else is cut off by its detector
    found = proposals(counts)
    assert not found["gaps"].array.any()
    assert "cannot be told" in found["gaps"].words


def test_of_too_few_frames_nothing_is_said_and_that_is_told() -> None:
    found = proposals(series(frames=1))
    assert not any(proposal.array.any() for proposal in found.values())
    assert found["hot"].words.startswith("hot pixels cannot be told: ")
    assert "8 frames" in found["hot"].words
    assert found["gaps"].words == "gaps cannot be told: needs 2 frames, 1 can be read."
