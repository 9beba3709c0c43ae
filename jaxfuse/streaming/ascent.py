"""Coordinate ascent whose state is the permutations alone, for networks that stay on disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxfuse.matching.projection import assign
from jaxfuse.streaming.scores import Permutations, Scorer


@dataclass(frozen=True)
class State:
    """Where the ascent stands.

    Attributes:
        permutations: int32 `[n]` per node.
        known: nodes whose permutations mean something yet.
        before: J at the identity.
        sweep: passes over all trees that are complete.
        tree: trees that are done in the present one.
        gained: whether a tree has gained in the present sweep, or in the last one at its end.
    """

    permutations: Permutations
    known: frozenset[str]
    before: float
    sweep: int = 0
    tree: int = 0
    gained: bool = True


@dataclass(frozen=True)
class Ascent:
    """Solve the assignment of one tree of nodes with all others fixed, tree after tree.

    `jaxfuse.CoordinateAscent` in forward order, on scores that are streamed.

    Attributes:
        scorer: the objective.
        max_sweeps: most passes over all trees.
        tolerance: relative gain of a tree below which it stays as it is.
    """

    scorer: Scorer
    max_sweeps: int
    tolerance: float

    def climb(self, state: State, visit: Callable[[State], None]) -> State:
        """Climb until no tree gains.

        Args:
            state: where to begin.
            visit: called with the state after every tree.
        """
        trees = self.scorer.plan.problem.trees
        while (state.gained or state.tree) and state.sweep < self.max_sweeps:
            first = len(state.known) < len(self.scorer.plan.problem.nodes)
            gained = state.gained if state.tree else False
            for index in range(state.tree, len(trees)):
                improve = self._match_first if first else self._improve
                state, more = improve(trees[index], state)
                gained |= more
                state = replace(state, tree=index + 1, gained=gained)
                visit(state)
            known = frozenset(self.scorer.plan.problem.nodes)
            # What is matched first has met but a part of the others.
            state = replace(
                state, known=known, sweep=state.sweep + 1, tree=0, gained=gained | first
            )
        return state

    def _match_first(self, tree: Sequence[str], state: State) -> tuple[State, bool]:
        """Match a tree by its terms with nodes that are matched already, if there are any."""
        with self.scorer.memory.holding(self.scorer.plan.score_bytes(tree)):
            scores = self._zeros(tree)
            if not self.scorer.add_scores(scores, state.permutations, state.known):
                return state, False
            best = self._assign(scores, state.permutations)
        permutations = {**state.permutations, **best}
        return replace(state, permutations=permutations, known=state.known | set(tree)), True

    def _improve(self, tree: Sequence[str], state: State) -> tuple[State, bool]:
        """Reassign a tree, if that gains."""
        if self.scorer.plan.problem.meets_itself(tree):
            return self._improve_itself(tree, state)
        with self.scorer.memory.holding(self.scorer.plan.score_bytes(tree)):
            scores = self._zeros(tree)
            self.scorer.add_scores(scores, state.permutations)
            best = self._assign(scores, state.permutations)
            now, then = _picked(scores, state.permutations), _picked(scores, best)
        if not then - now > self.tolerance * abs(now):
            return state, False
        return replace(state, permutations={**state.permutations, **best}), True

    def _improve_itself(self, tree: Sequence[str], state: State) -> tuple[State, bool]:
        """Reassign a tree whose nodes meet in a tensor: as a whole, then below each node.

        The scores are only the slope, so J itself says whether it gains.
        """
        parents, permutations, gained = (
            dict(self.scorer.plan.problem.parents),
            state.permutations,
            False,
        )
        parts = [tree]
        for node in tree:
            if node in parents:
                parts.append([other for other in tree if node in _chain(other, parents)])
        for part in parts:
            with self.scorer.memory.holding(self.scorer.plan.score_bytes(part)):
                scores = self._zeros(part)
                self.scorer.add_scores(scores, permutations)
                best = {**permutations, **self._assign(scores, permutations)}
            now, then = self.scorer.value([permutations, best], tree)
            if then - now > self.tolerance * abs(now):
                permutations, gained = best, True
        return replace(state, permutations=permutations), gained

    def _zeros(self, nodes: Sequence[str]) -> dict[str, np.ndarray]:
        sizes = self.scorer.plan.problem.sizes
        return {node: np.zeros((sizes[node],) * 2, np.float32) for node in nodes}

    def _assign(self, scores: dict[str, np.ndarray], permutations: Permutations) -> dict[str, Any]:
        """Assign nodes, what is above them fixed."""
        plan = self.scorer.plan
        parents = dict(plan.problem.parents)
        above = {parents[node] for node in scores if node in parents} - set(scores)
        fixed = {node: permutations[node] for node in above}
        more = plan.assignment_bytes(list(scores)) - plan.score_bytes(list(scores))
        with self.scorer.memory.holding(more):
            best = assign(scores, "host", plan.problem.parents, fixed)  # pyright: ignore[reportArgumentType]
        return {node: np.asarray(columns) for node, columns in best.items()}


def _chain(node: str, parents: Mapping[str, str]) -> list[str]:
    """Return a node and all that it is indexed by."""
    return [node, *(_chain(parents[node], parents) if node in parents else [])]


def _picked(scores: Permutations, permutations: Permutations) -> float:
    return sum(
        float(np.sum(matrix[np.arange(len(matrix)), permutations[node]], dtype=np.float64))
        for node, matrix in scores.items()
    )
