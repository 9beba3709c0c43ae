"""Permutations of units by the correlation of what they do, all networks to the first."""

import math
from collections.abc import Iterable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxfuse.activations.moments import Moments, Role, measure_moments
from jaxfuse.correspondence import Correspondence
from jaxfuse.many.problem import Orders
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.matching.problem import Backend
from jaxfuse.matching.projection import assign
from jaxfuse.networks import Networks
from jaxfuse.status import Status, is_concrete
from jaxfuse.symmetry.spec import Symmetry

Tree = TypeVar("Tree")

# Units whose activations can't tell them apart, dead ones say, keep the order they have.
_TIE = 1e-5


def nested_nodes(symmetry: Symmetry) -> frozenset[str]:
    """Return the nodes that index others or are indexed by them, as heads and their units.

    Examples:
        >>> spec = Symmetry((("heads", 4), ("units", 8), ("mlp", 9)), (), (("units", ("heads",)),))
        >>> sorted(nested_nodes(spec))
        ['heads', 'units']
    """
    nodes = list_nodes(symmetry)
    parents = {node.parent for node in nodes.values() if node.parent}
    return frozenset(name for name, node in nodes.items() if node.parent or name in parents)


def measure_shown(networks: Networks, role: Role, batch_size: int | None, method: str) -> Moments:
    """Measure joint moments at one side of the nonlinearities, of every group that layers show.

    Groups that are not seen there are measured at the other side: no layer takes queries and keys,
    and none computes an input that is permuted.

    Raises:
        ValueError: for a group that no activation shows.
    """
    moments = measure_moments(networks, role=role, batch_size=batch_size)
    if set(list_nodes(networks.symmetry)) - set(moments.sites):
        other = measure_moments(
            networks, role="output" if role == "input" else "input", batch_size=batch_size
        )
        widths = {**dict(other.widths), **dict(moments.widths)}
        moments = Moments({**other.sites, **moments.sites}, tuple(widths.items()))
    check_shown(moments, networks, method)
    return moments


def check_shown(moments: Moments, networks: Networks, method: str) -> None:
    """Refuse groups whose units no activation shows, for a method that compares nothing else.

    Raises:
        ValueError: with the group and the remedy.
    """
    nodes = list_nodes(networks.symmetry)
    parents = {node.parent for node in nodes.values()}
    for name, node in nodes.items():
        if name not in moments.sites and name not in parents:
            raise ValueError(
                f"no activation shows the units of group {node.group!r} (node {name!r}), and "
                f"{method} compares nothing else: get the symmetry by infer_symmetry, whose groups "
                f"are looked for, pin the group, symmetry.pin({node.group!r}), or match by weights"
            )


def match_correlated(
    moments: Moments, networks: Networks, nodes: Iterable[str], backend: Backend = "auto"
) -> Orders:
    """Permute units so that their activations correlate most with those of the first network.

    The activation matching of Git Re-Basin (Ainsworth et al., ICLR 2023, section 3.1) by
    correlation. Heads and the units in them are matched together, by the units.

    Args:
        moments: joint moments of the networks.
        networks: the networks.
        nodes: which nodes; of those that hang together all or none.
        backend: who solves assignments, as in `jaxfuse.hungarian`.

    Returns:
        Per node orders int32 `[K, n]`, as `jaxfuse.correspondence.Correspondence` has them.

    Raises:
        ValueError: if such a node has other sizes in other networks.

    Not differentiable.
    """
    listed = [list_nodes(symmetry) for symmetry in networks.symmetries]
    joint = dict(moments.widths)
    wanted = list(nodes)
    rows: dict[str, list[jax.Array]] = {}
    for node in wanted:
        shapes = [each[node].shape for each in listed]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"the units of {node!r} are permuted, which needs one width, and the networks have "
                f"{shapes}: it indexes another group, or is indexed by one. Pin one of them, "
                "symmetry.pin(...)"
            )
        rows[node] = [jnp.arange(math.prod(shapes[0]), dtype=jnp.int32)]
    correlation = {node: moments.correlation(node) for node in wanted if node in joint}
    parents = [
        (name, node.parent)
        for name, node in listed[0].items()
        if node.parent and name in rows and node.parent in rows
    ]
    for k in range(1, networks.count):
        scores = {}
        for node in wanted:
            scores[node] = _TIE * jnp.eye(len(rows[node][0]))
            if node in joint:
                scores[node] += moments.between(node, correlation[node], 0, k)
        for node, columns in assign(scores, backend, parents).items():
            rows[node].append(columns)
    return {node: jnp.stack(each) for node, each in rows.items()}


def only_finite(tree: Tree) -> tuple[Tree, jax.Array]:
    """Return a tree of arrays, or ones where any is NaN or infinite, and whether all are finite.

    Examples:
        >>> tree, finite = only_finite([jnp.ones(2), jnp.array([jnp.nan])])
        >>> [leaf.tolist() for leaf in tree], bool(finite)
        ([[1.0, 1.0], [1.0]], False)
    """
    finite = jnp.bool_(True)
    for leaf in jax.tree.leaves(tree):
        finite &= jnp.all(jnp.isfinite(leaf))
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, 1), tree), finite


def refuse_non_finite(found: Correspondence) -> Correspondence:
    """Return what was found; outside jit raise where the status is NON_FINITE.

    Raises:
        ValueError: as said.
    """
    if is_concrete(found.status) and int(found.status) == Status.NON_FINITE:
        raise ValueError(f"weights or activations: {Status.NON_FINITE.message}")
    return found
