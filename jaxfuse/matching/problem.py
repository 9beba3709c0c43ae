"""The matching problem: one differentiable objective over a soft matching of every group."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.affinity.block import HIGHEST, Block, SecondMoment
from jaxfuse.affinity.multilinear import MultilinearBlock, ScoreVariance
from jaxfuse.matching.stacked import Link, stack_slots, tensor_of

PyTree = Any
Scores = dict[str, jax.Array]
Permutations = dict[str, jax.Array]
Backend = Literal["auto", "host", "callback", "jax"]


class Balance(NamedTuple):
    """What becomes of a problem when every tensor is divided by the root of its mean square.

    Attributes:
        nodes: per node the scores, `[n, n]`.
        factors: per block and tensor the reciprocal of its mean square, `[L]`.
    """

    nodes: Scores
    factors: tuple[jax.Array, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """The objective of matching two networks.

    For matchings P, one `[n, n]` matrix per node,
    `J(P) = sum_g <C_g, P_g> + sum_T J_T(P_g, P_h, ...)`: the node terms C_g compare what each unit
    has of its own (biases, edges to inputs and outputs), and a block per tensor T compares the
    edges between two groups, or more. P is a permutation matrix, or doubly stochastic;
    `P[i, j] = 1` says that unit i of A corresponds to unit j of B.

    A node is a group; of a group that is indexed by pinned axes, as in a stack of layers, it is
    one entry. A group that another one indexes, as heads do the units inside them, is one node
    with all units of all entries, `n = entries * units`, and that other's node is its parent:
    where the parent's matching takes entry i to entry j, that of the child takes the units of i to
    those of j. A node with all its descendants is a tree; `jaxfuse.matching.nodes` turns the
    permutations of nodes into those of groups.

    Attributes:
        nodes: per node the scores C_g, float32 `[n, n]`.
        blocks: the affinity blocks of the tensors that join two groups or more. Tensors of one
            shape share a block, whose arrays have a leading axis over them.
        links: per block and tensor its nodes.
        backend: who solves assignments, as in `jaxfuse.hungarian`.
        parents: pairs of a node and its parent, for the nodes that have one.
        balance: what `balanced` needs; None for an affinity that weighs all tensors alike.
        order: the nodes from input to output, as `nodes` has them at first: a dict that goes
            through `jit` or `vmap` comes out sorted by name.
    """

    nodes: Scores
    blocks: tuple[Block | MultilinearBlock, ...]
    links: tuple[tuple[Link, ...], ...] = field(metadata={"static": True})
    backend: Backend = field(default="auto", metadata={"static": True})
    parents: tuple[tuple[str, str], ...] = field(default=(), metadata={"static": True})
    balance: Balance | None = None
    order: tuple[str, ...] | None = field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.order is None:
            object.__setattr__(self, "order", tuple(self.nodes))

    @property
    def sizes(self) -> dict[str, int]:
        """Number of units of every node."""
        return {node: self.nodes[node].shape[-1] for node in self.order or ()}

    @property
    def trees(self) -> tuple[tuple[str, ...], ...]:
        """The nodes, each root with all its descendants; a node without either is a tree too."""
        parents = dict(self.parents)

        def root(node: str) -> str:
            return root(parents[node]) if node in parents else node

        order = self.order or ()
        members: dict[str, list[str]] = {node: [] for node in order if node not in parents}
        for node in order:
            members[root(node)].append(node)
        return tuple(tuple(nodes) for nodes in members.values())

    @property
    def joins(self) -> tuple[Link, ...]:
        """The nodes of every tensor, over all blocks."""
        return tuple(link for links in self.links for link in links)

    @property
    def is_quadratic(self) -> bool:
        """Whether no tensor joins more than two groups, so that the scores are affine in P."""
        return all(len(link) <= 2 for link in self.joins)

    def meets_itself(self, tree: Sequence[str]) -> bool:
        """Tell whether a tensor joins nodes of one tree, so that J is not affine in the tree."""
        return any(sum(node in tree for node in link) > 1 for link in self.joins)

    def objective(self, matching: Mapping[str, jax.Array]) -> jax.Array:
        """Return J at soft matchings `[n, n]`; its gradient are the scores of every node."""
        total = inner(self.nodes, matching)
        for links, block in zip(self.links, self.blocks, strict=True):
            values = jax.vmap(lambda own, *ps: own.value(*ps))(block, *stack_slots(matching, links))
            total += jnp.sum(values)
        return total

    def scores(
        self, matching: Mapping[str, jax.Array], groups: Iterable[str] | None = None
    ) -> Scores:
        """Return dJ/dP `[n, n]` of the named nodes, by default of all, at soft matchings."""
        moving = {group: matching[group] for group in (groups or self.nodes)}
        return jax.grad(lambda part: self.objective({**matching, **part}))(moving)

    def objective_at(
        self, permutations: Mapping[str, jax.Array], groups: Iterable[str] | None = None
    ) -> jax.Array:
        """Return J at permutations, int32 `[n]` each, by gathers alone.

        Of named nodes only the terms that they take part in are summed.
        """
        moving = set(self.nodes if groups is None else groups)
        total = picked(
            self.nodes, {node: permutations[node] for node in self.nodes if node in moving}
        )
        for links, block in zip(self.links, self.blocks, strict=True):
            chosen = [index for index, link in enumerate(links) if moving.intersection(link)]
            if len(chosen) == len(links):
                columns = stack_slots(permutations, links)
                total += jnp.sum(jax.vmap(lambda own, *ps: own.value_at(*ps))(block, *columns))
                continue
            for index in chosen:
                columns = (permutations[node] for node in links[index])
                total += tensor_of(block, index).value_at(*columns)
        return total

    def scores_at(
        self, permutations: Mapping[str, jax.Array], groups: Iterable[str] | None = None
    ) -> Scores:
        """Return dJ/dP of the named nodes, by default of all, at permutations.

        Half the products of `scores`; tensors of one shape are taken together.
        """
        totals = {node: self.nodes[node] for node in (self.nodes if groups is None else groups)}
        for links, block in zip(self.links, self.blocks, strict=True):
            for slot in range(len(links[0])):
                chosen = [index for index, link in enumerate(links) if link[slot] in totals]
                if len(chosen) == len(links):
                    scores = jax.vmap(lambda own, *ps, slot=slot: slot_scores(own, slot, ps))
                    found = scores(block, *stack_slots(permutations, links))
                else:
                    found = [
                        slot_scores(
                            tensor_of(block, index), slot, [permutations[n] for n in links[index]]
                        )
                        for index in chosen
                    ]
                for index, each in zip(chosen, found, strict=True):
                    totals[links[index][slot]] = totals[links[index][slot]] + each
        return totals

    def group_scores(self, group: str, permutations: Mapping[str, jax.Array]) -> jax.Array:
        """Return dJ/dP of one node at permutations."""
        return self.scores_at(permutations, [group])[group]

    def balanced(self) -> "Problem":
        """Return the problem with every tensor divided by the root of its mean square.

        Where networks differ by noise in proportion to each tensor, this weighs the tensors as the
        likelihood does: a search survives more noise than on J itself
        (`benchmarks/planted_recovery.py`).
        """
        if self.balance is None:
            return self
        blocks = tuple(
            jax.vmap(lambda own, by: replace(own, a=own.a * by))(block, factors)
            for block, factors in zip(self.blocks, self.balance.factors, strict=True)
        )
        return replace(self, nodes=self.balance.nodes, blocks=blocks, balance=None)

    def plus(self, pairs: Mapping[str, jax.Array], balanced: Mapping[str, jax.Array]) -> "Problem":
        """Add scores to those of nodes, and what they are worth in the balanced problem."""
        balance = self.balance
        if balance is not None:
            balance = balance._replace(nodes=_added(balance.nodes, balanced))
        return replace(self, nodes=_added(self.nodes, pairs), balance=balance)

    def second_moments(self) -> tuple[SecondMoment | ScoreVariance, ...]:
        """Return how large the affinity is between unrelated edges, per block and tensor."""
        return tuple(jax.vmap(lambda own: own.second_moment())(block) for block in self.blocks)

    def colours(self) -> tuple[tuple[str, ...], ...]:
        """Return the nodes in classes whose trees share no tensor, so that a class moves as one."""
        trees = self.trees
        tree_of = {node: index for index, tree in enumerate(trees) for node in tree}
        neighbours: dict[int, set[int]] = {index: set() for index in range(len(trees))}
        for link in self.joins:
            for index in {tree_of[node] for node in link}:
                neighbours[index].update(tree_of[node] for node in link)
        classes: list[list[int]] = []
        for index in neighbours:
            for members in classes:
                if not neighbours[index].intersection(members):
                    members.append(index)
                    break
            else:
                classes.append([index])
        return tuple(tuple(n for index in members for n in trees[index]) for members in classes)

    def waves(self) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """Return the trees in waves: wave after wave is the same as tree after tree.

        A tree stands in the wave after the last one that holds an earlier tree it shares a tensor
        with. So a residual network has two waves, its stream and all that hangs on it.
        """
        trees = self.trees
        tree_of = {node: index for index, tree in enumerate(trees) for node in tree}
        meets = [{tree_of[node] for node in link} for link in self.joins]
        wave: list[int] = []
        for index in range(len(trees)):
            before = {other for met in meets if index in met for other in met if other < index}
            wave.append(1 + max((wave[other] for other in before), default=-1))
        return tuple(
            tuple(tree for tree, own in zip(trees, wave, strict=True) if own == number)
            for number in range(max(wave, default=-1) + 1)
        )

    def barycentre(self) -> Scores:
        """Return the uniform doubly stochastic matrix of every node."""
        return {group: jnp.full((n, n), 1.0 / n) for group, n in self.sizes.items()}

    def identity(self) -> Permutations:
        """Return the identity permutation of every node."""
        return {group: jnp.arange(n, dtype=jnp.int32) for group, n in self.sizes.items()}


def slot_scores(
    block: Block | MultilinearBlock, slot: int, permutations: Sequence[jax.Array]
) -> jax.Array:
    """Return what a tensor adds to dJ/dP of the node of one slot, at permutations of all."""
    if isinstance(block, MultilinearBlock):
        return block.scores(slot, *permutations)
    p, q = permutations
    return block.column_scores(p) if slot else block.row_scores(q)


def _added(scores: Scores, more: Mapping[str, jax.Array]) -> Scores:
    return {node: own + more[node] if node in more else own for node, own in scores.items()}


def inner(left: Mapping[str, jax.Array], right: Mapping[str, jax.Array]) -> jax.Array:
    """Return the inner product of two dicts of matrices."""
    return sum(
        (jnp.vdot(left[group], right[group], precision=HIGHEST) for group in left),
        start=jnp.float32(0),
    )


def picked(scores: Mapping[str, jax.Array], permutations: Mapping[str, jax.Array]) -> jax.Array:
    """Return the inner product of a dict of scores with permutations, int32 `[..., n]` each."""
    return sum(
        (
            jnp.sum(jnp.take_along_axis(scores[group], columns[..., None], axis=-1))
            for group, columns in permutations.items()
        ),
        start=jnp.float32(0),
    )
