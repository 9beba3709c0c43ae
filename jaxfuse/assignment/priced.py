"""Assignments with the column prices that prove them, and what their solvers share."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.typing import ArrayLike

from jaxfuse.status import Status, is_concrete

# Up to this many columns a batch runs in step on a CPU, above it one matrix after the other: in
# step each search waits for the longest. Batches of 4 to 256 on two cores: the two break even
# between 64 and 96.
_IN_STEP = 64


class PricedAssignment(NamedTuple):
    """A matching of rows to columns, with prices that bound how far it is from the best.

    For any prices p, positive where n < m, no assignment has a sum of scores above

        sum_i max_j (scores[i, j] - p[j]) + sum_j p[j],

    where each maximum is at least zero if n > m. The gap is this bound minus the assignment's sum.

    Attributes:
        columns: int32 `[..., n]`, `columns[i] = j` matches row i to column j; -1 leaves row i
            unmatched, which happens only for n > m.
        objective: `[...]`, sum of the matched scores; -inf where the status is NON_FINITE.
        prices: `[..., m]`, the prices; pass them to start a later call warm. For n = m they are
            determined up to a constant.
        gap: `[...]`, at least zero; the objective is at most this far below the best one. Infinity
            where the status is NON_FINITE.
        iterations: int32 `[...]`, steps of the solver's loops.
        status: int32 `[...]`, a `jaxfuse.status.Status`.
    """

    columns: jax.Array
    objective: jax.Array
    prices: jax.Array
    gap: jax.Array
    iterations: jax.Array
    status: jax.Array


class Solution(NamedTuple):
    """What a solver returns of a cost matrix `[n, m]` with n <= m.

    Attributes:
        owner: int32 `[m]`, the row of every column, -1 for none.
        prices: `[m]`, the column prices; zero for columns of no row if n < m.
        iterations: int32 scalar.
        converged: bool scalar.
    """

    owner: jax.Array
    prices: jax.Array
    iterations: jax.Array
    converged: jax.Array


Solver = Callable[..., Solution]


def solve_scores(
    name: str, solver: Solver, scores: ArrayLike, prices: ArrayLike | None, *options: jax.Array
) -> PricedAssignment:
    """Check the arguments, and run a solver of one cost matrix over all leading axes.

    Args:
        name: the public function, for errors.
        solver: `solver(cost, prices, *options)`; a static function.
        scores: `[..., n, m]`.
        prices: `[..., m]` or None for zeros.
        *options: scalars handed to the solver.

    Returns:
        A `PricedAssignment`.
    """
    scores = lax.stop_gradient(jnp.asarray(scores))
    if scores.ndim < 2:
        raise ValueError(f"{name}: got scores of shape {scores.shape}, want [..., n, m]")
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    *batch, _, m = scores.shape
    start = jnp.zeros(m) if prices is None else lax.stop_gradient(jnp.asarray(prices))
    try:
        start = jnp.broadcast_to(start.astype(scores.dtype), (*batch, m))
    except ValueError:
        raise ValueError(
            f"{name}: got prices of shape {start.shape}, want one that broadcasts to {(*batch, m)}"
        ) from None
    result = _solve_batch(solver, scores, start, *options)
    raise_non_finite(name, result.status)
    return result


def raise_non_finite(name: str, status: jax.Array) -> None:
    """Raise a ValueError, outside jit, where a status is NON_FINITE."""
    if is_concrete(status) and np.any(np.asarray(status) == Status.NON_FINITE):
        where = np.argwhere(np.asarray(status) == Status.NON_FINITE)[0].tolist()
        element = f" (first at batch element {where})" if where else ""
        raise ValueError(
            f"{name}: scores hold NaN or +inf, overflow, or forbid so many pairs that no "
            f"assignment is left{element}; {Status.NON_FINITE.message}"
        )


@functools.partial(jax.jit, static_argnums=0)
def _solve_batch(solver: Solver, *arrays: jax.Array) -> PricedAssignment:
    solve = functools.partial(_solve_matrix, solver)

    @custom_vmap
    def whole(scores, prices, *options):
        *batch, n, m = scores.shape
        size = math.prod(batch)
        if 0 in (size, n, m):
            return _empty(tuple(batch), n, m, scores.dtype)
        if not batch:
            return solve(scores, prices, *options)
        options = [jnp.broadcast_to(o, batch).reshape(size) for o in options]
        flat = (scores.reshape(size, n, m), prices.reshape(size, m), *options)
        in_step = jax.vmap(solve)
        if max(n, m) <= _IN_STEP:
            result = in_step(*flat)
        else:
            result = lax.platform_dependent(
                *flat, cpu=lambda *a: lax.map(lambda x: solve(*x), a), default=in_step
            )
        return jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), result)

    @whole.def_vmap
    def _(axis_size, in_batched, *arrays):
        # The axes of all vmaps are solved together, by the rule for their number.
        scores, prices, *options = (
            a if mapped else jnp.broadcast_to(a, (axis_size, *a.shape))
            for a, mapped in zip(arrays, in_batched, strict=True)
        )
        batch = scores.shape[:-2]
        options = [o.reshape(*o.shape, *(1,) * (len(batch) - o.ndim)) for o in options]
        result = whole(scores, prices, *options)
        return result, jax.tree.map(lambda _: True, result)

    return whole(*arrays)


def _solve_matrix(
    solver: Solver, scores: jax.Array, prices: jax.Array, *options: jax.Array
) -> PricedAssignment:
    """Turn scores into costs with the rows on the short side, and the solution back."""
    n, m = scores.shape
    forbidden = scores == -jnp.inf
    # So low that no sum of allowed scores makes up for it: used where nothing else is left.
    low = jnp.min(scores, where=~forbidden, initial=jnp.inf)
    high = jnp.max(scores, where=~forbidden, initial=-jnp.inf)
    low = jnp.where(forbidden.all(), 0.0, low - (high - low + 1) * (min(n, m) + 1))
    allowed = jnp.where(forbidden, low, scores)
    profits = allowed if n <= m else allowed.T
    # Subtracting from the best score of each row changes no optimum and no price, and keeps the
    # numbers small, which float32 needs.
    cost = profits.max(axis=1, keepdims=True) - profits
    finite = jnp.isfinite(4 * min(n, m) * cost.max())
    cost = jnp.where(finite, cost, 0.0)
    allowed = jnp.where(finite, allowed, 0.0)
    if n > m:
        # The prices of the rows that make the given prices of the columns fair.
        prices = jnp.maximum((allowed - prices[None, :]).max(axis=1), 0.0)
    # Any prices are a start. Those far beyond the costs would drown them in rounding.
    start = jnp.where(jnp.isfinite(prices), prices, 0.0)
    start = jnp.minimum(start - start.min(), 4 * cost.max())
    solution = solver(cost, start, *options)
    owner, priced = solution.owner, solution.prices
    if n > m:
        columns = owner
        prices = (allowed - priced[:, None]).max(axis=0)
    else:
        columns = _invert(owner, n)
        prices = priced
    rows = jnp.arange(n, dtype=jnp.int32)
    matched = columns >= 0
    picked = jnp.where(matched, scores[rows, columns], 0.0)
    fine = finite & jnp.all(picked > -jnp.inf)
    return PricedAssignment(
        columns=jnp.where(finite, columns, jnp.where(rows < m, rows, -1)),
        objective=jnp.where(fine, picked.sum(), -jnp.inf),
        prices=jnp.where(fine, prices, 0.0),
        gap=jnp.where(fine, _gap(allowed, columns, prices), jnp.inf),
        iterations=jnp.where(finite, solution.iterations, 0),
        status=jnp.where(
            fine,
            jnp.where(solution.converged, Status.CONVERGED.value, Status.NOT_CONVERGED.value),
            Status.NON_FINITE.value,
        ).astype(jnp.int32),
    )


def _gap(scores: jax.Array, columns: jax.Array, prices: jax.Array) -> jax.Array:
    """Sum the slacks, none of them negative: the difference of the two sums would cancel."""
    n, m = scores.shape
    rows = jnp.arange(n)
    best = (scores - prices[None, :]).max(axis=1)
    if n > m:
        best = jnp.maximum(best, 0.0)
    own = jnp.where(columns >= 0, scores[rows, columns] - prices[columns], 0.0)
    gap = (best - own).sum()
    if n < m:
        gap += jnp.where(_invert(columns, m) < 0, prices, 0.0).sum()
    return gap


def _invert(owner: jax.Array, size: int) -> jax.Array:
    """Return int32 `[size]`, the index at which `owner` holds each number, -1 where nowhere."""
    index = jnp.arange(owner.size, dtype=jnp.int32)
    at = jnp.where(owner < 0, size, owner)
    return jnp.full(size, -1, jnp.int32).at[at].set(index, mode="drop")


def _empty(batch: tuple[int, ...], n: int, m: int, dtype: np.dtype) -> PricedAssignment:
    return PricedAssignment(
        columns=jnp.full((*batch, n), -1, jnp.int32),
        objective=jnp.zeros(batch, dtype),
        prices=jnp.zeros((*batch, m), dtype),
        gap=jnp.zeros(batch, dtype),
        iterations=jnp.zeros(batch, jnp.int32),
        status=jnp.full(batch, Status.CONVERGED.value, jnp.int32),
    )


def free_rows(owner: jax.Array, n: int) -> jax.Array:
    """Return bool `[n]`, True for the rows that own no column."""
    return jnp.ones(n, bool).at[jnp.where(owner < 0, n, owner)].set(False, mode="drop")


def bid(
    cost: jax.Array, prices: jax.Array, owner: jax.Array, epsilon: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Let every row without a column bid at once, and sell each column to its highest bidder.

    A row bids for its cheapest column, at the price at which its second cheapest is as good, plus
    epsilon (Bertsekas, "The auction algorithm", 1988). Its old owner loses the column.

    Args:
        cost: `[n, m]`, n <= m.
        prices: `[m]`.
        owner: int32 `[m]`, the row of every column, -1 for none.
        epsilon: scalar, at least zero.

    Returns:
        The new prices and owners.
    """
    n, m = cost.shape
    rows = jnp.arange(n, dtype=jnp.int32)
    # Among equals row i takes the first column from i on, so that rows spread over them.
    turn = jnp.arange(m, dtype=jnp.int32)[None, :] - rows[:, None]
    turn = jnp.where(turn < 0, turn + m, turn)
    total = cost + prices[None, :]
    first = total.min(axis=1, keepdims=True)
    choice = jnp.where(total <= first, turn, m).min(axis=1, keepdims=True)
    column = (choice[:, 0] + rows) % m
    rise = jnp.full(n, epsilon, cost.dtype)
    if m > 1:
        rise += (jnp.where(turn == choice, jnp.inf, total).min(axis=1, keepdims=True) - first)[:, 0]
    rise = jnp.where(free_rows(owner, n), rise, -1.0)
    highest = jnp.full(m, -1.0, cost.dtype).at[column].max(rise)
    wins = (rise >= 0) & (rise == highest[column])
    winner = jnp.full(m, n, jnp.int32).at[jnp.where(wins, column, m)].min(rows, mode="drop")
    return prices + jnp.maximum(highest, 0.0), jnp.where(winner < n, winner, owner)


def release(
    cost: jax.Array, prices: jax.Array, owner: jax.Array, slack: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Make columns without a row free of charge, and rows that would then move without a column.

    For n < m only prices that are zero wherever no row is prove anything. A released column is
    without a row in its turn: each round but the last releases one, so there are at most n + 1.

    Args:
        cost: `[n, m]`, n <= m.
        prices: `[m]`, at least zero.
        owner: int32 `[m]`, the row of every column, -1 for none.
        slack: scalar, rows stay whose column is at most this worse than their best.

    Returns:
        The new prices and owners.
    """
    columns = jnp.arange(owner.size)

    def priced(state):
        prices, owner = state
        return jnp.any((owner < 0) & (prices > 0))

    def lower(state):
        prices, owner = state
        prices = jnp.where(owner < 0, 0.0, prices)
        best = (cost + prices[None, :]).min(axis=1)
        stays = cost[owner, columns] + prices <= best[owner] + slack
        return prices, jnp.where(stays, owner, -1)

    return lax.while_loop(priced, lower, (prices, owner))
