"""Pairs are the cheapest of all: against the whole dense problem."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from braggflow.tracks import assignment
from braggflow.tracks.assignment import cheapest_pairs, sure_pairs


@st.composite
def pairs(draw):
    n, m = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    there = draw(st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, m - 1)), min_size=1))
    left, right = np.array(sorted(there)).T
    cost = -np.array(draw(st.lists(st.integers(1, 60), min_size=len(left), max_size=len(left)))) / 4.0
    return left, right, cost


@given(pairs())
@settings(max_examples=300)
def test_the_sum_of_costs_is_the_least_there_is(given_pairs):
    left, right, cost = given_pairs
    chosen, cut = cheapest_pairs(left, right, cost)
    dense = np.zeros((left.max() + 1, right.max() + 1))
    dense[left, right] = cost
    assert cost[chosen].sum() == dense[linear_sum_assignment(dense)].sum()
    assert len(np.unique(left[chosen])) == len(np.unique(right[chosen])) == len(chosen)
    assert cut == 0


@given(pairs())
@settings(max_examples=200)
def test_a_sure_pair_stands_in_every_cheapest_choice(given_pairs):
    left, right, cost = given_pairs
    dense = np.zeros((left.max() + 1, right.max() + 1))
    dense[left, right] = cost
    least = dense[linear_sum_assignment(dense)].sum()
    for k in np.flatnonzero(sure_pairs(left, right, cost) == 1):
        without = dense.copy()
        without[left[k], right[k]] = 0
        assert without[linear_sum_assignment(without)].sum() > least


def test_no_pairs_are_no_choice():
    none = np.zeros(0, np.int64)
    assert cheapest_pairs(none, none, np.zeros(0))[0].size == 0


def test_a_component_that_is_too_large_loses_its_dearest_pairs_and_is_counted(monkeypatch):
    monkeypatch.setattr(assignment, "LARGEST", 8)
    # A ring in which each member competes with its neighbours: no pair is sure.
    left = np.repeat(np.arange(20), 2)
    right = (left + np.tile([0, 1], 20)) % 20
    cost = np.where(np.arange(40) % 2, -10.0, -9.0 - 0.01 * np.arange(40))
    chosen, cut = cheapest_pairs(left, right, cost)
    assert len(np.unique(left[chosen])) == len(np.unique(right[chosen])) == len(chosen) > 0
    assert cut > 0
