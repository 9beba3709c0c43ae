"""The linear assignment problem on the device, by shortest augmenting paths."""

import jax
import jax.numpy as jnp
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


def shortest_augmenting_path(
    scores: ArrayLike, prices: ArrayLike | None = None
) -> PricedAssignment:
    """Find the assignment of rows to columns with the largest sum of scores, on the device.

    The scheme of Jonker and Volgenant: reduce the columns (n = m), let all rows bid at once, let
    those left without a column bid one by one, and match the rest along shortest augmenting paths.
    Each stage keeps every matched row at its cheapest column. Compiled, without callbacks, batched
    over all leading axes and `vmap`s.

    The result is exact up to the rounding of the dtype, float32 or float64: exactly optimal for
    integers while sums stay below 2**24 (2**53), else as near as `gap` says. It ends after at most
    n bids and n searches of m steps for n = m, and twice as many else, whatever the rounding. Ties
    are broken the same way every time. Every row is matched for n <= m, every column for n >= m.

    Not differentiable: the derivative is zero.

    Args:
        scores: `[..., n, m]`, float or integer, higher is better. -inf forbids a pair.
        prices: `[..., m]`, the prices of an earlier result for similar scores, from which to start.
            Wrong prices cost time and do not change the optimum; so may true ones where rows or
            columns are well to spare, for prices do not say which of two equals stays out.

    Returns:
        A `PricedAssignment`. Its status is NON_FINITE as for `hungarian`.

    Raises:
        ValueError: for shapes that do not fit; outside jit also for what gives the status
            NON_FINITE under jit.

    Examples:
        >>> result = shortest_augmenting_path(jnp.array([[1.0, 5.0], [2.0, 9.0]]))
        >>> result.columns.tolist(), float(result.objective), float(result.gap)
        ([0, 1], 10.0, 0.0)

    References:
        Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear
        assignment problems", 1987.
    """
    return solve_scores("shortest_augmenting_path", _solve, scores, prices)


def _solve(cost: jax.Array, prices: jax.Array) -> Solution:
    n, m = cost.shape
    if n == m:
        best = (cost + prices[None, :]).min(axis=1, keepdims=True)
        prices = -(cost - best).min(axis=0)
    prices, owner = bid(cost, prices, jnp.full(m, -1, jnp.int32), 0.0)
    if n == m:
        return _complete(cost, Solution(owner, prices, jnp.int32(0), jnp.bool_(True)))

    def complete(solution):
        solution = _complete(cost, solution)
        prices, owner = release(cost, solution.prices, solution.owner, 0.0)
        return solution._replace(prices=prices, owner=owner, converged=~free_rows(owner, n).any())

    # A second time only where prices given at the start were left on columns that no row wants.
    state = Solution(owner, prices, jnp.int32(0), jnp.bool_(False))
    return lax.while_loop(lambda solution: ~solution.converged, complete, state)


def _complete(cost: jax.Array, solution: Solution) -> Solution:
    prices, owner, bids = _bid_in_turn(cost, solution.prices, solution.owner)
    prices, owner, steps = augment(cost, prices, owner)
    iterations = solution.iterations + bids + steps
    return solution._replace(prices=prices, owner=owner, iterations=iterations)


