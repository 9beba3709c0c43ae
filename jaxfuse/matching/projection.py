"""Project the scores of all nodes: on permutations, or on doubly stochastic matrices.

Nodes that hang together are projected together. For the units of heads, say, every pair of heads
(i, j) has an inner problem of its own, whose value is added to the score of matching the heads i
and j; the heads are matched last, and take their units along.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.assignment import Potentials, hungarian, sinkhorn
from jaxfuse.matching.problem import Backend

Parents = Sequence[tuple[str, str]]


def assign(
    scores: Mapping[str, jax.Array],
    backend: Backend = "auto",
    parents: Parents = (),
    fixed: Mapping[str, jax.Array] | None = None,
) -> dict[str, jax.Array]:
    """Return the best permutation, int32 `[n]`, for the scores `[n, n]` of every node.

    Problems of one size go to the host in one call.

    Args:
        scores: per node `[n, n]`.
        backend: who solves assignments, as in `jaxfuse.hungarian`.
        parents: pairs of a node and its parent.
        fixed: permutations of parents that have no scores and stay as they are.
    """
    parent_of = {node: parent for node, parent in parents if node in scores}
    totals, inner = dict(scores), {}
    fixed = fixed or {}

    def solve(stacked: jax.Array) -> jax.Array:
        return hungarian(stacked, backend=backend).columns

    for level in _levels(parent_of):
        pairs = {}
        for node in level:
            parent = parent_of[node]
            entries = (fixed[parent] if parent in fixed else totals[parent]).shape[0]
            blocks = entry_pairs(totals[node], entries)
            if parent in fixed:
                image = fixed[parent][:, None, None, None]
                blocks = jnp.take_along_axis(blocks, image, axis=1)
            pairs[node] = blocks
        for node, columns in _by_block(solve, pairs).items():
            inner[node] = columns
            parent = parent_of[node]
            if parent not in fixed:
                best = jnp.take_along_axis(pairs[node], columns[..., None], axis=-1)
                totals[parent] = totals[parent] + jnp.sum(best, axis=(-2, -1))
    roots = {node: total for node, total in totals.items() if node not in parent_of}
    columns = {**fixed, **_by_size(solve, roots)}
    for level in reversed(_levels(parent_of)):
        for node in level:
            columns[node] = _compose(columns[parent_of[node]], inner[node])
    return {node: columns[node] for node in scores}


def soften(
    scores: Mapping[str, jax.Array],
    tau: Mapping[str, jax.Array],
    potentials: Mapping[str, Potentials],
    iterations: int,
    parents: Parents = (),
) -> tuple[dict[str, jax.Array], dict[str, Potentials]]:
    """Return the doubly stochastic matrix of every node at temperature tau.

    What a child adds to the score of its parent's pair is the free energy of the inner problem,
    `<R, Q> + tau * entropy(Q)`, which tends to the best assignment's score as tau falls.

    Args:
        scores: per node `[n, n]`.
        tau: per node a temperature.
        potentials: per node the potentials to start from, as `cold_potentials` has them first.
        iterations: Sinkhorn iterations.
        parents: pairs of a node and its parent.

    Returns:
        The plans, and the potentials they end with.
    """
    parent_of = {node: parent for node, parent in parents if node in scores}
    totals, inner, ended = dict(scores), {}, {}

    def project(
        stacked: jax.Array, taus: jax.Array, start: Potentials
    ) -> tuple[jax.Array, Potentials]:
        result = sinkhorn(stacked, taus, iterations=iterations, initial=start)
        return result.plan, result.potentials

    for level in _levels(parent_of):
        entries = {node: totals[parent_of[node]].shape[0] for node in level}
        pairs = {node: entry_pairs(totals[node], entries[node]) for node in level}
        taus = {node: jnp.full((entries[node],) * 2, tau[node]) for node in level}
        for node, (plan, dual) in _by_block(project, pairs, taus, potentials).items():
            inner[node], ended[node] = plan, dual
            # At the fixed point the free energy is what the potentials sum to.
            energy = -jnp.sum(dual.row, axis=-1) - jnp.sum(dual.column, axis=-1)
            totals[parent_of[node]] = totals[parent_of[node]] + energy
    roots = {node: total for node, total in totals.items() if node not in parent_of}
    both = _by_size(project, roots, tau, potentials)
    plans = {node: plan for node, (plan, _) in both.items()}
    ended |= {node: dual for node, (_, dual) in both.items()}
    for level in reversed(_levels(parent_of)):
        for node in level:
            outer = plans[parent_of[node]][:, :, None, None]
            plans[node] = _flat_matrix(outer * inner[node])
    return {node: plans[node] for node in scores}, {node: ended[node] for node in scores}


def cold_potentials(sizes: Mapping[str, int], parents: Parents = ()) -> dict[str, Potentials]:
    """Return zero potentials for every node: `[n]`, or one `[n]` per pair of a parent's entries."""
    parent_of = dict(parents)
    potentials = {}
    for node, size in sizes.items():
        entries = sizes[parent_of[node]] if node in parent_of else 1
        shape = (entries, entries, size // entries) if node in parent_of else (size,)
        potentials[node] = Potentials(jnp.zeros(shape), jnp.zeros(shape))
    return potentials


def _levels(parent_of: Mapping[str, str]) -> list[list[str]]:
    """Return the nodes with a parent by depth, the deepest first."""

    def depth(node: str) -> int:
        return 1 + depth(parent_of[node]) if node in parent_of else 0

    depths = {node: depth(node) for node in parent_of}
    return [
        [node for node in parent_of if depths[node] == level]
        for level in sorted(set(depths.values()), reverse=True)
    ]


def entry_pairs(scores: jax.Array, entries: int) -> jax.Array:
    """View flat scores as one matrix for every pair of entries, `[entries, entries, n, n]`."""
    n = scores.shape[0] // entries
    return scores.reshape(entries, n, entries, n).swapaxes(1, 2)


def _flat_matrix(pairs: jax.Array) -> jax.Array:
    entries, _, n, _ = pairs.shape
    return pairs.swapaxes(1, 2).reshape(entries * n, entries * n)


def _compose(outer: jax.Array, inner: jax.Array) -> jax.Array:
    """Return the flat permutation of units from that of entries and, per pair, of units."""
    image = jnp.zeros_like(outer) if inner.shape[1] == 1 else outer
    chosen = jnp.take_along_axis(inner, image[:, None, None], axis=1)[:, 0]
    return (outer[:, None] * chosen.shape[-1] + chosen).reshape(-1)


def _by_block(
    function: Callable[..., Any], pairs: Mapping[str, jax.Array], *others: Mapping[str, Any]
) -> dict[str, Any]:
    """Call a batched function once for the inner problems of one size of all the nodes."""
    results: dict[str, Any] = {}
    for size in sorted({blocks.shape[-1] for blocks in pairs.values()}):
        nodes = [node for node, blocks in pairs.items() if blocks.shape[-1] == size]
        batches = [pairs[node].shape[:2] for node in nodes]
        stacked = [_concatenate(tree[node] for node in nodes) for tree in (pairs, *others)]
        result = function(*stacked)
        begin = 0
        for node, batch in zip(nodes, batches, strict=True):
            cut = slice(begin, begin + math.prod(batch))
            begin = cut.stop
            results[node] = jax.tree.map(
                lambda array, c=cut, b=batch: array[c].reshape(*b, *array.shape[1:]), result
            )
    return results


def _by_size(
    function: Callable[..., Any], scores: Mapping[str, jax.Array], *others: Mapping[str, Any]
) -> dict[str, Any]:
    """Call a batched function once for all the nodes of one size."""
    results: dict[str, Any] = {}
    for size in sorted({matrix.shape[-1] for matrix in scores.values()}):
        groups = [group for group, matrix in scores.items() if matrix.shape[-1] == size]
        stacked = [_stack(tree[group] for group in groups) for tree in (scores, *others)]
        result = function(*stacked)
        for index, group in enumerate(groups):
            results[group] = jax.tree.map(lambda array, i=index: array[i], result)
    return {group: results[group] for group in scores}


def _stack(trees: Iterable[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _concatenate(trees: Iterable[Any]) -> Any:
    """Concatenate arrays whose first two axes are the pairs of entries, joined into one."""

    def join(*leaves: jax.Array) -> jax.Array:
        flat = [leaf.reshape(-1, *leaf.shape[2:]) for leaf in leaves]
        return jnp.concatenate(flat)

    return jax.tree.map(join, *trees)
