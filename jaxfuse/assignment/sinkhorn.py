"""Sinkhorn's projection of a score matrix on the doubly stochastic matrices."""

import dataclasses
import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxfuse.assignment import scaling
from jaxfuse.assignment.implicit import attach_derivative
from jaxfuse.status import Status, is_concrete


class Potentials(NamedTuple):
    """Dual potentials, in units of the scores: row `[..., n]` and column `[..., m]`."""

    row: jax.Array
    column: jax.Array


class SinkhornResult(NamedTuple):
    """A plan with its account.

    Attributes:
        plan: `[..., n, m]`, `exp((scores + row + column) / tau)`.
        potentials: the dual potentials; pass them as `initial` to start a later call warm.
        iterations: int32 `[...]`, iterations spent, each one row and one column update.
        marginal_error: `[...]`, largest deviation of a row or column sum from its marginal;
            infinity where the status is NON_FINITE.
        status: int32 `[...]`, a `jaxfuse.status.Status`.
    """

    plan: jax.Array
    potentials: Potentials
    iterations: jax.Array
    marginal_error: jax.Array
    status: jax.Array


@dataclasses.dataclass(frozen=True)
class _Config:
    iterations: int | None
    tolerance: float | None
    max_iterations: int
    method: str
    differentiation: str


_BLOCKS: dict[str, scaling.Block] = {
    "stabilised": scaling.scale_kernel,
    "log": scaling.scale_log,
}


def sinkhorn(
    scores: ArrayLike,
    tau: ArrayLike,
    *,
    iterations: int | None = None,
    tolerance: float | None = None,
    max_iterations: int = 2000,
    initial: Potentials | None = None,
    row_mask: ArrayLike | None = None,
    column_mask: ArrayLike | None = None,
    method: Literal["stabilised", "log"] = "stabilised",
    differentiation: Literal["implicit", "unrolled"] = "implicit",
) -> SinkhornResult:
    """Project scores on the doubly stochastic matrices at a temperature.

    Return the P that maximises `<P, scores> + tau * entropy(P)` under its marginals. For square
    scores every row and column sums to one. For n != m the total mass is min(n, m), spread evenly:
    rows sum to min(n, m) / n and columns to min(n, m) / m. As tau falls, a square P tends to the
    assignment that `hungarian` finds, and the iterations needed grow like the range of the scores
    over tau: lower tau in steps, each started from the last one's potentials.

    The method "stabilised" multiplies with the kernel exp((scores + f + g) / tau), rebuilt every
    ten iterations; "log" takes log-sum-exps: the same iterates, several times slower. The
    derivative of the plan with respect to scores and tau is "implicit" by default, a linear solve
    at the fixed point (forward and reverse mode; right where the iteration has converged), or
    "unrolled" through a fixed number of iterations. Other fields of the result carry no derivative.

    Args:
        scores: `[..., n, m]`, higher is better. Half precision and integers are computed, and
            returned, in float32. -inf forbids a pair: its plan is exactly zero.
        tau: temperature > 0 in units of the scores, a scalar or one per batch element `[...]`.
        iterations: run exactly this many. Best under `vmap`: no element waits for the slowest.
        tolerance: stop when `marginal_error` is at most this (checked every ten iterations). With
            `iterations` it only decides the status. 1e-3 by default (as OTT) where `iterations`
            is not given.
        max_iterations: limit of the tolerance path (2000, as OTT).
        initial: potentials of an earlier result. Only the column potentials matter: the first
            step computes the row potentials from them.
        row_mask: bool `[..., n]`, True for rows that exist. Masked rows and columns hold a plan of
            zero, count neither in n and m above nor in the error, and may hold NaN.
        column_mask: bool `[..., m]`, the same for columns.
        method: "stabilised" or "log".
        differentiation: "implicit" or "unrolled"; "unrolled" needs `iterations`.

    Returns:
        A `SinkhornResult`. Its status is NOT_CONVERGED where a tolerance was asked for and missed.
        It is NON_FINITE, with the uniform plan, where scores hold NaN or +inf or overflow when
        divided by tau, where all pairs of a row or column are forbidden, and where tau is not
        positive and finite. An empty matrix is CONVERGED.

    Raises:
        ValueError: for shapes or options that do not fit; outside jit also for tau <= 0 and for
            what gives the status NON_FINITE under jit.

    Examples:
        >>> scores = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> result = sinkhorn(scores, tau=0.5)
        >>> print(f"{result.plan[0, 0]:.3f} {result.plan[0, 1]:.3f}")
        0.881 0.119
        >>> warm = sinkhorn(scores, tau=0.1, iterations=5, initial=result.potentials)
        >>> print(f"{warm.plan[0, 0]:.3f} {warm.plan[0, 1]:.3f}")
        1.000 0.000

    References:
        Sinkhorn and Knopp, "Concerning nonnegative matrices and doubly stochastic matrices", 1967;
        Cuturi, "Sinkhorn distances", 2013, algorithm 1.
    """
    config = _validate_options(iterations, tolerance, max_iterations, method, differentiation)
    scores = jnp.asarray(scores)
    if scores.ndim < 2:
        raise ValueError(f"sinkhorn: got scores of shape {scores.shape}, want [..., n, m]")
    dtype = jnp.promote_types(scores.dtype, jnp.float32)
    scores = scores.astype(dtype)
    *batch, n, m = scores.shape
    if is_concrete(tau) and not np.all(np.isfinite(np.asarray(tau)) & (np.asarray(tau) > 0)):
        raise ValueError(f"sinkhorn: got tau={tau}, want a finite temperature > 0")
    tau = _broadcast("tau", jnp.asarray(tau, dtype), tuple(batch))
    rows = _broadcast("row_mask", _mask(row_mask, n), (*batch, n))
    columns = _broadcast("column_mask", _mask(column_mask, m), (*batch, m))
    start = jnp.zeros(m, dtype) if initial is None else jnp.asarray(initial.column, dtype)
    start = _broadcast("initial.column", start, (*batch, m))
    if initial is not None:
        _broadcast("initial.row", jnp.asarray(initial.row), (*batch, n))
    if n == 0 or m == 0 or 0 in batch:
        return _empty(tuple(batch), n, m, dtype)
    result = _sinkhorn_batch(config, scores, tau, rows, columns, start)
    _raise_non_finite(result.status)
    return result


