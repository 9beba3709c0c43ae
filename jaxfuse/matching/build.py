"""Turn the parameters of two networks into a matching problem."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from jaxfuse.affinity.block import HIGHEST, Affinity, FeatureAffinity
from jaxfuse.affinity.multilinear import multilinear_block
from jaxfuse.affinity.terms import Term, alike_terms, stack_edges
from jaxfuse.matching.nodes import list_nodes, node_name
from jaxfuse.matching.problem import Backend, Balance, Problem, Scores
from jaxfuse.matching.stacked import alike, concatenate, pick
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import named_leaves

PyTree = Any
# Of biases and scales, which have a few entries a unit, all of a node are compared by one product.
_THIN = 8


def build_problem(
    params_a: PyTree,
    params_b: PyTree,
    symmetry: Symmetry,
    affinity: Affinity,
    backend: Backend = "auto",
) -> Problem:
    """Turn the parameters of two networks into a matching problem.

    Tensors of one shape are taken together: the program grows with the shapes, not the layers.

    Args:
        params_a: the reference network.
        params_b: the network to reorder, of the same shapes.
        symmetry: which axes may be permuted together.
        affinity: how edges are compared.
        backend: who solves assignments, as in `jaxfuse.hungarian`: "jax" makes no callback.

    Returns:
        The problem, in float32 whatever the dtype of the parameters.

    Raises:
        ValueError: if a tensor carries a group without what indexes it, and if one that joins more
            than two groups, or two that another indexes in common, meets an affinity without
            features (`ExactGaussian`).

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.affinity import Linear
        >>> from jaxfuse.symmetry import infer_chain
        >>> params = [jnp.ones((3, 4)), jnp.ones((4, 5)), jnp.ones((5, 2))]
        >>> problem = build_problem(params, params, infer_chain(params), Linear())
        >>> problem.sizes, problem.links
        ({'0': 4, '1': 5}, ((('0', '1'),),))
    """
    leaves_a, leaves_b = named_leaves(params_a), named_leaves(params_b)
    listed = list_nodes(symmetry)
    own: list[_Own] = []
    blocks, links, factors = [], [], []
    for terms in _batches(symmetry, affinity):
        a, b = (stack_edges(terms, leaves) for leaves in (leaves_a, leaves_b))
        chex.assert_equal_shape([a, b])
        names = [
            tuple(node_name(carrier.group, carrier.entries) for carrier in term.carriers)
            for term in terms
        ]
        features = None
        if isinstance(affinity, FeatureAffinity):
            features = jax.vmap(affinity.features)(a, b)
        # The order of the entries does not matter, and the edges themselves are not kept.
        factor = jax.vmap(lambda *both: balancing(affinity, *both))(*(features or (a, b)))
        if len(names[0]) == 1:
            own.append(_compare(affinity, [name for (name,) in names], (a, b), features, factor))
            continue
        block = jax.vmap(affinity.block)(a, b)
        if not terms[0].is_pairwise:
            block = jax.vmap(functools.partial(multilinear_block, term=terms[0]))(block)
        blocks.append(block)
        links.append(names)
        factors.append(factor)
    members = alike(blocks, [names[0] for names in links], lead=1)
    sizes = {name: math.prod(node.shape) for name, node in listed.items()}
    nodes, even = _node_scores(sizes, own)
    stacks = concatenate(blocks, members)
    if backend != "jax":
        # A program that is exported, which that backend is for, can't hold what fixes a layout.
        stacks = jax.tree.map(_in_order, stacks)
    return Problem(
        nodes,
        stacks,
        tuple(tuple(link for index in chosen for link in links[index]) for chosen in members),
        backend,
        tuple((name, node.parent) for name, node in listed.items() if node.parent),
        Balance(even, concatenate(factors, members)) if hasattr(affinity, "mean_square") else None,
    )


def balancing(affinity: Affinity, *edges: jax.Array) -> jax.Array:
    """Return the reciprocal of a tensor's mean square; 1 for an affinity that has no scale."""
    mean_square = getattr(affinity, "mean_square", None)
    if mean_square is None:
        return jnp.float32(1)
    square = mean_square(*edges)
    return 1 / jnp.where(square > 0, square, 1.0)


def _batches(symmetry: Symmetry, affinity: Affinity) -> list[tuple[Term, ...]]:
    batches = alike_terms(symmetry)
    if getattr(affinity, "batched", True):
        return batches
    return [(term,) for terms in batches for term in terms]


