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
        if start is None:
            permutations = problem.identity()
        else:
            permutations = assign(start, problem.backend, problem.parents)
        ascent = self.ascend(problem, permutations, key)
        kept = keep_better(problem, ascent.permutations, ~ascent.gained)
        return Matching(*kept, ascent.trace, ascent.sweep)

    def ascend(
        self, problem: Problem, permutations: Permutations, key: jax.Array | None = None
    ) -> "Ascent":
        """Climb from permutations until no group gains.

        Raises:
            ValueError: if the order is random and there is no key.
        """
        if self.order == "random" and key is None:
            raise ValueError(
                "CoordinateAscent(order='random') needs key=jax.random.key(seed), and as a polish "
                "it gets none: use order='forward' there"
            )
        objective = problem.objective_at(permutations)
        trees = problem.trees

        def sweep(state: Ascent) -> Ascent:
            if key is None or self.order == "forward":
                moved, gained = state.permutations, jnp.bool_(False)
                for tree in trees:
                    moved, better = self._improve(problem, tree, moved)
                    gained |= better
            else:
                moves = [lambda p, tree=tree: self._improve(problem, tree, p) for tree in trees]
                order = jax.random.permutation(jax.random.fold_in(key, state.sweep), len(trees))

                def step(carried: Permutations, index: jax.Array) -> tuple[Permutations, jax.Array]:
                    return lax.switch(index, moves, carried)

                moved, better = lax.scan(step, state.permutations, order)
                gained = jnp.any(better)
            value = problem.objective_at(moved)
            ahead = jnp.arange(self.max_sweeps) >= state.sweep
            return Ascent(
                moved, value, jnp.where(ahead, value, state.trace), state.sweep + 1, gained
            )

        first = Ascent(
            permutations,
            objective,
            jnp.full(self.max_sweeps, objective),
            jnp.int32(0),
            jnp.bool_(True),
        )
        return lax.while_loop(
            lambda state: state.gained & (state.sweep < self.max_sweeps), sweep, first
        )

    def _improve(
        self, problem: Problem, tree: Sequence[str], permutations: Permutations
    ) -> tuple[Permutations, jax.Array]:
        """Reassign one tree of nodes if that gains, most often a single group."""
        if not problem.meets_itself(tree):
            scores, best = self._propose(problem, tree, permutations)
            now = picked(scores, {node: permutations[node] for node in tree})
            better = picked(scores, best) - now > self.tolerance * jnp.abs(now)
            return {**permutations, **select(better, best, permutations)}, better
        # Nodes of the tree meet in a tensor: the scores are only the slope. After the tree as a
        # whole, the units of each group are matched with what indexes them as it stands.
        parents = dict(problem.parents)
        parts = [tree]
        for node in tree:
            if node in parents:
                parts.append([other for other in tree if _is_below(other, node, parents)])
        gained = jnp.bool_(False)
        now = problem.objective_at(permutations, tree)
        for part in parts:
            _, best = self._propose(problem, part, permutations)
            value = problem.objective_at({**permutations, **best}, tree)
            better = value - now > self.tolerance * jnp.abs(now)
            permutations = {**permutations, **select(better, best, permutations)}
            now = jnp.where(better, value, now)
            gained |= better
        return permutations, gained

    def _propose(
        self, problem: Problem, nodes: Sequence[str], permutations: Permutations
    ) -> tuple[Scores, Permutations]:
        """Assign a node and all below it by their scores, what is above it fixed."""
        parents = dict(problem.parents)
        scores = {node: problem.group_scores(node, permutations) for node in nodes}
        above = {parents[node] for node in nodes if node in parents} - set(nodes)
        fixed = {node: permutations[node] for node in above}
        return scores, assign(scores, problem.backend, problem.parents, fixed)


def _is_below(node: str, top: str, parents: Mapping[str, str]) -> bool:
    """Tell whether a node is another, or indexed by it."""
    return node == top or (node in parents and _is_below(parents[node], top, parents))


class Ascent(NamedTuple):
    """State of the loop: the matching, its objective, the trace, the sweep, and who gained."""

    permutations: Permutations
    objective: jax.Array
    trace: jax.Array
    sweep: jax.Array
    gained: jax.Array


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