@functools.partial(jax.jit, static_argnums=0)
def _sinkhorn_batch(
    config: _Config,
    scores: jax.Array,
    tau: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
    start: jax.Array,
) -> SinkhornResult:
    batch = scores.shape[:-2]
    solve = functools.partial(_sinkhorn_matrix, config)
    if not batch:
        return solve(scores, tau, rows, columns, start)
    size = math.prod(batch)
    arrays = (scores, tau, rows, columns, start)
    flat = [a.reshape(size, *a.shape[len(batch) :]) for a in arrays]
    result = jax.vmap(solve)(*flat)
    return jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), result)


def _sinkhorn_matrix(
    config: _Config,
    scores: jax.Array,
    tau: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
    start: jax.Array,
) -> SinkhornResult:
    finite, problem = _prepare(scores, tau, rows, columns)
    finite &= jnp.all(jnp.where(columns, jnp.isfinite(start), True))
    start = lax.stop_gradient(jnp.where(finite & columns, start, 0.0))
    unrolled = config.differentiation == "unrolled"
    solved = problem if unrolled else lax.stop_gradient(problem)
    block = _BLOCKS[config.method]
    if config.iterations is None:
        assert config.tolerance is not None
        scaled, count, converged = scaling.scale_until(
            block, solved, start, config.tolerance, config.max_iterations
        )
        error = scaling.marginal_error(problem, scaled.plan)
    else:
        scaled = scaling.scale_fixed(block, solved, start, config.iterations)
        count = jnp.int32(config.iterations)
        error = scaling.marginal_error(problem, scaled.plan)
        converged = True if config.tolerance is None else error <= config.tolerance
    plan = scaled.plan
    finite &= jnp.all(jnp.isfinite(plan))
    mass = jnp.maximum(problem.row_marginals.sum(), 1.0)
    uniform = problem.row_marginals[:, None] * problem.column_marginals[None, :] / mass
    plan = jnp.where(finite, plan, uniform)
    if not unrolled:
        plan = attach_derivative(problem.scores, problem.tau, plan)
    status = jnp.where(converged, Status.CONVERGED.value, Status.NOT_CONVERGED.value)
    status = jnp.where(finite, status, Status.NON_FINITE.value).astype(jnp.int32)
    account = SinkhornResult(
        plan=plan,
        potentials=Potentials(
            jnp.where(finite, scaled.row, 0.0), jnp.where(finite, scaled.column, 0.0)
        ),
        iterations=count,
        marginal_error=jnp.where(finite, error, jnp.inf),
        status=status,
    )
    return lax.stop_gradient(account)._replace(plan=plan)


