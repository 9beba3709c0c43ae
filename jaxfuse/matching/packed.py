"""A problem whose nodes of one size stand side by side: programs do not grow with their number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.affinity.block import HIGHEST, Block
from jaxfuse.affinity.multilinear import MultilinearBlock
from jaxfuse.assignment import hungarian, sinkhorn
from jaxfuse.matching.problem import Problem, inner, picked, slot_scores
from jaxfuse.matching.projection import assign, cold_potentials, soften
from jaxfuse.matching.stacked import Link

Stacks = dict[str, jax.Array]


class Place(NamedTuple):
    """Where the nodes of one slot of a block stand: the stack, and per tensor the index in it."""

    stack: str
    indices: tuple[int, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """The objective of a `Problem`, of stacks of nodes of one size.

    Values of all nodes are a dict of stacks, `[L, ...]` for the L nodes of a size. An operation on
    all nodes is one on every stack, and a solver is compiled once for a size and a shape of
    tensors, however many layers have them.

    Attributes:
        problem: what is packed.
        nodes: per stack the scores of its nodes, `[L, n, n]`.
        members: per stack the names of its nodes.
    """

    problem: Problem
    nodes: Stacks
    members: tuple[tuple[str, tuple[str, ...]], ...] = field(metadata={"static": True})

    @classmethod
    def of(cls, problem: Problem) -> "Packed":
        """Pack a problem."""
        members: dict[str, list[str]] = {}
        for node, size in problem.sizes.items():
            members.setdefault(str(size), []).append(node)
        listed = tuple((key, tuple(nodes)) for key, nodes in members.items())
        stacks = {key: jnp.stack([problem.nodes[n] for n in nodes]) for key, nodes in listed}
        return cls(problem, stacks, listed)

    def pack(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Stack what every node has: arrays, or trees of arrays, of one shape for one size."""
        return {
            key: jax.tree.map(lambda *own: jnp.stack(own), *(values[node] for node in nodes))
            for key, nodes in self.members
        }

    def unpack(self, stacks: Mapping[str, Any]) -> dict[str, Any]:
        """Return what every node has, in the order of the problem."""
        values = {
            node: jax.tree.map(lambda stack, i=index: stack[i], stacks[key])
            for key, nodes in self.members
            for index, node in enumerate(nodes)
        }
        return {node: values[node] for node in self.problem.sizes}

    def objective(self, matching: Stacks) -> jax.Array:
        """Return J at soft matchings `[L, n, n]`; its gradient are the scores."""
        total = inner(self.nodes, matching)
        for links, block in zip(self.problem.links, self.problem.blocks, strict=True):
            values = jax.vmap(lambda own, *ps: own.value(*ps))(block, *self.slots(matching, links))
            total += jnp.sum(values)
        return total

    def scores(self, matching: Stacks) -> Stacks:
        """Return dJ/dP `[L, n, n]` at soft matchings."""
        return jax.grad(self.objective)(matching)

    def objective_at(self, permutations: Stacks) -> jax.Array:
        """Return J at permutations int32 `[L, n]`, by gathers alone."""
        total = picked(self.nodes, permutations)
        for links, block in zip(self.problem.links, self.problem.blocks, strict=True):
            columns = self.slots(permutations, links)
            total += jnp.sum(jax.vmap(lambda own, *ps: own.value_at(*ps))(block, *columns))
        return total

    def scores_at(self, permutations: Stacks) -> Stacks:
        """Return dJ/dP `[L, n, n]` at permutations int32 `[L, n]`."""
        totals = dict(self.nodes)
        for links, block in zip(self.problem.links, self.problem.blocks, strict=True):
            columns = self.slots(permutations, links)
            for slot in range(len(columns)):
                found = _all_slot_scores(block, slot, columns)
                totals = self.add(totals, links, slot, found)
        return totals

    def slots(self, values: Stacks, links: Sequence[Link]) -> tuple[jax.Array, ...]:
        """Return per slot of a block the values of its nodes, `[tensors, ...]`."""
        return tuple(_take(values[p.stack], p.indices) for p in self.places(links))

    def add(self, totals: Stacks, links: Sequence[Link], slot: int, found: jax.Array) -> Stacks:
        """Add what the tensors of a block have for the nodes of one slot, `[tensors, ...]`."""
        stack, indices = self.places(links)[slot]
        return {**totals, stack: totals[stack] + spread(found, indices, len(totals[stack]))}

    def assign(self, scores: Stacks) -> Stacks:
        """Return the best permutations, int32 `[L, n]`."""
        backend, parents = self.problem.backend, self.problem.parents
        if not parents:
            return {key: hungarian(own, backend=backend).columns for key, own in scores.items()}
        return self.pack(assign(self.unpack(scores), backend, parents))

    def cold_potentials(self) -> dict[str, Any]:
        """Return the potentials that `soften` starts from."""
        cold = cold_potentials(self.problem.sizes, self.problem.parents)
        return cold if self.problem.parents else self.pack(cold)

    def soften(
        self, scores: Stacks, tau: Stacks, potentials: Mapping[str, Any], iterations: int
    ) -> tuple[Stacks, dict[str, Any]]:
        """Return the doubly stochastic matrices at temperatures `[L]`, and their potentials."""
        if self.problem.parents:
            taus = self.unpack(tau)
            found = soften(self.unpack(scores), taus, potentials, iterations, self.problem.parents)
            return self.pack(found[0]), found[1]
        plans, ended = {}, {}
        for key, own in scores.items():
            result = sinkhorn(own, tau[key], iterations=iterations, initial=potentials[key])
            plans[key], ended[key] = result.plan, result.potentials
        return plans, ended

    def places(self, links: Sequence[Link]) -> tuple[Place, ...]:
        """Return per slot of a block where the nodes of its tensors stand."""
        found = {node: (key, i) for key, nodes in self.members for i, node in enumerate(nodes)}
        # Tensors of one block have one shape, so the nodes of a slot have one size.
        return tuple(
            Place(found[names[0]][0], tuple(found[name][1] for name in names))
            for names in zip(*links, strict=True)
        )


def _all_slot_scores(
    block: Block | MultilinearBlock, slot: int, columns: Sequence[jax.Array]
) -> jax.Array:
    return jax.vmap(lambda own, *ps: slot_scores(own, slot, ps))(block, *columns)


def _take(stack: jax.Array, indices: Sequence[int]) -> jax.Array:
    """Take entries of a stack: a product where the values are real, whose slope is one too."""
    if tuple(indices) == tuple(range(len(stack))):
        return stack
    if len(set(indices)) == 1:
        return jnp.broadcast_to(stack[indices[0]], (len(indices), *stack.shape[1:]))
    if not jnp.issubdtype(stack.dtype, jnp.floating):
        return stack[np.asarray(indices)]
    return jnp.tensordot(_one_hot(indices, len(stack)), stack, axes=1, precision=HIGHEST)


def spread(values: jax.Array, indices: Sequence[int], count: int) -> jax.Array:
    """Sum entries into a stack of `count`."""
    if tuple(indices) == tuple(range(count)):
        return values
    return jnp.tensordot(_one_hot(indices, count).T, values, axes=1, precision=HIGHEST)


def _one_hot(indices: Sequence[int], count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[np.asarray(indices)]
