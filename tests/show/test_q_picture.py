"""Peaks by q and azimuth, with the rings of phases."""

import numpy as np
import pytest

import braggflow
from braggflow.errors import InputError
from braggflow.geometry import rings_of
from tests.geometry.places import PLAIN, table_of

NICKEL = {"nickel": {"cell": [3.524] * 3 + [90] * 3, "space_group": "F m -3 m"}}


def test_peaks_and_rings_lie_where_they_are() -> None:
    pytest.importorskip("gemmi")
    rng = np.random.default_rng(0)
    peaks = braggflow.add_q(table_of(*rng.uniform(0, 2000, (2, 50)), intensity=rng.uniform(1, 1e4, 50)), PLAIN)
    axes = braggflow.plot_q(peaks, NICKEL).axes[0]
    drawn = np.asarray(axes.collections[0].get_offsets())
    found = np.column_stack([peaks["q"], peaks["azimuth"]])
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(found, axis=0))
    low, high = axes.get_xlim()
    (rings,) = rings_of(NICKEL, high)
    lines = [line.get_xdata()[0] for line in axes.lines]
    np.testing.assert_allclose(lines, rings.q[(rings.q >= low) & (rings.q <= high)])
    assert "nickel" in {text.get_text() for text in axes.texts}


def test_a_table_without_peaks_is_drawn_and_one_without_q_refused() -> None:
    braggflow.plot_q(braggflow.add_q(table_of([], []), PLAIN))
    with pytest.raises(InputError, match="has no column q"):
        braggflow.plot_q(table_of([1], [1]))
