"""Nodes that move together, and the turns that are so alike that one program serves them all."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfuse.affinity.block import HIGHEST, Block
from jaxfuse.affinity.multilinear import MultilinearBlock
from jaxfuse.assignment import hungarian
from jaxfuse.matching.packed import Packed, Stacks, spread
from jaxfuse.matching.problem import slot_scores
from jaxfuse.matching.projection import assign
from jaxfuse.matching.stacked import Indices, entries, pick

Tree = Sequence[str]


class Tensors(NamedTuple):
    """Tensors of one block in one of whose slots moving nodes stand.

    Attributes:
        block: the index of the block.
        slot: the slot.
        stack: of the nodes in it.
        positions: per tensor the place of its node among the moving ones of that stack.
    """

    block: int
    slot: int
    stack: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Turn:
    """What is alike in turns of one kind: their program.

    Attributes:
        counts: pairs of a stack and how many of its nodes move.
        tensors: what they take part in.
        trees: per tree the stack and the place of each of its nodes.
        parents: pairs of a node and its parent, each a stack and a place.
    """

    counts: tuple[tuple[str, int], ...]
    tensors: tuple[Tensors, ...]
    trees: tuple[tuple[tuple[str, int], ...], ...]
    parents: tuple[tuple[tuple[str, int], tuple[str, int]], ...]

    def tree_of(self, stack: str) -> np.ndarray:
        """Return the tree of every moving node of a stack, int `[count]`."""
        tree = {place: index for index, places in enumerate(self.trees) for place in places}
        return np.array([tree[stack, i] for i in range(dict(self.counts)[stack])])

    def by_tree(self, scores: Stacks, columns: Stacks) -> jax.Array:
        """Return what permutations pick of the scores, summed over every tree, `[trees]`."""
        total = jnp.zeros(len(self.trees))
        for key, _ in self.counts:
            chosen = jnp.take_along_axis(scores[key], columns[key][..., None], axis=-1)
            own = np.eye(len(self.trees), dtype=np.float32)[self.tree_of(key)]
            total += jnp.dot(jnp.sum(chosen, axis=(-2, -1)), own, precision=HIGHEST)
        return total


class Members(NamedTuple):
    """What differs: per stack the indices of the nodes, and per `Tensors` those of the tensors.

    Tuples of int in the program of one turn, int32 arrays in a program of several.
    """

    nodes: tuple[Indices, ...]
    tensors: tuple[Indices, ...]


def take_turn(problem: Packed, trees: Sequence[Tree]) -> tuple[Turn, Members]:
    """Describe the move of trees that share no tensor."""
    places = {n: (key, i) for key, nodes in problem.members for i, n in enumerate(nodes)}
    moving: dict[str, list[str]] = {}
    for tree in trees:
        for node in tree:
            moving.setdefault(places[node][0], []).append(node)
    local = {node: (key, i) for key, nodes in moving.items() for i, node in enumerate(nodes)}
    tensors, chosen = [], []
    for block, links in enumerate(problem.problem.links):
        for slot in range(len(links[0])):
            indices = tuple(i for i, link in enumerate(links) if link[slot] in local)
            if not indices:
                continue
            positions = tuple(local[links[i][slot]][1] for i in indices)
            stack = local[links[indices[0]][slot]][0]
            tensors.append(Tensors(block, slot, stack, positions))
            chosen.append(indices)
    turn = Turn(
        tuple((key, len(nodes)) for key, nodes in moving.items()),
        tuple(tensors),
        tuple(tuple(local[node] for node in tree) for tree in trees),
        tuple((local[n], local[p]) for n, p in problem.problem.parents if n in local),
    )
    nodes = tuple(tuple(places[n][1] for n in nodes) for nodes in moving.values())
    return turn, Members(nodes, tuple(chosen))


def stack_members(members: Sequence[Members]) -> Members:
    """Put what differs between turns of one kind side by side, int32 `[turns, ...]` each."""
    nodes, tensors = (
        tuple(jnp.asarray(np.array(each, np.int32)) for each in zip(*parts, strict=True))
        for parts in ([m.nodes for m in members], [m.tensors for m in members])
    )
    return Members(nodes, tensors)


def turn_scores(
    problem: Packed, turn: Turn, members: Members, permutations: Stacks, known: Stacks
) -> Stacks:
    """Return dJ/dP of the moving nodes, `[count, n, n]` per stack, at permutations of all.

    Args:
        problem: the objective.
        turn: which nodes move.
        members: their indices and those of their tensors.
        permutations: int32 `[L, n]` per stack.
        known: `[L]` per stack, 0 for nodes whose permutations do not count: tensors that join
            them add nothing.
    """
    totals = {
        key: pick(problem.nodes[key], indices)
        for (key, _), indices in zip(turn.counts, members.nodes, strict=True)
    }
    for tensors, indices in zip(turn.tensors, members.tensors, strict=True):
        places = [
            (place.stack, entries(place.indices, indices))
            for place in problem.places(problem.problem.links[tensors.block])
        ]
        columns = [pick(permutations[stack], nodes) for stack, nodes in places]
        others = [place for slot, place in enumerate(places) if slot != tensors.slot]
        every = jnp.ones(len(tensors.positions))
        share = math.prod((pick(known[stack], nodes) for stack, nodes in others), start=every)
        block = problem.problem.blocks[tensors.block]
        add = functools.partial(_add_scores, block, tensors, indices, columns, share)
        # Where little is known most tensors add nothing.
        total = totals[tensors.stack]
        totals[tensors.stack] = lax.cond(jnp.any(share), add, lambda same: same, total)
    return totals


def _add_scores(
    block: Block | MultilinearBlock,
    tensors: Tensors,
    indices: Indices,
    columns: Sequence[jax.Array],
    share: jax.Array,
    total: jax.Array,
) -> jax.Array:
    """Add what tensors of a block have for the nodes of one slot, each times its share."""
    own = jax.tree.map(lambda array: pick(array, indices), block)
    found = jax.vmap(lambda one, *ps: slot_scores(one, tensors.slot, ps))(own, *columns)
    return total + spread(found * share[:, None, None], tensors.positions, len(total))


def turn_assign(problem: Packed, turn: Turn, scores: Stacks) -> Stacks:
    """Return the best permutations of the moving nodes, int32 `[count, n]` per stack."""
    backend, name = problem.problem.backend, "{}/{}".format
    if not turn.parents:
        return {key: hungarian(own, backend=backend).columns for key, own in scores.items()}
    flat = {name(key, i): scores[key][i] for key, count in turn.counts for i in range(count)}
    parents = [(name(*node), name(*parent)) for node, parent in turn.parents]
    best = assign(flat, backend, parents)
    return {
        key: jnp.stack([best[name(key, i)] for i in range(count)]) for key, count in turn.counts
    }
