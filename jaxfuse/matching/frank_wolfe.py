"""Frank-Wolfe over the doubly stochastic matrices of all groups, with the exact line search."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.matching.coordinate_ascent import CoordinateAscent, finish
from jaxfuse.matching.problem import Permutations, Problem, Scores, inner
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import Matching, select


@jax.tree_util.register_static
@dataclass(frozen=True)
class FrankWolfe:
    """Walk towards the best permutations for the current slope, as far as the objective rises.

    The pairwise case of C2M3 (Crisostomi et al., NeurIPS 2024, algorithm 1), with one common step
    size for all groups. J is quadratic, so on the segment from P to D it is a parabola and the
    step is exact; its slope is affine, so the scores at the new point are the same mixture of
    those at P and at D, and an iteration costs the scores at a permutation, half of a gradient.
    Starts at the barycentre, where no order is preferred. The best permutation met on the way is
    kept, and polished by coordinate ascent.

    Attributes:
        max_iterations: most steps; 10 to 30 are taken on trained networks.
        tolerance: relative gain of the objective below which the walk ends.
        polish: the ascent that follows; None leaves the best permutation as it is.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.matching.problem import Problem
        >>> problem = Problem({"h": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, (), ())
        >>> FrankWolfe().solve(problem).permutations["h"]
        Array([1, 0], dtype=int32)
    """

    max_iterations: int = 40
    tolerance: float = 3e-4
    polish: CoordinateAscent | None = CoordinateAscent()

    def __post_init__(self) -> None:
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be 1 or more, got {self.max_iterations}")

    def solve(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> Matching:
        """Match from the barycentre, or from a doubly stochastic start. The key is not used."""
        walk = self.walk(problem, problem.barycentre() if start is None else dict(start))
        rounded = assign(walk.point, problem.backend)
        value = problem.objective_at(rounded)
        ahead = value > walk.best_objective
        best = select(ahead, rounded, walk.best)
        return finish(problem, best, self.polish, ~walk.rising, walk.trace, walk.iteration)

    def walk(self, problem: Problem, point: Scores) -> "Walk":
        """Run the iteration from a doubly stochastic point; no rounding, no polish."""
        slope = problem.scores(point)
        objective = (inner(problem.nodes, point) + inner(slope, point)) / 2
        first = Walk(
            point,
            slope,
            objective,
            problem.identity(),
            jnp.float32(-jnp.inf),
            jnp.full(self.max_iterations, objective),
            jnp.int32(0),
            jnp.bool_(True),
        )
        return lax.while_loop(
            lambda state: state.rising & (state.iteration < self.max_iterations),
            lambda state: self._step(problem, state),
            first,
        )

    def _step(self, problem: Problem, state: "Walk") -> "Walk":
        corner = assign(state.slope, problem.backend)
        corner_slope = problem.scores_at(corner)
        # J is half of <C, P> + <slope, P>, as a quadratic form is half its slope's product, and
        # J(P + t (D - P)) = J(P) + t gain + t^2 bend, from inner products alone.
        at_point = inner(state.slope, state.point)
        towards = _at(state.slope, corner)
        gain = towards - at_point
        at_corner = _at(corner_slope, corner)
        corner_value = (_at(problem.nodes, corner) + at_corner) / 2
        bend = (at_corner - inner(corner_slope, state.point) - towards + at_point) / 2
        vertex = jnp.where(bend < 0, -gain / jnp.where(bend < 0, 2 * bend, 1.0), 1.0)
        step = jnp.clip(vertex, 0.0, 1.0)
        rise = step * gain + step**2 * bend
        objective = state.objective + rise
        ahead = corner_value > state.best_objective
        return Walk(
            {g: _move(p, corner[g], step) for g, p in state.point.items()},
            {g: s + step * (corner_slope[g] - s) for g, s in state.slope.items()},
            objective,
            select(ahead, corner, state.best),
            jnp.maximum(corner_value, state.best_objective),
            jnp.where(jnp.arange(self.max_iterations) >= state.iteration, objective, state.trace),
            state.iteration + 1,
            rise > self.tolerance * jnp.abs(objective),
        )


class Walk(NamedTuple):
    """State of the loop: the point, its slope and objective, and the best corner met."""

    point: Scores
    slope: Scores
    objective: jax.Array
    best: Permutations
    best_objective: jax.Array
    trace: jax.Array
    iteration: jax.Array
    rising: jax.Array


def _at(scores: Mapping[str, jax.Array], permutations: Permutations) -> jax.Array:
    """Return the inner product of scores with permutation matrices."""
    return sum(
        (
            jnp.sum(jnp.take_along_axis(scores[group], columns[:, None], axis=1))
            for group, columns in permutations.items()
        ),
        start=jnp.float32(0),
    )


def _move(point: jax.Array, corner: jax.Array, step: jax.Array) -> jax.Array:
    rows = jnp.arange(point.shape[0])
    return ((1 - step) * point).at[rows, corner].add(step)
