"""Coordinate ascent: Git Re-Basin's weight matching, one group at a time."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.matching.packed import Packed, Stacks
from jaxfuse.matching.problem import Permutations, Problem
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import Matching, Proposal, keep_better, select
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

_GAIN = 1e-6


@jax.tree_util.register_static
@dataclass(frozen=True)
class CoordinateAscent:
    """Solve the assignment of one group with all others fixed, group after group, until none gains.

    Algorithm 1 of Git Re-Basin (Ainsworth et al., ICLR 2023). Monotone, and quick to stop: it ends
    at the first matching that no single group can improve, and its result depends on the order.
    Groups that index one another, as heads and the units inside them, are solved together.

    Attributes:
        max_sweeps: most passes over all groups (100, as the released code).
        order: "forward" takes the groups from input to output; "random" takes a new order every
            sweep, as the paper does, and needs a key.
        tolerance: relative gain of a group below which it stays as it is.
        start: "identity", as published, or "known": in the first sweep a group answers only to
            those that have been matched before it, and tensors that join it to others add nothing.
            On planted pairs that ended higher in two cases of three and lower in none, and the
            first sweep costs half; it is how `Portfolio` opens. A start that is passed to `solve`
            counts as known.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.matching.problem import Problem
        >>> problem = Problem({"h": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, (), ())
        >>> CoordinateAscent().solve(problem).permutations["h"]
        Array([1, 0], dtype=int32)
    """

    max_sweeps: int = 100
    order: Literal["forward", "random"] = "forward"
    tolerance: float = _GAIN
    start: Literal["identity", "known"] = "identity"

    def __post_init__(self) -> None:
        if self.order not in ("forward", "random") or self.max_sweeps < 0:
            raise ValueError(f"order is 'forward' or 'random', max_sweeps not negative: got {self}")
        if self.start not in ("identity", "known"):
            raise ValueError(f"start is 'identity' or 'known', got {self.start!r}")

    def solve(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> Matching:
        """Match from the identity, or from the rounded start."""
        ascent = self.climb(problem, start, key)
        kept = keep_better(problem, ascent.permutations, ~ascent.gained)
        return Matching(*kept, ascent.trace, ascent.sweep)

    def climb(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> "Ascent":
        """Climb from the identity, or from the rounded start, until no group gains."""
        if start is None:
            permutations = problem.identity()
        else:
            permutations = assign(start, problem.backend, problem.parents)
        blank = start is None and self.start == "known"
        value = problem.objective_at(permutations)
        return self.ascend(problem, permutations, key, value, blank=blank)

    def ascend(
        self,
        problem: Problem,
        permutations: Permutations,
        key: jax.Array | None = None,
        objective: jax.Array | float = 0.0,
        *,
        blank: bool = False,
    ) -> "Ascent":
        """Climb from permutations until no group gains.

        Args:
            problem: the objective.
            permutations: int32 `[n]` per node.
            key: of the random order.
            objective: J at the start, to which the trace adds the gains.
            blank: whether the permutations mean nothing yet, as with `start="known"`.

        Raises:
            ValueError: if the order is random and there is no key.
        """
        packed = Packed.of(problem)
        sweep = self.sweep(packed, key)

        def step(state: Ascent) -> Ascent:
            first = (state.sweep == 0) & blank
            done = sweep(Move.start(state.permutations, blank=first), state.sweep)
            # The gains of a blank sweep are not those of J.
            value = packed.objective_at(done.permutations) if blank else state.objective + done.gain
            ahead = jnp.arange(self.max_sweeps) >= state.sweep
            trace = jnp.where(ahead, value, state.trace)
            clear = done.clear / sum(problem.sizes.values())
            gained = (done.gain > 0) | first
            return Ascent(done.permutations, value, trace, state.sweep + 1, gained, clear)

        begin = jnp.asarray(objective, jnp.float32)
        first = Ascent(
            packed.pack(permutations),
            begin,
            jnp.full(self.max_sweeps, begin),
            jnp.int32(0),
            jnp.bool_(True),
            jnp.float32(0),
        )
        last = lax.while_loop(
            lambda state: state.gained & (state.sweep < self.max_sweeps), step, first
        )
        return last._replace(permutations=packed.unpack(last.permutations))

    def sweep(self, packed: Packed, key: jax.Array | None = None) -> "Sweep":
        """Return one pass over all groups, as a function of the state and of the sweep's number.

        Raises:
            ValueError: if the order is random and there is no key.
        """
        if self.order == "forward":
            return self._forward(packed)
        if key is None:
            raise ValueError(
                "CoordinateAscent(order='random') needs key=jax.random.key(seed), and as a polish "
                "it gets none: use order='forward' there"
            )
        return self._shuffled(packed, key)

    def _forward(self, packed: Packed) -> "Sweep":
        """Return one pass from input to output; adjacent turns of one kind are one loop."""
        problem = packed.problem
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
                    move = self._improve_alone(packed, turn, move)
                elif len(members) == 1:
                    move = self._improve(packed, turn, members[0], move)
                else:
                    step = functools.partial(self._step, packed, turn)
                    move = lax.scan(step, move, stack_members(members))[0]
            return move

        return sweep

    def _shuffled(self, packed: Packed, key: jax.Array) -> "Sweep":
        """Return one pass in a random order, of the trees one by one."""
        problem = packed.problem
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
                    return self._improve_alone(packed, turn, move)
                own = jax.tree.map(lambda every: every[index], members)
                return self._improve(packed, turn, own, move)

            return move_one

        moves = [mover(turn, stack_members(members)) for turn, members in kinds.items()]
        table = jnp.asarray(which, jnp.int32)

        def step(move: Move, one: jax.Array) -> tuple[Move, None]:
            return lax.switch(one[0], moves, move, one[1]), None

        def sweep(move: Move, number: jax.Array) -> Move:
            order = jax.random.permutation(jax.random.fold_in(key, number), table)
            return lax.scan(step, move, order)[0]

        return sweep

    def _step(
        self, packed: Packed, turn: Turn, move: "Move", members: Members
    ) -> tuple["Move", None]:
        return self._improve(packed, turn, members, move), None

    def _improve_alone(self, packed: Packed, tree: Tree, move: "Move") -> "Move":
        """Reassign a tree that meets itself, if that gains."""
        held = packed.unpack(move.permutations)
        permutations, gain = self._improve_itself(packed.problem, tree, held)
        moved = packed.pack(permutations)
        return move._replace(
            permutations=select(move.frozen, move.permutations, moved),
            gain=move.gain + jnp.where(move.frozen, 0.0, gain),
        )

    def _improve(self, packed: Packed, turn: Turn, members: Members, move: "Move") -> "Move":
        """Reassign the trees of a turn, which share no tensor, each if that gains."""
        scores = turn_scores(packed, turn, members, move.permutations, move.known)
        best = turn_assign(packed, turn, scores)
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
        self, problem: Problem, tree: Sequence[str], permutations: Permutations
    ) -> tuple[Permutations, jax.Array]:
        """Reassign a tree whose nodes meet in a tensor, if that gains.

        The scores are only the slope. After the tree as a whole, the units of each group are
        matched with what indexes them as it stands.
        """
        parents = dict(problem.parents)
        parts = [tree]
        for node in tree:
            if node in parents:
                parts.append([other for other in tree if _is_below(other, node, parents)])
        first = now = problem.objective_at(permutations, tree)
        for part in parts:
            best = self._propose(problem, part, permutations)
            value = problem.objective_at({**permutations, **best}, tree)
            better = value - now > self.tolerance * jnp.abs(now)
            permutations = {**permutations, **select(better, best, permutations)}
            now = jnp.where(better, value, now)
        return permutations, now - first

    def _propose(
        self, problem: Problem, nodes: Sequence[str], permutations: Permutations
    ) -> Permutations:
        """Assign nodes and all below them by their scores, what is above them fixed."""
        parents = dict(problem.parents)
        scores = problem.scores_at(permutations, nodes)
        above = {parents[node] for node in nodes if node in parents} - set(nodes)
        fixed = {node: permutations[node] for node in above}
        return assign(scores, problem.backend, problem.parents, fixed)


def _is_below(node: str, top: str, parents: Mapping[str, str]) -> bool:
    """Tell whether a node is another, or indexed by it."""
    return node == top or (node in parents and _is_below(parents[node], top, parents))


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


Sweep = Callable[[Move, jax.Array], Move]


class Ascent(NamedTuple):
    """State of the loop.

    Attributes:
        permutations: int32 `[n]` per node.
        objective: J.
        trace: J after every sweep.
        sweep: their number.
        gained: whether the last one gained.
        clear: share of the units that were clear when their turn came in it (`is_clear`); those of
            trees that meet themselves do not count.
    """

    permutations: Permutations
    objective: jax.Array
    trace: jax.Array
    sweep: jax.Array
    gained: jax.Array
    clear: jax.Array


def is_clear(scores: jax.Array, columns: jax.Array) -> jax.Array:
    """Return whether a unit's match scores above all else in its row and its column, bool `[n]`."""
    matched = jnp.take_along_axis(scores, columns[:, None], axis=1)
    others = jnp.where(jax.nn.one_hot(columns, len(columns), dtype=bool), -jnp.inf, scores)
    rival = jnp.maximum(jnp.max(others, axis=1), jnp.max(others, axis=0)[columns])
    return matched[:, 0] > rival


def finish(problem: Problem, found: Proposal, polish: CoordinateAscent | None) -> Matching:
    """Polish a matching, if asked to, and put it up against the identity.

    A polished matching is finished when the polish is: a local optimum, however it was reached.
    """
    permutations, finished = found.permutations, found.finished
    if polish is not None:
        ascent = polish.ascend(problem, permutations)
        permutations, finished = ascent.permutations, ~ascent.gained
    kept = keep_better(problem, permutations, jnp.asarray(finished))
    return Matching(*kept, found.trace, found.iterations)
