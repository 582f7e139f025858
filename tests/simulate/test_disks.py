"""Simulated disks hold the light they are told to, and their limit falls as light does."""

import numpy as np
import pytest

from braggflow.simulate import DISK_DTYPE, expected_disks, limit_of_disks


@pytest.mark.parametrize("edge", [0.02, 0.4, 0.8])
def test_a_disk_holds_its_area_times_its_amplitude(edge: float) -> None:
    disk = np.array([(6.3, 5.8, 3.0, edge, 100.0, 2.0)], DISK_DTYPE)
    light = (expected_disks(disk, 13) - 2).sum()
    # A blur moves light outwards: of an edge of width σ, π σ² × amplitude more is there.
    assert light == pytest.approx(100 * np.pi * (3.0**2 + edge**2), rel=0.005)


def test_ten_times_the_light_is_placed_by_its_square_root_better() -> None:
    disks = np.array([(6.3, 5.8, 3.0, 0.4, 100.0, 2.0), (6.3, 5.8, 3.0, 0.4, 1000.0, 20.0)], DISK_DTYPE)
    faint, bright = limit_of_disks(disks, 13)
    assert bright == pytest.approx(faint / np.sqrt(10), rel=1e-3)


def test_read_noise_costs_precision() -> None:
    disk = np.array([(6.3, 5.8, 3.0, 0.4, 50.0, 2.0)], DISK_DTYPE)
    assert (limit_of_disks(disk, 13, read_noise=5.0) > 1.2 * limit_of_disks(disk, 13)).all()