def _in_order(array: jax.Array) -> jax.Array:
    """Lay an array out in the order of its axes.

    Left to itself XLA would keep the order of the parameters, and transpose at every product.
    """
    return with_layout_constraint(array, Layout(major_to_minor=tuple(range(array.ndim))))


class _Own(NamedTuple):
    """What some nodes have of their own in tensors of one shape.

    Attributes:
        nodes: the node of every tensor.
        features: of A's units and of B's, flat, `[tensors, n, r]`; None where there are many.
        scores: `[tensors, n, n]`, where there are no features, or many.
        factors: what the balanced problem multiplies the scores with, `[tensors]`.
    """

    nodes: Sequence[str]
    features: tuple[jax.Array, jax.Array] | None
    scores: jax.Array | None
    factors: jax.Array


def _compare(
    affinity: Affinity,
    nodes: Sequence[str],
    edges: tuple[jax.Array, jax.Array],
    features: tuple[jax.Array, ...] | None,
    factors: jax.Array,
) -> _Own:
    if features is not None:
        flat_a, flat_b = (each.reshape(*each.shape[:2], -1) for each in features)
        if flat_a.shape[-1] <= _THIN:
            return _Own(nodes, (flat_a, flat_b), None, factors)
        scores = jnp.einsum("tnk,tmk->tnm", flat_a, flat_b, precision=HIGHEST)
        return _Own(nodes, None, scores, factors)
    return _Own(nodes, None, jax.vmap(affinity.node_scores)(*edges), factors)


def _node_scores(sizes: Mapping[str, int], own: Sequence[_Own]) -> tuple[Scores, Scores]:
    """Return the scores `[n, n]` of every node, and those of the balanced problem."""
    tensors: dict[str, dict[int, list[int]]] = {name: {} for name in sizes}
    for which, each in enumerate(own):
        for index, node in enumerate(each.nodes):
            tensors[node].setdefault(which, []).append(index)
    # Nodes that have as many tensors of every shape are compared together.
    kinds: dict[object, list[str]] = {}
    for node, found in tensors.items():
        counts = tuple((which, len(indices)) for which, indices in found.items())
        kinds.setdefault((sizes[node], counts), []).append(node)
    plain, balanced = {}, {}
    for members in kinds.values():
        zero = jnp.zeros((len(members), *[sizes[members[0]]] * 2), jnp.float32)
        both, thin = (zero, zero), []
        for which in tensors[members[0]]:
            indices = [index for node in members for index in tensors[node][which]]
            scores, weights = own[which].scores, own[which].factors
            weights = pick(weights, indices).reshape(len(members), -1)
            features = own[which].features
            if features is not None:
                thin.append(
                    (*(_by_node(pick(f, indices), len(members)) for f in features), weights)
                )
                continue
            assert scores is not None
            scores = pick(scores, indices)
            scores = scores.reshape(len(members), -1, *scores.shape[1:])
            weighted = scores * weights[:, :, None, None]
            both = (both[0] + jnp.sum(scores, axis=1), both[1] + jnp.sum(weighted, axis=1))
        if thin:
            both = [each + more for each, more in zip(both, _products(thin), strict=True)]
        for index, node in enumerate(members):
            plain[node], balanced[node] = (each[index] for each in both)
    return {name: plain[name] for name in sizes}, {name: balanced[name] for name in sizes}


def _by_node(features: jax.Array, count: int) -> jax.Array:
    """Arrange features of tensors `[tensors, n, r]` by node, `[count, n, tensors of one, r]`."""
    return features.reshape(count, -1, *features.shape[1:]).swapaxes(1, 2)


def _products(
    parts: Sequence[tuple[jax.Array, jax.Array, jax.Array]],
) -> tuple[jax.Array, jax.Array]:
    """Return the sum over tensors of the inner products of features, plain and balanced."""
    rows, evened, columns = [], [], []
    for a, b, weights in parts:
        flat = (len(a), a.shape[1], -1)
        rows.append(a.reshape(flat))
        evened.append((a * weights[:, None, :, None]).reshape(flat))
        columns.append(b.reshape(flat))
    b = jnp.concatenate(columns, axis=-1)
    plain, balanced = (
        jnp.einsum("lnk,lmk->lnm", jnp.concatenate(a, axis=-1), b, precision=HIGHEST)
        for a in (rows, evened)
    )
    return plain, balanced
