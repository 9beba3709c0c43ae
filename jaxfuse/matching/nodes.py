"""The matchings of a problem, flat and one per node, from and to those of a symmetry's groups.

A group that is indexed by pinned axes has one node for each of their entries: "units[3]". A group
that is indexed by another group is one node whose flat units are all units of all its entries; its
parent is the node of that other group, whose entries move as wholes.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.symmetry.spec import Symmetry


class Node(NamedTuple):
    """One flat matching of a problem.

    Attributes:
        group: the group it belongs to.
        entries: of the pinned axes that index the group, outermost first.
        parent: the node whose entries index it, or None.
        shape: sizes of the groups that index it, outermost first, and its own number of units.
    """

    group: str
    entries: tuple[int, ...]
    parent: str | None
    shape: tuple[int, ...]


def node_name(group: str, entries: Sequence[int]) -> str:
    """Name the node of a group at entries of the pinned axes that index it.

    Examples:
        >>> node_name("units", (3,)), node_name("units", ())
        ('units[3]', 'units')
    """
    return f"{group}[{','.join(map(str, entries))}]" if entries else group


def list_nodes(symmetry: Symmetry) -> dict[str, Node]:
    """Return the nodes of a symmetry by name, in the order of its groups.

    Raises:
        ValueError: if a group is indexed by two groups of which neither indexes the other, or two
            nodes get one name.

    Examples:
        >>> spec = Symmetry((("heads", 4), ("units", 8)), (), over=(("units", ("heads",)),))
        >>> list_nodes(spec)["units"]
        Node(group='units', entries=(), parent='heads', shape=(4, 8))
    """
    groups = symmetry.groups
    nodes: dict[str, Node] = {}
    for group, size in symmetry.sizes:
        contexts = symmetry.contexts(group)
        pinned = [name for name in contexts if name not in groups]
        moving = [name for name in contexts if name in groups]
        _check_nested(symmetry, group, pinned, moving)
        shape = (*(groups[name] for name in moving), size)
        sizes = dict(zip(contexts, symmetry.shape(group), strict=False))
        for entries in itertools.product(*(range(sizes[name]) for name in pinned)):
            name = node_name(group, entries)
            if name in nodes:
                raise ValueError(f"two matchings are named {name!r}: rename group {group!r}")
            parent = None
            if moving:
                at = dict(zip(pinned, entries, strict=True))
                outer = [at[c] for c in symmetry.contexts(moving[-1]) if c not in groups]
                parent = node_name(moving[-1], outer)
            nodes[name] = Node(group, entries, parent, shape)
    return nodes


def nest(symmetry: Symmetry, flat: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Turn flat permutations of nodes into permutations of groups.

    Args:
        symmetry: the groups.
        flat: per node int32 `[N]`, `parent[i] * n + inner[i, a]` at unit a of entry i.

    Returns:
        Per group int32 `symmetry.shape(group)`, as `permute` takes them.
    """
    members: dict[str, list[jax.Array]] = {group: [] for group, _ in symmetry.sizes}
    for name, node in list_nodes(symmetry).items():
        inner = flat[name] % node.shape[-1] if node.parent else flat[name]
        members[node.group].append(inner.reshape(node.shape))
    return {
        group: _order(symmetry, group, jnp.stack(inner)) if symmetry.contexts(group) else inner[0]
        for group, inner in members.items()
    }


def flatten(symmetry: Symmetry, permutations: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Turn permutations of groups into flat permutations of nodes, `nest` turned round.

    Args:
        symmetry: the groups.
        permutations: per group int32 `symmetry.shape(group)`.

    Returns:
        Per node int32 `[N]`.
    """
    nodes = list_nodes(symmetry)
    flat: dict[str, jax.Array] = {}
    for name, node in sorted(nodes.items(), key=lambda item: len(item[1].shape)):
        contexts = symmetry.contexts(node.group)
        entries = iter(node.entries)
        at = [slice(None) if c in symmetry.groups else next(entries) for c in contexts]
        inner = jnp.asarray(permutations[node.group])[tuple(at)].astype(jnp.int32)
        if node.parent:
            size = node.shape[-1]
            inner = flat[node.parent][:, None] * size + inner.reshape(-1, size)
        flat[name] = inner.reshape(math.prod(node.shape))
    return {name: flat[name] for name in nodes}


def _order(symmetry: Symmetry, group: str, stacked: jax.Array) -> jax.Array:
    """Bring permutations `[nodes, moving contexts..., n]` into the order of the contexts."""
    contexts = symmetry.contexts(group)
    shape = symmetry.shape(group)
    moves = [context in symmetry.groups for context in contexts]
    order = sorted(range(len(contexts)), key=lambda index: moves[index])
    viewed = stacked.reshape(*(shape[index] for index in order), shape[-1])
    inverse = [order.index(index) for index in range(len(contexts))]
    return viewed.transpose(*inverse, len(contexts))


def _check_nested(
    symmetry: Symmetry, group: str, pinned: Sequence[str], moving: Sequence[str]
) -> None:
    for depth, context in enumerate(moving):
        outer = symmetry.contexts(context)
        before = [name for name in outer if name in symmetry.groups]
        fits = before == list(moving[:depth]) and set(outer) - set(before) <= set(pinned)
        if not fits:
            raise ValueError(
                f"group {group!r} is indexed by {symmetry.contexts(group)}, and {context!r} by "
                f"{outer}: what indexes a group must be indexed by the groups that stand before "
                "it. Pin one of them"
            )
