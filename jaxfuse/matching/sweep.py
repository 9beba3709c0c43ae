"""One pass of coordinate ascent over all groups."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.matching.packed import Packed, Stacks
from jaxfuse.matching.problem import Permutations
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import select
from jaxfuse.matching.stacked import pick, put
from jaxfuse.matching.turns import (
    Members,
    Tree,
    Turn,
    stack_members,
    take_turn,
    turn_assign,
    turn_scores,
)


class Move(NamedTuple):
    """What a sweep carries.

    Attributes:
        permutations: int32 `[L, n]` per stack.
        gain: by how much J rose.
        clear: how many units are clear.
        frozen: whether nothing is to move, and only the clear ones are counted.
        known: `[L]` per stack, 0 for nodes whose permutations do not count yet.
    """

    permutations: Stacks
    gain: jax.Array
    clear: jax.Array
    frozen: jax.Array
    known: Stacks

    @classmethod
    def start(
        cls,
        permutations: Stacks,
        *,
        frozen: jax.Array | bool = False,
        blank: jax.Array | bool = False,
    ) -> "Move":
        """Begin a sweep; from a blank one nothing is known of nodes that have not moved."""
        share = jnp.where(blank, 0.0, 1.0)
        known = {key: jnp.full(len(own), share) for key, own in permutations.items()}
        return cls(permutations, jnp.float32(0), jnp.int32(0), jnp.asarray(frozen), known)


Pass = Callable[[Move, jax.Array], Move]


@dataclass(frozen=True)
class Sweep:
    """Reassigns every tree of nodes once, each if that gains.

    Attributes:
        packed: the objective.
        tolerance: relative gain of a tree below which it stays as it is.
    """

    packed: Packed
    tolerance: float

    def forward(self) -> Pass:
        """Return one pass from input to output; adjacent turns of one kind are one loop."""
        packed, problem = self.packed, self.packed.problem
        runs: list[tuple[Turn | Tree, list[Members]]] = []
        for wave in problem.waves():
            alone = [tree for tree in wave if problem.meets_itself(tree)]
            runs += [(tree, []) for tree in alone]
            others = [tree for tree in wave if tree not in alone]
            if not others:
                continue
            turn, members = take_turn(packed, others)
            if runs and runs[-1][0] == turn:
                runs[-1][1].append(members)
            else:
                runs.append((turn, [members]))

        def sweep(move: Move, _: jax.Array) -> Move:
            for turn, members in runs:
                if not isinstance(turn, Turn):
                    move = self._improve_alone(turn, move)
                elif len(members) == 1:
                    move = self._improve(turn, members[0], move)
                else:
                    step = functools.partial(self._step, turn)
                    move = lax.scan(step, move, stack_members(members))[0]
            return move

        return sweep

    def shuffled(self, key: jax.Array) -> Pass:
        """Return one pass in a random order, of the trees one by one."""
        packed, problem = self.packed, self.packed.problem
        kinds: dict[Turn | Tree, list[Members]] = {}
        which = []
        for tree in problem.trees:
            turn, members = tree, Members((), ())
            if not problem.meets_itself(tree):
                turn, members = take_turn(packed, [tree])
            held = kinds.setdefault(turn, [])
            which.append((list(kinds).index(turn), len(held)))
            held.append(members)

        def mover(turn: Turn | Tree, members: Members) -> Callable[[Move, jax.Array], Move]:
            def move_one(move: Move, index: jax.Array) -> Move:
                if not isinstance(turn, Turn):
                    return self._improve_alone(turn, move)
                own = jax.tree.map(lambda every: every[index], members)
                return self._improve(turn, own, move)

            return move_one

        moves = [mover(turn, stack_members(members)) for turn, members in kinds.items()]
        table = jnp.asarray(which, jnp.int32)

        def step(move: Move, one: jax.Array) -> tuple[Move, None]:
            return lax.switch(one[0], moves, move, one[1]), None

        def sweep(move: Move, number: jax.Array) -> Move:
            order = jax.random.permutation(jax.random.fold_in(key, number), table)
            return lax.scan(step, move, order)[0]

        return sweep

    def _step(self, turn: Turn, move: Move, members: Members) -> tuple[Move, None]:
        return self._improve(turn, members, move), None

    def _improve_alone(self, tree: Tree, move: Move) -> Move:
        """Reassign a tree that meets itself, if that gains."""
        permutations, gain = self._improve_itself(tree, self.packed.unpack(move.permutations))
        known = self.packed.unpack(move.known)
        known |= {node: jnp.ones_like(known[node]) for node in tree}
        return move._replace(
            permutations=select(move.frozen, move.permutations, self.packed.pack(permutations)),
            gain=move.gain + jnp.where(move.frozen, 0.0, gain),
            known=self.packed.pack(known),
        )

    def _improve(self, turn: Turn, members: Members, move: Move) -> Move:
        """Reassign the trees of a turn, which share no tensor, each if that gains."""
        scores = turn_scores(self.packed, turn, members, move.permutations, move.known)
        best = turn_assign(self.packed, turn, scores)
        held = {
            key: pick(move.permutations[key], indices)
            for (key, _), indices in zip(turn.counts, members.nodes, strict=True)
        }
        now, then = (turn.by_tree(scores, columns) for columns in (held, best))
        better = (then - now > self.tolerance * jnp.abs(now)) & ~move.frozen
        permutations, known, clear = dict(move.permutations), dict(move.known), move.clear
        for (key, _), indices in zip(turn.counts, members.nodes, strict=True):
            columns = jnp.where(better[turn.tree_of(key)][:, None], best[key], held[key])
            permutations[key] = put(permutations[key], indices, columns)
            known[key] = put(known[key], indices, jnp.ones(len(columns)))
            clear += jnp.sum(jax.vmap(is_clear)(scores[key], columns))
        gain = move.gain + jnp.sum(jnp.where(better, then - now, 0.0))
        return Move(permutations, gain, clear, move.frozen, known)

    def _improve_itself(
        self, tree: Tree, permutations: Permutations
    ) -> tuple[Permutations, jax.Array]:
        """Reassign a tree whose nodes meet in a tensor, if that gains.

        The scores are only the slope. After the tree as a whole, the units of each group are
        matched with what indexes them as it stands.
        """
        problem = self.packed.problem
        parents = dict(problem.parents)
        parts = [tree]
        for node in tree:
            if node in parents:
                parts.append([other for other in tree if _is_below(other, node, parents)])
        first = now = problem.objective_at(permutations, tree)
        for part in parts:
            best = self._propose(part, permutations)
            value = problem.objective_at({**permutations, **best}, tree)
            better = value - now > self.tolerance * jnp.abs(now)
            permutations = {**permutations, **select(better, best, permutations)}
            now = jnp.where(better, value, now)
        return permutations, now - first

    def _propose(self, nodes: Sequence[str], permutations: Permutations) -> Permutations:
        """Assign nodes and all below them by their scores, what is above them fixed."""
        problem = self.packed.problem
        parents = dict(problem.parents)
        scores = problem.scores_at(permutations, nodes)
        above = {parents[node] for node in nodes if node in parents} - set(nodes)
        fixed = {node: permutations[node] for node in above}
        return assign(scores, problem.backend, problem.parents, fixed)


def _is_below(node: str, top: str, parents: Mapping[str, str]) -> bool:
    """Tell whether a node is another, or indexed by it."""
    return node == top or (node in parents and _is_below(parents[node], top, parents))


def is_clear(scores: jax.Array, columns: jax.Array) -> jax.Array:
    """Return whether a unit's match scores above all else in its row and its column, bool `[n]`."""
    matched = jnp.take_along_axis(scores, columns[:, None], axis=1)
    others = jnp.where(jax.nn.one_hot(columns, len(columns), dtype=bool), -jnp.inf, scores)
    rival = jnp.maximum(jnp.max(others, axis=1), jnp.max(others, axis=0)[columns])
    return matched[:, 0] > rival