def _prepare(
    scores: jax.Array, tau: jax.Array, rows: jax.Array, columns: jax.Array
) -> tuple[jax.Array, scaling.Problem]:
    """Return whether the input is finite, and the problem with every bad value replaced."""
    present = rows[:, None] & columns[None, :]
    allowed = present & (scores > -jnp.inf)
    tau_fine = jnp.isfinite(tau) & (tau > 0)
    tau = jnp.where(tau_fine, tau, 1.0)
    # The iterates stay within a small multiple of the scores: eight leaves room for their sums.
    pair_fine = (scores == -jnp.inf) | jnp.isfinite(8 * scores / tau)
    finite = tau_fine & jnp.all(~present | pair_fine)
    finite &= jnp.all(~rows | ~jnp.any(columns) | jnp.any(allowed, axis=1))
    finite &= jnp.all(~columns | ~jnp.any(rows) | jnp.any(allowed, axis=0))
    n, m = rows.sum(dtype=scores.dtype), columns.sum(dtype=scores.dtype)
    mass = jnp.minimum(n, m)
    return finite, scaling.Problem(
        scores=jnp.where(finite & allowed, scores, 0.0),
        allowed=jnp.where(finite, allowed, present),
        row_marginals=jnp.where(rows, mass / jnp.maximum(n, 1.0), 0.0),
        column_marginals=jnp.where(columns, mass / jnp.maximum(m, 1.0), 0.0),
        tau=tau,
    )


def _validate_options(
    iterations: int | None,
    tolerance: float | None,
    max_iterations: int,
    method: str,
    differentiation: str,
) -> _Config:
    if method not in _BLOCKS:
        raise ValueError(f"sinkhorn: got method={method!r}, want one of {sorted(_BLOCKS)}")
    if differentiation not in ("implicit", "unrolled"):
        raise ValueError(
            f"sinkhorn: got differentiation={differentiation!r}, want 'implicit' or 'unrolled'"
        )
    if differentiation == "unrolled" and iterations is None:
        raise ValueError(
            "sinkhorn: differentiation='unrolled' needs a fixed number of steps: pass iterations="
        )
    if iterations is not None and iterations < 1:
        raise ValueError(f"sinkhorn: got iterations={iterations}, want at least 1")
    if max_iterations < 1:
        raise ValueError(f"sinkhorn: got max_iterations={max_iterations}, want at least 1")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"sinkhorn: got tolerance={tolerance}, want a number > 0")
    if iterations is None and tolerance is None:
        tolerance = 1e-3
    return _Config(iterations, tolerance, max_iterations, method, differentiation)


def _mask(mask: ArrayLike | None, size: int) -> jax.Array:
    return jnp.ones(size, bool) if mask is None else jnp.asarray(mask, bool)


def _broadcast(name: str, array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"sinkhorn: got {name} of shape {array.shape}, want one that broadcasts to {shape}"
        ) from None


def _empty(batch: tuple[int, ...], n: int, m: int, dtype: np.dtype) -> SinkhornResult:
    return SinkhornResult(
        plan=jnp.zeros((*batch, n, m), dtype),
        potentials=Potentials(jnp.zeros((*batch, n), dtype), jnp.zeros((*batch, m), dtype)),
        iterations=jnp.zeros(batch, jnp.int32),
        marginal_error=jnp.zeros(batch, dtype),
        status=jnp.full(batch, Status.CONVERGED.value, jnp.int32),
    )


def _raise_non_finite(status: jax.Array) -> None:
    if is_concrete(status) and np.any(np.asarray(status) == Status.NON_FINITE):
        where = np.argwhere(np.asarray(status) == Status.NON_FINITE)[0].tolist()
        element = f" (first at batch element {where})" if where else ""
        raise ValueError(
            f"sinkhorn: scores hold NaN or +inf, overflow at this tau, or forbid every pair of a "
            f"row or column{element}; {Status.NON_FINITE.message}"
        )
