"""The linear assignment problem, on the host by SciPy or on the device by optax."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax.assignment
from jax import lax
from jax.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from jaxfuse.status import Status, is_concrete

# Below about a millisecond of work (n * m * min(n, m) summed over the batch) threads cost more
# than they save.
_THREADED_WORK = 2e7


class Assignment(NamedTuple):
    """A matching of rows to columns.

    Attributes:
        columns: int32 `[..., n]`, `columns[i] = j` matches row i to column j; -1 leaves row i
            unmatched, which happens only for n > m.
        objective: float32 `[...]`, sum of the matched scores; -inf where the status is NON_FINITE.
        status: int32 `[...]`, a `jaxfuse.status.Status`.
    """

    columns: jax.Array
    objective: jax.Array
    status: jax.Array


def hungarian(
    scores: ArrayLike, *, backend: Literal["auto", "host", "callback", "jax"] = "auto"
) -> Assignment:
    """Find the assignment of rows to columns with the largest sum of scores.

    Every row is matched for n <= m, every column for n >= m. Ties are broken the same way on every
    run of one backend, but not alike by two backends.

    The backend "host" calls SciPy (shortest augmenting paths) directly and needs concrete input;
    "callback" calls the same code from compiled code, one host call for a whole batch, however
    many `vmap`s it came through, its matrices solved on threads; "jax" runs on the device
    (optax), for `jax.export`, TPUs and programs without callbacks. "auto" takes "host" outside
    jit and "callback" inside. SciPy works in float64, so integers up to 2**53 are exact; "jax"
    works in float32: exact for integers while sums stay below 2**24, else optimal up to rounding.

    Not differentiable: the derivative is zero.

    Args:
        scores: `[..., n, m]`, float or integer, higher is better. -inf forbids a pair.
        backend: "auto", "host", "callback" or "jax".

    Returns:
        An `Assignment`. Its status is NON_FINITE where scores hold NaN or +inf or overflow: then
        row i is matched to column i. It is NON_FINITE too where no assignment avoids forbidden
        pairs: then the assignment uses as few of them as possible. An empty matrix is CONVERGED.

    Raises:
        ValueError: for scores of fewer than two axes, an unknown backend, and "host" under jit;
            outside jit also for what gives the status NON_FINITE under jit.

    Examples:
        >>> result = hungarian(jnp.array([[1.0, 5.0, 0.0], [2.0, 9.0, 0.0]]))
        >>> result.columns.tolist(), float(result.objective)
        ([0, 1], 10.0)

    References:
        Crouse, "On implementing 2D rectangular assignment algorithms", 2016 (SciPy).
    """
    if backend not in ("auto", "host", "callback", "jax"):
        raise ValueError(
            f"hungarian: got backend={backend!r}, want 'auto', 'host', 'callback' or 'jax'"
        )
    if jnp.ndim(scores) < 2:
        raise ValueError(f"hungarian: got scores of shape {jnp.shape(scores)}, want [..., n, m]")
    if backend == "auto":
        backend = "host" if is_concrete(scores) else "callback"
    if backend == "host":
        if not is_concrete(scores):
            raise ValueError(
                "hungarian: backend='host' needs concrete scores: under jit, vmap or grad pass "
                "backend='callback' or 'auto'"
            )
        # The scores are not made a JAX array first: that would round float64 and int64.
        result = Assignment(*map(jnp.asarray, _solve_batch(np.asarray(scores))))
    else:
        solve = _solve_callback if backend == "callback" else _solve_device
        result = solve(lax.stop_gradient(jnp.asarray(scores)))
    _raise_non_finite(result.status)
    return result


@jax.jit
def _solve_callback(scores: jax.Array) -> Assignment:
    *batch, n, _ = scores.shape
    shapes = (
        jax.ShapeDtypeStruct((*batch, n), jnp.int32),
        jax.ShapeDtypeStruct(tuple(batch), jnp.float32),
        jax.ShapeDtypeStruct(tuple(batch), jnp.int32),
    )
    return Assignment(*jax.pure_callback(_answer, shapes, scores, vmap_method="expand_dims"))


def _answer(scores: jax.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _solve_batch(np.asarray(scores))


def _solve_batch(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve `[..., n, m]` with NumPy and SciPy alone: a callback must not call JAX or raise."""
    *batch, n, m = scores.shape
    size = int(np.prod(batch))
    matrices = scores.reshape(size, n, m)
    workers = min(size, os.cpu_count() or 1)
    if workers > 1 and size * n * m * min(n, m) >= _THREADED_WORK:
        # SciPy releases the interpreter lock while it solves.
        with ThreadPoolExecutor(workers) as pool:
            solved = list(pool.map(_solve_matrix, matrices))
    else:
        solved = [_solve_matrix(matrix) for matrix in matrices]
    columns = np.array([c for c, _, _ in solved], np.int32).reshape(*batch, n)
    objective = np.array([o for _, o, _ in solved], np.float32).reshape(batch)
    status = np.array([s for _, _, s in solved], np.int32).reshape(batch)
    return columns, objective, status


