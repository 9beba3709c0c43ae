"""The matching problem: one differentiable objective over a soft matching of every group."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from jaxfuse.affinity.block import HIGHEST, Affinity, Block
from jaxfuse.affinity.edges import edges
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import named_leaves

PyTree = Any
Scores = dict[str, jax.Array]
Permutations = dict[str, jax.Array]
Backend = Literal["auto", "host", "callback", "jax"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """The objective of matching two networks.

    For matchings P, one `[n, n]` matrix per group,
    `J(P) = sum_g <C_g, P_g> + sum_T J_T(P_g, P_h)`: the node terms C_g compare what each unit has
    of its own (biases, edges to inputs and outputs), and a block per tensor T compares the edges
    between two groups. P is a permutation matrix, or doubly stochastic; `P[i, j] = 1` says that
    unit i of A corresponds to unit j of B.

    Attributes:
        nodes: per group the scores C_g, float32 `[n, n]`.
        blocks: the affinity blocks, one per tensor that joins two groups.
        links: per block its two groups.
        backend: who solves assignments, as in `jaxfuse.hungarian`.
    """

    nodes: Scores
    blocks: tuple[Block, ...]
    links: tuple[tuple[str, str], ...] = field(metadata={"static": True})
    backend: Backend = field(default="auto", metadata={"static": True})

    @property
    def sizes(self) -> dict[str, int]:
        """Number of units of every group."""
        return {group: scores.shape[-1] for group, scores in self.nodes.items()}

    def objective(self, matching: Mapping[str, jax.Array]) -> jax.Array:
        """Return J at soft matchings `[n, n]`; its gradient are the scores of every group."""
        total = inner(self.nodes, matching)
        for (g, h), block in zip(self.links, self.blocks, strict=True):
            total += block.value(matching[g], matching[h])
        return total

    def scores(
        self, matching: Mapping[str, jax.Array], groups: Iterable[str] | None = None
    ) -> Scores:
        """Return dJ/dP `[n, n]` of the named groups, by default of all, at soft matchings."""
        moving = {group: matching[group] for group in (groups or self.nodes)}
        return jax.grad(lambda part: self.objective({**matching, **part}))(moving)

    def objective_at(self, permutations: Mapping[str, jax.Array]) -> jax.Array:
        """Return J at permutations, int32 `[n]` each, by gathers alone."""
        total = jnp.float32(0)
        for group, scores in self.nodes.items():
            picked = jnp.take_along_axis(scores, permutations[group][:, None], axis=1)
            total += jnp.sum(picked)
        for (g, h), block in zip(self.links, self.blocks, strict=True):
            total += block.value_at(permutations[g], permutations[h])
        return total

    def scores_at(self, permutations: Mapping[str, jax.Array]) -> Scores:
        """Return dJ/dP of every group at permutations: half the products of `scores`."""
        return {group: self.group_scores(group, permutations) for group in self.nodes}

    def group_scores(self, group: str, permutations: Mapping[str, jax.Array]) -> jax.Array:
        """Return dJ/dP of one group at permutations."""
        total = self.nodes[group]
        for (g, h), block in zip(self.links, self.blocks, strict=True):
            if g == group:
                total = total + block.row_scores(permutations[h])
            if h == group:
                total = total + block.column_scores(permutations[g])
        return total

    def colours(self) -> tuple[tuple[str, ...], ...]:
        """Return the groups in classes that share no tensor, so that a class moves as one."""
        neighbours: dict[str, set[str]] = {group: set() for group in self.nodes}
        for g, h in self.links:
            neighbours[g].add(h)
            neighbours[h].add(g)
        classes: list[list[str]] = []
        for group in self.nodes:
            for members in classes:
                if not neighbours[group].intersection(members):
                    members.append(group)
                    break
            else:
                classes.append([group])
        return tuple(tuple(members) for members in classes)

    def barycentre(self) -> Scores:
        """Return the uniform doubly stochastic matrix of every group."""
        return {group: jnp.full((n, n), 1.0 / n) for group, n in self.sizes.items()}

    def identity(self) -> Permutations:
        """Return the identity permutation of every group."""
        return {group: jnp.arange(n, dtype=jnp.int32) for group, n in self.sizes.items()}


def build_problem(
    params_a: PyTree,
    params_b: PyTree,
    symmetry: Symmetry,
    affinity: Affinity,
    backend: Backend = "auto",
) -> Problem:
    """Turn the parameters of two networks into a matching problem.

    Args:
        params_a: the reference network.
        params_b: the network to reorder, of the same shapes.
        symmetry: which axes may be permuted together.
        affinity: how edges are compared.
        backend: who solves assignments, as in `jaxfuse.hungarian`: "jax" makes no callback.

    Returns:
        The problem, in float32 whatever the dtype of the parameters.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.affinity import Linear
        >>> from jaxfuse.symmetry import infer_chain
        >>> params = [jnp.ones((3, 4)), jnp.ones((4, 5)), jnp.ones((5, 2))]
        >>> problem = build_problem(params, params, infer_chain(params), Linear())
        >>> problem.sizes, problem.links
        ({'0': 4, '1': 5}, (('0', '1'),))
    """
    leaves_a, leaves_b = named_leaves(params_a), named_leaves(params_b)
    nodes = {group: jnp.zeros((n, n), jnp.float32) for group, n in symmetry.sizes}
    blocks, links = [], []
    for tensor in symmetry.tensors:
        if tensor.statistic:
            continue
        edges_a = edges(leaves_a[tensor.path], tensor)
        edges_b = edges(leaves_b[tensor.path], tensor)
        chex.assert_equal_shape([edges_a, edges_b])
        groups = [group for group in tensor.groups if group is not None]
        if len(groups) == 1:
            nodes[groups[0]] = nodes[groups[0]] + affinity.node_scores(edges_a, edges_b)
        else:
            blocks.append(affinity.block(edges_a, edges_b))
            links.append((groups[0], groups[1]))
    return Problem(nodes, tuple(blocks), tuple(links), backend)


def inner(left: Mapping[str, jax.Array], right: Mapping[str, jax.Array]) -> jax.Array:
    """Return the inner product of two dicts of matrices."""
    return sum(
        (jnp.vdot(left[group], right[group], precision=HIGHEST) for group in left),
        start=jnp.float32(0),
    )
