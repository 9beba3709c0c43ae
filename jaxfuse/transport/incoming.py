"""What computes the units of a node: the vectors that layer-by-layer methods compare."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.affinity.terms import Term, list_terms
from jaxfuse.matching.nodes import list_nodes, node_name
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import named_leaves
from jaxfuse.transport.carriers import computes

PyTree = Any


class Incoming(NamedTuple):
    """What computes the n units of a node, from the inputs that are matched so far.

    Attributes:
        weights: entries of kernels, `[n, d]`.
        vectors: numbers of the unit itself, its bias and scale, `[n, v]`.
    """

    weights: jax.Array
    vectors: jax.Array

    @property
    def joined(self) -> jax.Array:
        """Both side by side, `[n, d + v]`."""
        return jnp.concatenate([self.weights, self.vectors], axis=1)


def describe_units(
    params: PyTree, symmetry: Symmetry, node: str, back: Mapping[str, jax.Array | None]
) -> Incoming:
    """Describe the units of a node by all that computes them.

    Args:
        params: the parameters.
        symmetry: its groups, none of which another one indexes.
        node: the node.
        back: per node that is matched already `[m, M]`: a kernel that takes its units is multiplied
            by it, so that its inputs are the common units; None for units that are common already.
            Kernels that take units of any other node are left out: blocks further on that write to
            the same residual stream.

    Returns:
        The description, float32. Running statistics are no part of it.

    Examples:
        >>> params = {"in": jnp.ones((3, 4)), "bias": jnp.ones(4), "out": jnp.ones((4, 2))}
        >>> axes = {"in": (None, "h"), "bias": ("h",), "out": ("h", None)}
        >>> described = describe_units(params, Symmetry.from_axes(axes, params), "h", {})
        >>> described.weights.shape, described.vectors.shape
        ((4, 3), (4, 1))
    """
    leaves = named_leaves(params)
    weights, vectors = [], []
    for term, slot in _computing(symmetry)[node]:
        others = [name for index, name in enumerate(_names(term)) if index != slot]
        if all(name in back for name in others):
            described = _arrange(term, slot, leaves[term.tensor.path], back)
            (vectors if described.shape[1] == 1 and not others else weights).append(described)
    empty = jnp.zeros((symmetry.groups[list_nodes(symmetry)[node].group], 0))
    return Incoming(
        jnp.concatenate([empty, *weights], axis=1), jnp.concatenate([empty, *vectors], axis=1)
    )


def order_nodes(symmetry: Symmetry) -> list[str]:
    """Order the nodes so that each is computed from earlier ones, where that can be.

    The order is that of the symmetry, but a node waits while all its kernels take units of nodes
    that still wait themselves.

    Raises:
        ValueError: if no leaf computes the units of a node.

    Examples:
        >>> params = {"1": jnp.ones((4, 5)), "0": jnp.ones((3, 4))}
        >>> order_nodes(Symmetry.from_axes({"1": ("a", "b"), "0": (None, "a")}, params))
        ['a', 'b']
    """
    computing = _computing(symmetry)
    waiting, ordered = list(computing), []
    for node, terms in computing.items():
        if not terms:
            raise ValueError(
                f"no leaf computes the units of {node!r} (TensorAxes.output), and layer by layer "
                "they are compared by what computes them: pin the group (Symmetry.pin), or use a "
                "symmetry that tells"
            )

    def is_ready(node: str) -> bool:
        return any(
            all(name in ordered for index, name in enumerate(_names(term)) if index != slot)
            for term, slot in computing[node]
            if len(term.carriers) > 1 or term.tensor.output is not None
        )

    while waiting:
        following = next(filter(is_ready, waiting), waiting[0])
        waiting.remove(following)
        ordered.append(following)
    return ordered


def _computing(symmetry: Symmetry) -> dict[str, list[tuple[Term, int]]]:
    """Return per node the terms that compute its units, each with the place of its carrier."""
    found: dict[str, list[tuple[Term, int]]] = {node: [] for node in list_nodes(symmetry)}
    for term in list_terms(symmetry):
        for slot, (node, carrier) in enumerate(zip(_names(term), term.carriers, strict=True)):
            if computes(symmetry, term.tensor, carrier.axes[-1]):
                found[node].append((term, slot))
    return found


def _names(term: Term) -> list[str]:
    return [node_name(carrier.group, carrier.entries) for carrier in term.carriers]


def _arrange(term: Term, slot: int, leaf: Any, back: Mapping[str, jax.Array | None]) -> jax.Array:
    """Return the edges of a term as `[n, d]`, its other carriers in common units."""
    edges = term.edges(leaf)
    if len(term.carriers) == 1:
        return edges.reshape(edges.shape[0], -1)
    sizes = [term.tensor.shape[carrier.axes[-1]] for carrier in term.carriers]
    edges = edges.reshape(*sizes, -1)
    for place, name in enumerate(_names(term)):
        matrix = back[name] if place != slot else None
        if matrix is not None:
            moved = jnp.tensordot(edges, matrix, axes=(place, 0), precision=HIGHEST)
            edges = jnp.moveaxis(moved, -1, place)
    return jnp.moveaxis(edges, slot, 0).reshape(sizes[slot], -1)
