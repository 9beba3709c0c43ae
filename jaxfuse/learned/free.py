"""Soft matchings of free parameters: what gradient descent moves in place of permutations."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfuse.assignment import Potentials, sinkhorn
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.matching.problem import Backend
from jaxfuse.matching.projection import assign, cold_potentials
from jaxfuse.symmetry.spec import Symmetry

Free = dict[str, jax.Array]


def start_free(symmetry: Symmetry, key: jax.Array, noise: float) -> Free:
    """Return the identity plus Gaussian noise for every node.

    Args:
        symmetry: the groups.
        key: source of the noise.
        noise: its standard deviation.

    Returns:
        Per node float32 `[n, n]`; for the node of a group that another indexes one for every pair
        of that other's entries, `[entries, entries, n, n]`.
    """
    nodes = list_nodes(symmetry)
    free = {}
    for (name, node), own in zip(nodes.items(), jax.random.split(key, len(nodes)), strict=True):
        n = node.shape[-1]
        entries = math.prod(node.shape[:-1])
        shape = (entries, entries, n, n) if node.parent else (n, n)
        free[name] = jnp.broadcast_to(jnp.eye(n), shape) + noise * jax.random.normal(own, shape)
    return free


def start_potentials(symmetry: Symmetry) -> dict[str, Potentials]:
    """Return zero potentials, from which the first projection starts."""
    nodes = list_nodes(symmetry)
    sizes = {name: math.prod(node.shape) for name, node in nodes.items()}
    return cold_potentials(sizes, _parents(symmetry))


def soft_matchings(
    free: Mapping[str, jax.Array],
    symmetry: Symmetry,
    tau: float,
    iterations: int,
    potentials: Mapping[str, Potentials],
) -> tuple[dict[str, jax.Array], dict[str, Potentials]]:
    """Project free parameters on doubly stochastic matrices, with implicit gradients.

    The matching of a group that another indexes is the product of two: that of the entries, and
    for every pair of entries that of the units inside.

    Args:
        free: as `start_free` has them.
        symmetry: the groups.
        tau: temperature of Sinkhorn's projection.
        iterations: its iterations.
        potentials: where it starts; those of the last call, as the parameters move little.

    Returns:
        Per node the flat doubly stochastic matrix `[N, N]`, and the potentials reached.
    """
    own, reached = _project(free, tau, iterations, potentials)
    parent_of, plans = dict(_parents(symmetry)), {}
    for node in _outer_first(symmetry):
        plan = own[node]
        if node in parent_of:
            plan = _flat(plans[parent_of[node]][:, :, None, None] * plan)
        plans[node] = plan
    return {node: plans[node] for node in free}, reached


def round_free(
    free: Mapping[str, jax.Array], symmetry: Symmetry, backend: Backend
) -> dict[str, jax.Array]:
    """Return the permutations that the soft matchings tend to as the temperature falls.

    Args:
        free: as `start_free` has them.
        symmetry: the groups.
        backend: who solves assignments, as in `jaxfuse.hungarian`.

    Returns:
        Per node the flat permutation, int32 `[N]`.
    """
    parent_of = dict(_parents(symmetry))
    roots = {node: each for node, each in free.items() if node not in parent_of}
    columns = assign(roots, backend)
    for node in _outer_first(symmetry):
        if node in parent_of:
            parent = parent_of[node]
            columns |= assign(
                {node: _flat(free[node])}, backend, [(node, parent)], {parent: columns[parent]}
            )
    return {node: columns[node] for node in free}


def _project(
    free: Mapping[str, jax.Array],
    tau: float,
    iterations: int,
    potentials: Mapping[str, Potentials],
) -> tuple[Free, dict[str, Potentials]]:
    """Project all matrices of one size in one call, to compile it once."""
    plans, reached = {}, {}
    for size in sorted({scores.shape[-1] for scores in free.values()}):
        nodes = [node for node, scores in free.items() if scores.shape[-1] == size]
        stacked = jnp.concatenate([free[node].reshape(-1, size, size) for node in nodes])
        start = Potentials(
            jnp.concatenate([potentials[node].row.reshape(-1, size) for node in nodes]),
            jnp.concatenate([potentials[node].column.reshape(-1, size) for node in nodes]),
        )
        result = sinkhorn(stacked, tau, iterations=iterations, initial=start)
        begin = 0
        for node in nodes:
            *batch, _, _ = free[node].shape
            cut = slice(begin, begin + math.prod(batch))
            begin = cut.stop
            plans[node] = result.plan[cut].reshape(*batch, size, size)
            reached[node] = jax.tree.map(
                lambda x, c=cut, b=batch: x[c].reshape(*b, x.shape[-1]), result.potentials
            )
    return plans, {node: reached[node] for node in free}


def _parents(symmetry: Symmetry) -> list[tuple[str, str]]:
    nodes = list_nodes(symmetry)
    return [(name, node.parent) for name, node in nodes.items() if node.parent]


def _outer_first(symmetry: Symmetry) -> list[str]:
    nodes = list_nodes(symmetry)
    return sorted(nodes, key=lambda name: len(nodes[name].shape))


def _flat(pairs: jax.Array) -> jax.Array:
    """View matrices of pairs of entries, `[entries, entries, n, n]`, as one of all units."""
    entries, _, n, _ = pairs.shape
    return pairs.swapaxes(1, 2).reshape(entries * n, entries * n)
