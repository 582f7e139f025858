"""Which places are the same: pairs, one to one, the nearest first."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree


def match_places(
    a: NDArray[np.float64], b: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of two sets of places, one to one, nearest first.

    Parameters
    ----------
    a, b : numpy.ndarray of float64
        Shapes (n, d) and (m, d), of one unit.
    radius : float
        Largest distance of a pair.

    Returns
    -------
    tuple of numpy.ndarray of int64
        Rows of `a` and of `b`, pair by pair; of equally near ones that of lower coordinates is the first.

    Examples
    --------
    >>> import numpy as np
    >>> from braggflow.selfcheck import match_places
    >>> match_places(np.array([[0.0, 0.0], [5.0, 5.0]]), np.array([[5.0, 6.0], [0.5, 0.0], [9.0, 9.0]]), 3.0)
    (array([0, 1]), array([1, 0]))
    """
    if not len(a) or not len(b):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    near = cKDTree(a).sparse_distance_matrix(cKDTree(b), radius, output_type="ndarray")
    i, j = near["i"], near["j"]
    order = np.lexsort((*b[j].T[::-1], *a[i].T[::-1], near["v"]))
    taken_a, taken_b = np.zeros(len(a), bool), np.zeros(len(b), bool)
    pairs = []
    for k in order:
        if not taken_a[i[k]] and not taken_b[j[k]]:
            taken_a[i[k]] = taken_b[j[k]] = True
            pairs.append((i[k], j[k]))
    chosen = np.array(pairs, np.int64).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]
