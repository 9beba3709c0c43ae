"""The weighted average, as in FedAvg."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.federated.aggregation.protocol import Aggregated
from jaxfuse.symmetry import Symmetry
from jaxfuse.symmetry.tree import is_weight

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Average:
    """Average the networks entry by entry.

    McMahan et al., AISTATS 2017. Weights by examples or equal ones are the round's choice.

    Examples:
        >>> stacked = {"w": jnp.array([[0.0], [4.0]])}
        >>> shares, key = jnp.array([0.75, 0.25]), jax.random.key(0)
        >>> made = Average().aggregate(stacked, shares, {"w": jnp.zeros(1)}, None, key)
        >>> made.params["w"].tolist()
        [1.0]
    """

    def aggregate(
        self,
        clients: PyTree,
        weights: jax.Array,
        anchor: PyTree,
        symmetry: Symmetry | None,
        key: jax.Array,
    ) -> Aggregated:
        """Average; see `Aggregator.aggregate`. Differentiable."""
        return Aggregated(average_stack(clients, weights), jnp.float32(1))


def average_stack(clients: PyTree, weights: jax.Array) -> PyTree:
    """Return `sum_k weights[k] * clients[k]` of a stacked tree, leaves in their own dtypes.

    Leaves that are no real numbers are those of network 0.
    """

    def mix(leaf: jax.Array) -> jax.Array:
        if not is_weight(leaf):
            return leaf[0]
        wide = jnp.promote_types(leaf.dtype, jnp.float32)
        mixed = jnp.tensordot(weights.astype(wide), leaf.astype(wide), 1, precision=HIGHEST)
        return mixed.astype(leaf.dtype)

    return jax.tree.map(mix, clients)


def finite_rows(stacked: PyTree) -> jax.Array:
    """Return of every network of a stacked tree whether all its numbers are finite, bool `[K]`."""
    found = [
        jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
        for leaf in jax.tree.leaves(stacked)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return functools.reduce(jnp.logical_and, found)


def choose_rows(rows: jax.Array, chosen: PyTree, others: PyTree) -> PyTree:
    """Return the rows of one stacked tree where a flag is set, else those of another.

    The other may lack the leading axis: it is then the same for all rows.
    """

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        flags = rows.reshape(-1, *[1] * (a.ndim - 1))
        return jnp.where(flags, a, jnp.broadcast_to(b, a.shape))

    return jax.tree.map(choose, chosen, others)
