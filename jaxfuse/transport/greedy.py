"""Greedy merging: the two units most alike become one, until as many are left as asked."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# More than two similarities can differ by: a pair so marked down is merged when nothing else is
# left.
_CLOSED = 10.0


class Zipped(NamedTuple):
    """Which units became one.

    Attributes:
        unit: int32 `[M]`, the merged unit of every unit.
        similarities: float32 `[M - N]`, those of the merges, in their order.
    """

    unit: jax.Array
    similarities: jax.Array


def zip_units(
    similarity: jax.Array, widths: tuple[int, ...], units: int, alpha: float, beta: float
) -> Zipped:
    """Merge the most similar units of K networks until some number is left.

    Args:
        similarity: `[M, M]`, symmetric, of all units of K networks side by side.
        widths: the units of each network; they sum to M.
        units: how many are left, N.
        alpha: as in `ZipIt`.
        beta: as in `ZipIt`.

    Returns:
        A `Zipped`.

    Examples:
        >>> likeness = jnp.array([[1, 0, 0, 0.9], [0, 1, 0.8, 0], [0, 0.8, 1, 0], [0.9, 0, 0, 1]])
        >>> zip_units(likeness, (2, 2), 2, 0.5, 0.0).unit.tolist()
        [0, 1, 1, 0]
    """
    total = sum(widths)
    merges = total - units
    budget = int(beta * merges / len(widths) + 1e-6)
    network = np.repeat(np.arange(len(widths)), widths)
    state = _State(
        jnp.asarray(similarity, jnp.float32),
        jax.nn.one_hot(network, len(widths)),
        jnp.arange(total, dtype=jnp.int32),
        jnp.full(len(widths), budget, jnp.int32),
        jnp.full(total, -jnp.inf),
        jnp.zeros(total, jnp.int32),
        jnp.zeros(merges),
    )
    state = _rescan(state, jnp.ones(total, bool), alpha)

    def merge(step: jax.Array, state: _State) -> _State:
        return _merge_best(step, state, alpha)

    state = lax.fori_loop(0, merges, merge, state)
    alive = state.label == jnp.arange(total)
    rank = jnp.cumsum(alive) - 1
    return Zipped(rank[state.label].astype(jnp.int32), state.similarities)


class _State(NamedTuple):
    """The loop: similarities, parts of each unit by network, and the best partner of each row."""

    similarity: jax.Array
    parts: jax.Array
    label: jax.Array
    budget: jax.Array
    best: jax.Array
    partner: jax.Array
    similarities: jax.Array


def _merge_best(step: jax.Array, state: _State, alpha: float) -> _State:
    row = jnp.argmax(state.best)
    i = jnp.minimum(row, state.partner[row])
    j = jnp.maximum(row, state.partner[row])
    value = state.similarity[i, j]
    within = (state.parts[i] > 0) & (state.parts[j] > 0)
    smaller = jnp.minimum(state.similarity[i], state.similarity[j])
    merged = smaller * (alpha if alpha > 0 else 1.0)
    state = state._replace(
        similarity=state.similarity.at[i].set(merged).at[:, i].set(merged),
        parts=state.parts.at[i].add(state.parts[j]).at[j].set(0.0),
        label=jnp.where(state.label == j, i, state.label),
        budget=state.budget - within,
        similarities=state.similarities.at[step].set(value),
    )
    # Only what would have met i or j looks for another partner, unless a budget is used up.
    alive = jnp.sum(state.parts, axis=1) > 0
    index = jnp.arange(len(alive))
    closing = jnp.any(within & (state.budget == 0))
    with_i = _ranks(state, i, alpha)
    nearer = with_i > state.best
    lost = alive & ((index == i) | (state.partner == i) | (state.partner == j) | closing)
    best = jnp.where(alive, jnp.where(nearer, with_i, state.best), -jnp.inf)
    partner = jnp.where(nearer, i, state.partner).astype(jnp.int32)
    return _rescan(state._replace(best=best, partner=partner), lost & ~nearer, alpha)


def _ranks(state: _State, row: jax.Array, alpha: float) -> jax.Array:
    """Return how soon one unit is merged with each: their likeness, lower where that is closed."""
    own, count = state.parts[row], jnp.sum(state.parts, axis=1)
    shared = (state.parts > 0) & (own > 0)[None, :]
    closed = jnp.any(shared & (state.budget <= 0)[None, :], axis=1)
    if alpha == 0:
        again = (count > 1) | (jnp.sum(own) > 1)
        closed |= again & jnp.any(shared, axis=1)
    value = state.similarity[row] - _CLOSED * closed
    return jnp.where((count > 0) & (jnp.arange(len(count)) != row), value, -jnp.inf)


def _rescan(state: _State, wanted: jax.Array, alpha: float) -> _State:
    """Find the best partner of some rows, one after the other: there are few."""

    def scan(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        left, best, partner = carry
        row = jnp.argmax(left)
        ranks = _ranks(state, row, alpha)
        column = jnp.argmax(ranks)
        return (
            left.at[row].set(False),
            best.at[row].set(ranks[column]),
            partner.at[row].set(column.astype(jnp.int32)),
        )

    _, best, partner = lax.while_loop(
        lambda carry: jnp.any(carry[0]), scan, (wanted, state.best, state.partner)
    )
    return state._replace(best=best, partner=partner)