def _queue(owner: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    free = free_rows(owner, n)
    rows = jnp.nonzero(free, size=n, fill_value=0)[0].astype(jnp.int32)
    return rows, free.sum(dtype=jnp.int32)


def _key(owner: jax.Array) -> jax.Array:
    """Return numbers of the columns that order those without a row before the others."""
    m = owner.size
    return jnp.arange(m, dtype=jnp.int32) + jnp.where(owner < 0, 0, m).astype(jnp.int32)


def _first(values: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the least value and the least key that has it: two reductions beat an argmin."""
    least = values.min()
    return least, jnp.where(values == least, key, 2 * key.size).min()


def _bid_in_turn(
    cost: jax.Array, prices: jax.Array, owner: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Let rows without a column bid one after the other, n bids at most.

    A row that loses its column bids next. A bid that would not raise the price of a column that has
    an owner is not made, so that equals are not passed around: such rows are left to `augment`.
    """
    n, m = cost.shape
    queue, count = _queue(owner, n)
    columns = jnp.arange(m, dtype=jnp.int32)

    def bidding(state):
        _, position, _, _, bids = state
        return (position < count) & (bids < n)

    def step(state):
        row, position, prices, owner, bids = state
        total = cost[row] + prices
        first, key = _first(total, _key(owner))
        column = jnp.where(key < m, key, key - m)
        second = jnp.where(columns == column, jnp.inf, total).min()
        rise = second - first if m > 1 else jnp.zeros_like(first)
        old = owner[column]
        sold = (old < 0) | (rise > 0)
        prices = prices.at[column].add(rise)
        owner = owner.at[column].set(jnp.where(sold, row, old))
        evicted = sold & (old >= 0)
        position = jnp.where(evicted, position, position + 1)
        row = jnp.where(evicted, old, queue[jnp.minimum(position, n - 1)])
        return row, position, prices, owner, bids + 1

    state = (queue[0], jnp.int32(0), prices, owner, jnp.int32(0))
    _, _, prices, owner, bids = lax.while_loop(bidding, step, state)
    return prices, owner, bids


def augment(
    cost: jax.Array, prices: jax.Array, owner: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Match every row left without a column along a shortest augmenting path.

    For the row r the search of Dijkstra finds `d[j]`, the least price-corrected cost of a chain of
    moves from r to column j, up to the first column s without a row, at the length `d[s]`. The rows
    on the chain to s move along it, and `p[j] += max(d[s] - d[j], 0)` keeps every row at its
    cheapest column. A step adds one column to the tree, so a search takes at most m steps.

    Args:
        cost: `[n, m]`, n <= m.
        prices: `[m]`.
        owner: int32 `[m]`, the row of every column, -1 for none.

    Returns:
        The new prices and owners, and the number of steps.
    """
    n, m = cost.shape
    queue, count = _queue(owner, n)

    def search(state):
        position, prices, owner, steps = state
        # Under vmap, matrices that are done run along: their searches must end at once.
        active = position < count
        root = queue[position]
        key = _key(owner)

        def growing(tree):
            _, _, _, _, reached, _ = tree
            return active & (reached >= m)

        def grow(tree):
            distance, done, parent, length, reached, steps = tree
            column = reached - m
            done = done.at[column].set(jnp.inf)
            row = cost[owner[column]]
            offset = length - (row[column] + prices[column])
            # No chain is shorter than the one it prolongs, whatever the rounding.
            longer = jnp.maximum((row + prices) + offset, length)
            parent = jnp.where(longer < distance, column, parent)
            distance = jnp.minimum(distance, longer)
            length, reached = _first(distance + done, key)
            return distance, done, parent, length, reached, steps + 1

        distance = cost[root] + prices
        length, reached = _first(distance, key)
        tree = (
            distance,
            jnp.zeros(m, cost.dtype),
            jnp.full(m, -1, jnp.int32),
            length,
            reached,
            steps,
        )
        distance, _, parent, length, sink, steps = lax.while_loop(growing, grow, tree)

        def move(state):
            column, owner = state
            previous = parent[column]
            row = jnp.where(previous < 0, root, owner[previous])
            return previous, owner.at[column].set(row)

        start = (jnp.where(active, sink, -1), owner)
        _, owner = lax.while_loop(lambda state: state[0] >= 0, move, start)
        prices += jnp.maximum(length - distance, 0.0)
        return position + 1, prices, owner, steps

    state = (jnp.int32(0), prices, owner, jnp.int32(0))
    _, prices, owner, steps = lax.while_loop(lambda state: state[0] < count, search, state)
    return prices, owner, steps
