"""The linear equations of a fit's step: parameters held at bounds, the solution, the variances that the matrix tells.

Of the information matrix the lower half is used, rows and columns in the order of the free parameters.
"""

from braggflow.compiled import inner
from braggflow.fit.peak_profile import ROWS_PER_PEAK, Rows
from braggflow.fit.start import AMPLITUDE, ETA, Floats


@inner(nogil=True, error_model="numpy")
def hold(n_own: int, n_free: int, free: Rows, p: Floats, gradient: Floats, matrix: Floats) -> None:
    """Hold eta and the other peaks' amplitudes where they are at a bound that the step would cross.

    What the matrix had of eta is kept in its upper half, for `release_eta`.
    """
    for a in range(n_own, n_free):
        is_height = free[a] % ROWS_PER_PEAK == AMPLITUDE
        if is_height and p[free[a] // ROWS_PER_PEAK, AMPLITUDE] <= 0 and gradient[a] <= 0:
            _hold_one(a, n_free, gradient, matrix)
    if n_own > ETA:
        g, eta = gradient[ETA], p[0, ETA]
        if (eta <= 0 and g <= 0) or (eta >= 1 and g >= 0):
            own = matrix[ETA, ETA]
            for a in range(ETA):
                matrix[a, ETA] = matrix[ETA, a]
            for a in range(ETA + 1, n_free):
                matrix[ETA, a] = matrix[a, ETA]
            _hold_one(ETA, n_free, gradient, matrix)
            if own > 0:
                matrix[ETA, ETA] = own


@inner(nogil=True, error_model="numpy")
def release_eta(n_free: int, matrix: Floats) -> bool:
    """Undo what `hold` did of eta; False where it was not held."""
    if matrix[ETA, AMPLITUDE] != 0:
        return False
    for a in range(ETA):
        matrix[ETA, a] = matrix[a, ETA]
    for a in range(ETA + 1, n_free):
        matrix[a, ETA] = matrix[ETA, a]
    return True


@inner(nogil=True, error_model="numpy")
def _hold_one(a: int, n_free: int, gradient: Floats, matrix: Floats) -> None:
    gradient[a] = 0.0
    matrix[a, :a] = 0.0
    matrix[a + 1 : n_free, a] = 0.0
    matrix[a, a] = 1.0


@inner(nogil=True, error_model="numpy")
def eliminate(matrix: Floats, gradient: Floats, damping: float, n_free: int, factor: Floats, reduced: Floats) -> bool:
    """Solve the damped equations for each parameter by those before it; False where they have no one solution.

    Cholesky's decomposition without square roots, from the last parameter to the first: what is left of the own
    position's block, when all others are eliminated, tells its errors. The diagonal of the factor is inverted.
    """
    for a in range(n_free):
        for b in range(a + 1):
            factor[a, b] = matrix[a, b]
        factor[a, a] *= 1.0 + damping
        reduced[a] = gradient[a]
    for k in range(n_free - 1, -1, -1):
        if not factor[k, k] > 1e-13 * matrix[k, k]:
            return False
        inverse = 1.0 / factor[k, k]
        factor[k, k] = inverse
        for a in range(k):
            share = factor[k, a] * inverse
            reduced[a] -= share * reduced[k]
            for b in range(a + 1):
                factor[a, b] -= share * factor[k, b]
    return True


@inner(nogil=True, error_model="numpy")
def substitute(factor: Floats, reduced: Floats, n_solved: int, solution: Floats) -> None:
    """Fill the solution's first `n_solved` parameters."""
    for k in range(n_solved):
        s = reduced[k]
        for b in range(k):
            s -= factor[k, b] * solution[b]
        solution[k] = s * factor[k, k]


@inner(nogil=True, error_model="numpy")
def position_variances(factor: Floats) -> tuple[float, float]:
    """Variances of the own y and x where the weights are right."""
    return factor[0, 0], factor[1, 1] + (factor[1, 0] * factor[1, 1]) ** 2 * factor[0, 0]


@inner(nogil=True, error_model="numpy")
def variance_of(direction: Floats, n_free: int, factor: Floats) -> float:
    """Variance of what changes by `direction` with the free parameters, where the weights are right.

    By the factor that `eliminate` left; uses the direction up.
    """
    total = 0.0
    for k in range(n_free - 1, -1, -1):
        share = direction[k] * factor[k, k]
        total += direction[k] * share
        for a in range(k):
            direction[a] -= factor[k, a] * share
    return total
