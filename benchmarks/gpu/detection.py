"""What detection on the device could do at best: frames/s of a threshold and local maxima alone."""

from typing import Any

import torch
from frames import frames_of
from measuring import Device


def estimate(device: Device) -> list[dict[str, Any]]:
    """The part of detection that a GPU does well: no local levels, persistence, significance or patches."""
    frames = frames_of(device)
    there = [torch.from_numpy(frame.astype("int16")).to(device.torch) for frame in frames]

    def maxima(frame: torch.Tensor) -> torch.Tensor:
        counts = frame.float()[None, None]
        highest = torch.nn.functional.max_pool2d(counts, 3, stride=1, padding=1)
        return ((counts == highest) & (counts > counts.mean() + 30)).nonzero()

    seconds = device.seconds(maxima, there)
    return [{"what": "threshold and local maxima only, frames on the device", "frames_per_s": 1 / seconds}]