def _solve_matrix(scores: np.ndarray) -> tuple[np.ndarray, float, int]:
    n, m = scores.shape
    columns = np.where(np.arange(n) < m, np.arange(n), -1).astype(np.int32)
    if n == 0 or m == 0:
        return columns, 0.0, Status.CONVERGED
    scores = scores.astype(np.float64)
    forbidden = np.isneginf(scores)
    finite = scores
    with np.errstate(over="ignore", invalid="ignore"):
        if forbidden.any():
            # So low that no sum of allowed scores makes up for it: used where nothing else is left.
            allowed = scores[~forbidden]
            low, high = (allowed.min(), allowed.max()) if allowed.size else (0.0, 0.0)
            finite = np.where(forbidden, low - (high - low + 1) * (min(n, m) + 1), scores)
        # The factor leaves room for the sums that SciPy forms.
        if not np.isfinite(finite * (4.0 * min(n, m))).all():
            return columns, -np.inf, Status.NON_FINITE
    i, j = linear_sum_assignment(finite, maximize=True)
    columns[:] = -1
    columns[i] = j
    if forbidden[i, j].any():
        return columns, -np.inf, Status.NON_FINITE
    with np.errstate(over="ignore"):
        return columns, float(np.float32(scores[i, j].sum())), Status.CONVERGED


@jax.jit
def _solve_device(scores: jax.Array) -> Assignment:
    *batch, n, m = scores.shape
    if n == 0 or m == 0 or 0 in batch:
        return Assignment(
            columns=jnp.full((*batch, n), -1, jnp.int32),
            objective=jnp.zeros(batch, jnp.float32),
            status=jnp.full(batch, Status.CONVERGED.value, jnp.int32),
        )
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    solved = jax.vmap(_solve_device_matrix)(scores.reshape(-1, n, m))
    return jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), solved)


def _solve_device_matrix(scores: jax.Array) -> Assignment:
    n, m = scores.shape
    forbidden = scores == -jnp.inf
    # So low that no sum of allowed scores makes up for it: used where nothing else is left.
    low = jnp.min(scores, where=~forbidden, initial=jnp.inf)
    high = jnp.max(scores, where=~forbidden, initial=-jnp.inf)
    low = jnp.where(forbidden.all(), 0.0, low - (high - low + 1) * (min(n, m) + 1))
    allowed = jnp.where(forbidden, low, scores)
    # Subtracting from the best score of each row (column, if rows are to spare) changes no optimum
    # and keeps the potentials of the solver small, which float32 needs.
    cost = allowed.max(axis=1 if n <= m else 0, keepdims=True) - allowed
    finite = jnp.isfinite(4 * min(n, m) * cost.max())
    cost = jnp.where(finite, cost, 0.0)
    i, j = optax.assignment.hungarian_algorithm(cost)
    matched = jnp.full(n, -1, jnp.int32).at[i].set(j.astype(jnp.int32))
    rows = jnp.arange(n, dtype=jnp.int32)
    columns = jnp.where(finite, matched, jnp.where(rows < m, rows, -1))
    picked = scores[i, j].sum()
    fine = finite & ~forbidden[i, j].any()
    return Assignment(
        columns=columns,
        objective=jnp.where(fine, picked, -jnp.inf).astype(jnp.float32),
        status=jnp.where(fine, Status.CONVERGED.value, Status.NON_FINITE.value).astype(jnp.int32),
    )


def _raise_non_finite(status: jax.Array) -> None:
    if is_concrete(status) and np.any(np.asarray(status) == Status.NON_FINITE):
        where = np.argwhere(np.asarray(status) == Status.NON_FINITE)[0].tolist()
        element = f" (first at batch element {where})" if where else ""
        raise ValueError(
            f"hungarian: scores hold NaN or +inf, overflow, or forbid so many pairs that no "
            f"assignment is left{element}; {Status.NON_FINITE.message}"
        )
