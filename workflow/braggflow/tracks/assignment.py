# mypy: allow-untyped-calls
"""Pairs chosen so that their costs are the least in all, each side in one pair at most."""

import numpy as np
from numpy.typing import NDArray

from braggflow.compiled import kernel

#: Members of a component that is solved as a whole; a larger one loses its dearest pairs until it falls apart.
LARGEST = 600


def cheapest_pairs(
    left: NDArray[np.int64], right: NDArray[np.int64], cost: NDArray[np.float64]
) -> tuple[NDArray[np.int64], int]:
    """The pairs, as places in `left`, `right` and `cost` (n,), whose costs have the least sum.

    All costs are below 0, which is that of a member without a pair; a member stands in one pair at most. Pairs that
    belong to it for sure are taken first; the rest falls into components, which are solved one by one.

    Returns
    -------
    chosen : numpy.ndarray
        Ascending.
    cut : int
        Members of components that were too large, whose dearest pairs were left out.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.tracks.assignment import cheapest_pairs
    >>> cheapest_pairs(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([-5.0, -4.0, -3.0]))
    (array([1, 2]), 0)
    """
    if not len(cost):
        return np.zeros(0, np.int64), 0
    state = sure_pairs(left, right, cost)
    sure, rest = np.flatnonzero(state == 1), np.flatnonzero(state == 0)
    if not len(rest):
        return sure, 0
    chosen, cut = _of_components(left[rest], right[rest], cost[rest])
    return np.sort(np.concatenate([sure, rest[chosen]])), cut


@kernel(nogil=True)
def sure_pairs(left: NDArray[np.int64], right: NDArray[np.int64], cost: NDArray[np.float64]) -> NDArray[np.int8]:
    """Of each pair: 1 where it belongs to the cheapest choice for sure, −1 where it cannot, 0 where that is open.

    A pair does where it is cheaper than the next cheapest of both of its members together, which it would keep out.
    """
    state = np.zeros(len(cost), np.int8)
    n_left, n_right = left.max() + 1, right.max() + 1
    found = True
    while found:
        found = False
        # The cheapest open pair of each member, and the cost of the next.
        best_left, next_left = np.full(n_left, -1), np.zeros(n_left)
        best_right, next_right = np.full(n_right, -1), np.zeros(n_right)
        for k in range(len(cost)):
            if state[k]:
                continue
            for best, following, member in ((best_left, next_left, left[k]), (best_right, next_right, right[k])):
                if best[member] < 0:
                    best[member] = k
                elif cost[k] < cost[best[member]]:
                    following[member] = cost[best[member]]
                    best[member] = k
                else:
                    following[member] = min(following[member], cost[k])
        taken_left, taken_right = np.zeros(n_left, np.bool_), np.zeros(n_right, np.bool_)
        for i in range(n_left):
            k = best_left[i]
            if k >= 0 and best_right[right[k]] == k and cost[k] < next_left[i] + next_right[right[k]]:
                state[k], found = 1, True
                taken_left[i] = taken_right[right[k]] = True
        for k in range(len(cost)):
            if state[k] == 0 and (taken_left[left[k]] or taken_right[right[k]]):
                state[k] = -1
    return state


def _of_components(
    left: NDArray[np.int64], right: NDArray[np.int64], cost: NDArray[np.float64]
) -> tuple[NDArray[np.int64], int]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, rows = np.unique(left, return_inverse=True)
    _, columns = np.unique(right, return_inverse=True)
    n_rows, n = int(rows.max()) + 1, int(rows.max() + columns.max()) + 2
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns + n_rows)), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    of_pair = label[rows]
    order = np.argsort(of_pair, kind="stable")
    sizes = np.bincount(label)
    chosen, cut = [], 0
    for pairs in np.split(order, np.flatnonzero(np.diff(of_pair[order])) + 1):
        if sizes[of_pair[pairs[0]]] > LARGEST:
            kept, more = _cut(left[pairs], right[pairs], cost[pairs])
            cut += int(sizes[of_pair[pairs[0]]]) + more
        elif len(pairs) == 2:  # they compete, or it were two components
            kept = np.array([np.argmin(cost[pairs])])
        else:
            kept = _solved(rows[pairs], columns[pairs], cost[pairs])
        chosen.append(pairs[kept])
    return np.concatenate(chosen), cut


def _cut(left: NDArray[np.int64], right: NDArray[np.int64], cost: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
    """Of a component that is too large: solved without the dearer half of its pairs, again and again."""
    near = np.flatnonzero(cost <= np.median(cost))
    if len(near) == len(cost):  # of equal costs, the first of each side
        near = near[: len(near) // 2]
    chosen, cut = cheapest_pairs(left[near], right[near], cost[near])
    return near[chosen], cut


def _solved(rows: NDArray[np.int64], columns: NDArray[np.int64], cost: NDArray[np.float64]) -> NDArray[np.int64]:
    from scipy.optimize import linear_sum_assignment

    _, row = np.unique(rows, return_inverse=True)
    _, column = np.unique(columns, return_inverse=True)
    dense = np.zeros((int(row.max()) + 1, int(column.max()) + 1))
    at = np.full(dense.shape, -1, np.int64)
    dense[row, column], at[row, column] = cost, np.arange(len(cost))
    chosen = at[linear_sum_assignment(dense)]
    return chosen[chosen >= 0]
