"""Coordinate ascent: Git Re-Basin's weight matching, one group at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.matching.problem import Permutations, Problem, Scores, picked
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import Matching, keep_better, select

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

    def __post_init__(self) -> None:
        if self.order not in ("forward", "random") or self.max_sweeps < 0:
            raise ValueError(f"order is 'forward' or 'random', max_sweeps not negative: got {self}")

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
        return self.ascend(problem, permutations, key, problem.objective_at(permutations))

    def ascend(
        self,
        problem: Problem,
        permutations: Permutations,
        key: jax.Array | None = None,
        objective: jax.Array | float = 0.0,
    ) -> "Ascent":
        """Climb from permutations until no group gains.

        Args:
            problem: the objective.
            permutations: int32 `[n]` per node.
            key: of the random order.
            objective: J at the start, to which the trace adds the gains.

        Raises:
            ValueError: if the order is random and there is no key.
        """
        if self.order == "random" and key is None:
            raise ValueError(
                "CoordinateAscent(order='random') needs key=jax.random.key(seed), and as a polish "
                "it gets none: use order='forward' there"
            )
        trees, waves = problem.trees, problem.waves()
        total = sum(problem.sizes.values())

        def sweep(state: Ascent) -> Ascent:
            if key is None or self.order == "forward":
                moved, gain, clear = state.permutations, jnp.float32(0), jnp.int32(0)
                for wave in waves:
                    moved, more, units = self._improve_wave(problem, wave, moved)
                    gain, clear = gain + more, clear + units
            else:
                moves = [
                    lambda p, tree=tree: self._improve_wave(problem, [tree], p) for tree in trees
                ]
                order = jax.random.permutation(jax.random.fold_in(key, state.sweep), len(trees))

                def step(carried: Permutations, index: jax.Array) -> tuple[Permutations, tuple]:
                    moved, *found = lax.switch(index, moves, carried)
                    return moved, tuple(found)

                moved, (gains, units) = lax.scan(step, state.permutations, order)
                gain, clear = jnp.sum(gains), jnp.sum(units)
            value = state.objective + gain
            ahead = jnp.arange(self.max_sweeps) >= state.sweep
            trace = jnp.where(ahead, value, state.trace)
            return Ascent(moved, value, trace, state.sweep + 1, gain > 0, clear / total)

        begin = jnp.asarray(objective, jnp.float32)
        trace = jnp.full(self.max_sweeps, begin)
        first = Ascent(permutations, begin, trace, jnp.int32(0), jnp.bool_(True), jnp.float32(0))
        return lax.while_loop(
            lambda state: state.gained & (state.sweep < self.max_sweeps), sweep, first
        )

    def _improve_wave(
        self, problem: Problem, wave: Sequence[Sequence[str]], permutations: Permutations
    ) -> tuple[Permutations, jax.Array, jax.Array]:
        """Reassign trees that share no tensor, each if that gains.

        Returns:
            The permutations, by how much J rose, and how many units are clear.
        """
        gain, clear = jnp.float32(0), jnp.int32(0)
        alone = [tree for tree in wave if problem.meets_itself(tree)]
        for tree in alone:
            permutations, more = self._improve_itself(problem, tree, permutations)
            gain += more
        others = [tree for tree in wave if tree not in alone]
        scores, best = self._propose(problem, [n for tree in others for n in tree], permutations)
        for tree in others:
            now = picked(scores, {node: permutations[node] for node in tree})
            then = picked(scores, {node: best[node] for node in tree})
            better = then - now > self.tolerance * jnp.abs(now)
            own = {node: best[node] for node in tree}
            permutations = {**permutations, **select(better, own, permutations)}
            gain += jnp.where(better, then - now, 0.0)
            for node in tree:
                clear += jnp.sum(is_clear(scores[node], permutations[node]))
        return permutations, gain, clear

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
            _, best = self._propose(problem, part, permutations)
            value = problem.objective_at({**permutations, **best}, tree)
            better = value - now > self.tolerance * jnp.abs(now)
            permutations = {**permutations, **select(better, best, permutations)}
            now = jnp.where(better, value, now)
        return permutations, now - first

    def _propose(
        self, problem: Problem, nodes: Sequence[str], permutations: Permutations
    ) -> tuple[Scores, Permutations]:
        """Assign nodes and all below them by their scores, what is above them fixed."""
        parents = dict(problem.parents)
        scores = problem.scores_at(permutations, nodes)
        above = {parents[node] for node in nodes if node in parents} - set(nodes)
        fixed = {node: permutations[node] for node in above}
        return scores, assign(scores, problem.backend, problem.parents, fixed)


def _is_below(node: str, top: str, parents: Mapping[str, str]) -> bool:
    """Tell whether a node is another, or indexed by it."""
    return node == top or (node in parents and _is_below(parents[node], top, parents))


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


def finish(
    problem: Problem,
    permutations: Permutations,
    polish: CoordinateAscent | None,
    finished: jax.Array,
    trace: jax.Array,
    iterations: jax.Array,
) -> Matching:
    """Polish a matching, if asked to, and put it up against the identity.

    A polished matching is finished when the polish is: a local optimum, however it was reached.
    """
    if polish is not None:
        ascent = polish.ascend(problem, permutations)
        permutations, finished = ascent.permutations, ~ascent.gained
    return Matching(*keep_better(problem, permutations, finished), trace, iterations)
