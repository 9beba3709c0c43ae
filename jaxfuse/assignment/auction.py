"""The linear assignment problem on the device, by the auction algorithm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxfuse.assignment.priced import (
    PricedAssignment,
    Solution,
    bid,
    free_rows,
    release,
    solve_scores,
)
from jaxfuse.assignment.shortest_augmenting_path import augment
from jaxfuse.status import is_concrete

# Bertsekas lowers epsilon by a factor of four to ten from phase to phase.
_FACTOR = 5.0


def auction(
    scores: ArrayLike,
    prices: ArrayLike | None = None,
    *,
    epsilon: ArrayLike | None = None,
    max_iterations: int = 20_000,
) -> PricedAssignment:
    """Find an assignment within min(n, m) * epsilon of the largest sum of scores, on the device.

    All rows without a column bid at once, in phases of falling epsilon, each started from the last
    one's prices. A round is a few passes over the whole matrix whatever the number of bidders:
    right for accelerators and batches; on a CPU `shortest_augmenting_path` is faster, and exact.

    With integer scores and epsilon < 1 / min(n, m) the assignment is the best one, while sums stay
    below 2**24. With float scores it is the best one only if the second best is further off than
    `gap`. Rounds are bounded by `max_iterations`; the rows that have no column then are matched
    along shortest augmenting paths, so every result is a complete matching.

    Not differentiable: the derivative is zero.

    Args:
        scores: `[..., n, m]`, float or integer, higher is better. -inf forbids a pair.
        prices: `[..., m]`, the prices of an earlier result for similar scores. Given, there is one
            phase only, at the last epsilon.
        epsilon: scalar > 0 in units of the scores. By default 1 / (min(n, m) + 1) for integers and
            otherwise a thousandth of the range of scores in a row over min(n, m). Never less than
            the rounding of such prices.
        max_iterations: limit of the rounds of all phases.

    Returns:
        A `PricedAssignment`. Its status is NOT_CONVERGED where the rounds ran out, and NON_FINITE
        as for `hungarian`.

    Raises:
        ValueError: for shapes and options that do not fit; outside jit also for epsilon <= 0 and
            for what gives the status NON_FINITE under jit.

    Examples:
        >>> result = auction(jnp.array([[1, 5], [2, 9]]))
        >>> result.columns.tolist(), float(result.objective)
        ([0, 1], 10.0)

    References:
        Bertsekas, "The auction algorithm: a distributed relaxation method for the assignment
        problem", 1988; Bertsekas and Castanon, "A forward/reverse auction algorithm for
        asymmetric assignment problems", 1992.
    """
    if max_iterations < 1:
        raise ValueError(f"auction: got max_iterations={max_iterations}, want at least 1")
    if epsilon is not None and is_concrete(epsilon) and not np.asarray(epsilon) > 0:
        raise ValueError(f"auction: got epsilon={epsilon}, want a number > 0")
    scores = jnp.asarray(scores)
    if epsilon is None:
        whole = scores.ndim > 1 and jnp.issubdtype(scores.dtype, jnp.integer)
        # Zero stands for the default that depends on the range.
        epsilon = 1 / (min(scores.shape[-2:]) + 1) if whole else 0.0
    solver = _solver(prices is None, max_iterations)
    return solve_scores("auction", solver, scores, prices, jnp.asarray(epsilon, jnp.float32))


@functools.cache
def _solver(scaled: bool, max_iterations: int):
    """Return one function for equal options: compiled programs are found by it."""
    return functools.partial(_solve, scaled, max_iterations)


def _solve(
    scaled: bool, max_iterations: int, cost: jax.Array, prices: jax.Array, epsilon: jax.Array
) -> Solution:
    n, m = cost.shape
    highest = cost.max()
    epsilon = jnp.where(epsilon > 0, epsilon, highest / (1000 * n)).astype(cost.dtype)
    tiny = jnp.finfo(cost.dtype).tiny
    epsilon = jnp.maximum(epsilon, jnp.maximum(8 * jnp.finfo(cost.dtype).eps * highest, tiny))
    nobody = jnp.full(m, -1, jnp.int32)

    def missing(owner):
        return jnp.any(free_rows(owner, n))

    def bidding(state):
        _, owner, step, rounds = state
        return (missing(owner) | (step > epsilon)) & (rounds < max_iterations)

    def advance(state):
        prices, owner, step, rounds = state
        over = ~missing(owner)
        step = jnp.where(over, jnp.maximum(step / _FACTOR, epsilon), step)
        prices, owner = bid(cost, prices, jnp.where(over, nobody, owner), step)
        return prices, owner, step, rounds + 1

    step = jnp.maximum(highest / _FACTOR, epsilon) if scaled else epsilon
    state = (prices, nobody, step, jnp.int32(0))
    prices, owner, step, rounds = lax.while_loop(bidding, advance, state)
    if n < m:
        prices, owner = release(cost, prices, owner, epsilon)
        state = (prices, owner, step, rounds)
        prices, owner, step, rounds = lax.while_loop(bidding, advance, state)
    converged = ~missing(owner) & (step <= epsilon)
    prices, owner, steps = augment(cost, prices, owner)
    return Solution(owner, prices, rounds + steps, converged)
