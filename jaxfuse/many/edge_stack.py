"""The raw edges of K networks, for scores that compare weights which matchings have moved."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxfuse.affinity.terms import list_terms
from jaxfuse.matching.nodes import list_nodes, node_name
from jaxfuse.networks import Networks
from jaxfuse.symmetry.tree import named_leaves


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EdgeStack:
    """The edges of all tensors of K networks.

    Attributes:
        edges: per tensor `[K, n, m, e]`: n units of its first node, m of its second, or, where it
            has one node, pinned units.
        links: per tensor its one or two nodes.
        sizes: pairs of a node and its number of units.
    """

    edges: tuple[jax.Array, ...]
    links: tuple[tuple[str, ...], ...] = field(metadata={"static": True})
    sizes: tuple[tuple[str, int], ...] = field(metadata={"static": True})

    @property
    def count(self) -> int:
        """Number K of networks."""
        return self.edges[0].shape[0]

    def facing(self, node: str) -> list[tuple[jax.Array, str | None]]:
        """Return the edges `[K, n, m, e]` of a node, each with the node at their other end."""
        faced: list[tuple[jax.Array, str | None]] = []
        for edges, link in zip(self.edges, self.links, strict=True):
            if link[0] == node:
                faced.append((edges, link[1] if len(link) == 2 else None))
            if len(link) == 2 and link[1] == node:
                faced.append((jnp.swapaxes(edges, 1, 2), link[0]))
        return faced


def stack_edges(networks: Networks, method: str) -> EdgeStack:
    """Collect the edges of K networks of one width.

    Args:
        networks: the networks.
        method: its name, for the messages.

    Raises:
        ValueError: for networks of different widths, for a group that another one indexes, and for
            a tensor that joins more than two groups.

    Examples:
        >>> from jaxfuse.symmetry import infer_chain
        >>> params = [jnp.ones((3, 4)), jnp.ones((4, 5)), jnp.ones((5, 2))]
        >>> stack = stack_edges(Networks((params, params), (infer_chain(params),) * 2), "GAMF")
        >>> [edges.shape for edges in stack.edges], stack.links
        ([(2, 4, 3, 1), (2, 4, 5, 1), (2, 5, 2, 1)], (('0',), ('0', '1'), ('1',)))
    """
    networks.check_one_width(method)
    listed = list_nodes(networks.symmetry)
    for name, node in listed.items():
        if node.parent:
            raise ValueError(
                f"the units of {name!r} are indexed by {node.parent!r}, which {method} has no "
                "scores for: use GAMF(), whose scores are gradients, or pin the group"
            )
    leaves = [named_leaves(tree) for tree in networks.params]
    stacked, links = [], []
    for term in list_terms(networks.symmetry):
        link = tuple(node_name(carrier.group, carrier.entries) for carrier in term.carriers)
        if len(link) > 2:
            raise ValueError(
                f"leaf {term.tensor.path!r} joins {len(link)} groups, and {method} compares edges "
                "between two: use GAMF(), whose scores are gradients, or pin a group"
            )
        stacked.append(jnp.stack([term.edges(each[term.tensor.path]) for each in leaves]))
        links.append(link)
    sizes: Sequence[tuple[str, int]] = [(name, node.shape[-1]) for name, node in listed.items()]
    return EdgeStack(tuple(stacked), tuple(links), tuple(sizes))
