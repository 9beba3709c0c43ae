"""Sinkhorn's alternating scaling of one matrix, in the kernel domain and in the log domain."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

# Scaling factors multiply up to the size of the matrix per iteration, and this many iterations
# keep them far from the limits of float32; then they are absorbed into the potentials.
ABSORB_EVERY = 10

_FACTOR_LIMIT = 1e25


class Problem(NamedTuple):
    """One projection: finite scores, the pairs that may be matched, marginals, temperature."""

    scores: jax.Array
    allowed: jax.Array
    row_marginals: jax.Array
    column_marginals: jax.Array
    tau: jax.Array


class Scaled(NamedTuple):
    """A plan `exp((scores + row + column) / tau)` and its potentials, in units of the scores."""

    plan: jax.Array
    row: jax.Array
    column: jax.Array


Block = Callable[[Problem, jax.Array, int], Scaled]


def scale_kernel(problem: Problem, column: jax.Array, count: int) -> Scaled:
    """Run `count` iterations as matrix-vector products on a freshly built kernel.

    The kernel `K = exp((scores + g) / tau - r_i - c_j)` is shifted by its row maxima r and then by
    its column maxima c (Schmitzer, "Stabilized sparse scaling algorithms for entropy regularized
    transport problems", 2019, absorbs the potentials alone). So every column of K holds a one, and
    every row holds a one wherever that row is largest: no row or column vanishes at any
    temperature, and the first half step from the factors `exp(c)` equals the log-domain one.

    Args:
        problem: one `[n, m]` projection.
        column: potentials g `[m]` to start from.
        count: iterations, at most `ABSORB_EVERY`.

    Returns:
        The scaled plan, whose column sums are exact.
    """
    scores, allowed, row_marginals, column_marginals, tau = problem
    logits = jnp.where(allowed, (scores + column[None, :]) / tau, -jnp.inf)
    # The result does not depend on the shifts, so no derivative flows through them.
    row_shift = _finite(lax.stop_gradient(logits).max(axis=1))
    logits = logits - row_shift[:, None]
    column_shift = _finite(lax.stop_gradient(logits).max(axis=0))
    kernel = jnp.exp(logits - column_shift[None, :])

    def iterate(_: ArrayLike, factors: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, v = factors
        u = _divide(row_marginals, jnp.dot(kernel, v, precision=lax.Precision.HIGHEST))
        v = _divide(column_marginals, jnp.dot(u, kernel, precision=lax.Precision.HIGHEST))
        return u, v

    start = (jnp.ones_like(row_marginals), jnp.exp(column_shift))
    u, v = lax.fori_loop(0, count, iterate, start)
    return Scaled(
        plan=u[:, None] * kernel * v[None, :],
        row=jnp.where(row_marginals > 0, tau * (jnp.log(u) - row_shift), 0.0),
        column=jnp.where(column_marginals > 0, column + tau * (jnp.log(v) - column_shift), 0.0),
    )


def scale_log(problem: Problem, column: jax.Array, count: int) -> Scaled:
    """Run `count` iterations as log-sum-exp reductions: the slow and plain reference.

    Takes and returns what `scale_kernel` does.
    """
    scores, allowed, row_marginals, column_marginals, tau = problem
    logits = jnp.where(allowed, scores / tau, -jnp.inf)

    def potential(marginals: jax.Array, shifted: jax.Array, axis: int) -> jax.Array:
        active = marginals > 0
        # A masked row is all -inf: replaced before the reduction, lest its derivative be NaN.
        shifted = jnp.where(jnp.expand_dims(active, axis), shifted, 0.0)
        log_sum = jax.nn.logsumexp(shifted, axis=axis)
        return jnp.where(active, jnp.log(jnp.where(active, marginals, 1.0)) - log_sum, 0.0)

    def iterate(
        _: ArrayLike, potentials: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        _, g = potentials
        f = potential(row_marginals, logits + g[None, :], 1)
        g = potential(column_marginals, logits + f[:, None], 0)
        return f, g

    f, g = lax.fori_loop(0, count, iterate, (jnp.zeros_like(row_marginals), column / tau))
    plan = jnp.exp(logits + f[:, None] + g[None, :])
    return Scaled(plan, tau * f, tau * g)


def marginal_error(problem: Problem, plan: jax.Array) -> jax.Array:
    """Return the largest deviation of a row or column sum of the plan from its marginal."""
    rows = jnp.abs(plan.sum(axis=1) - problem.row_marginals)
    columns = jnp.abs(plan.sum(axis=0) - problem.column_marginals)
    return jnp.maximum(rows.max(), columns.max())


def scale_fixed(block: Block, problem: Problem, column: jax.Array, iterations: int) -> Scaled:
    """Run exactly `iterations` iterations, reverse-mode differentiable."""
    blocks = (iterations - 1) // ABSORB_EVERY

    def step(g: jax.Array, _: None) -> tuple[jax.Array, None]:
        return block(problem, g, ABSORB_EVERY).column, None

    column, _ = lax.scan(step, column, None, length=blocks)
    return block(problem, column, iterations - blocks * ABSORB_EVERY)


def scale_until(
    block: Block, problem: Problem, column: jax.Array, tolerance: float, max_iterations: int
) -> tuple[Scaled, jax.Array, jax.Array]:
    """Iterate until the marginal error is at most the tolerance, checked once per block.

    Args:
        block: `scale_kernel` or `scale_log`.
        problem: one `[n, m]` projection.
        column: potentials `[m]` to start from.
        tolerance: largest accepted deviation of a row or column sum.
        max_iterations: never exceeded.

    Returns:
        The scaled plan, the iterations spent (int32) and whether the tolerance was met.
    """
    # One iteration is kept for the end: it reads off the plan, so that the loop carries vectors.
    check_every = max(1, min(ABSORB_EVERY, max_iterations - 1))

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, count, error = state
        return (error > tolerance) & (count + check_every < max_iterations)

    def step(
        state: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        g, count, _ = state
        scaled = block(problem, g, check_every)
        return scaled.column, count + check_every, marginal_error(problem, scaled.plan)

    start = (column, jnp.int32(0), jnp.full((), jnp.inf, column.dtype))
    column, count, error = lax.while_loop(unfinished, step, start)
    scaled = block(problem, column, 1)
    converged = jnp.minimum(error, marginal_error(problem, scaled.plan)) <= tolerance
    return scaled, count + 1, converged


def _finite(maximum: jax.Array) -> jax.Array:
    """Replace the maximum of a row or column without allowed pairs, -inf, by zero."""
    return jnp.where(maximum > -jnp.inf, maximum, 0.0)


def _divide(marginals: jax.Array, sums: jax.Array) -> jax.Array:
    """Return the factors that bring the sums to the marginals, within the float range."""
    factors = marginals / jnp.where(sums > 0, sums, 1.0)
    return jnp.clip(factors, 1 / _FACTOR_LIMIT, _FACTOR_LIMIT)
