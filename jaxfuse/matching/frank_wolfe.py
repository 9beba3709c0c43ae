"""Frank-Wolfe over the doubly stochastic matrices of all groups, with the exact line search."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfuse.matching.coordinate_ascent import CoordinateAscent, finish
from jaxfuse.matching.packed import Packed, Stacks
from jaxfuse.matching.problem import Problem, inner, picked
from jaxfuse.matching.result import Matching, Proposal, select


@jax.tree_util.register_static
@dataclass(frozen=True)
class FrankWolfe:
    """Walk towards the best permutations for the current slope, as far as the objective rises.

    The pairwise case of C2M3 (Crisostomi et al., NeurIPS 2024, algorithm 1), with one common step
    size for all groups. J is quadratic, so on the segment from P to D it is a parabola and the
    step is exact; its slope is affine, so the scores at the new point are the same mixture of
    those at P and at D, and an iteration costs the scores at a permutation, half of a gradient.
    Where a tensor joins three groups or more, J is a polynomial of higher degree: it is sampled on
    the segment, maximised on a grid, and the gradient is taken anew.

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
        found = self.search(problem, start)
        return finish(problem, found, self.polish)

    def search(self, problem: Problem, start: Mapping[str, jax.Array] | None = None) -> Proposal:
        """Return the best permutations met on the way, before the polish."""
        packed = Packed.of(problem)
        walk = self.walk(packed, packed.pack(problem.barycentre() if start is None else start))
        rounded = packed.assign(walk.point)
        ahead = packed.objective_at(rounded) > walk.best_objective
        best = packed.unpack(select(ahead, rounded, walk.best))
        return Proposal(best, walk.trace, walk.iteration, ~walk.rising)

    def walk(self, problem: Packed, point: Stacks) -> "Walk":
        """Run the iteration from doubly stochastic points; no rounding, no polish."""
        if problem.problem.is_quadratic:
            step, slope = self._step, problem.scores(point)
            objective = (inner(problem.nodes, point) + inner(slope, point)) / 2
        else:
            step = self._step_sampled
            objective, slope = jax.value_and_grad(problem.objective)(point)
        first = Walk(
            point,
            slope,
            objective,
            problem.pack(problem.problem.identity()),
            jnp.float32(-jnp.inf),
            jnp.full(self.max_iterations, objective),
            jnp.int32(0),
            jnp.bool_(True),
        )
        return lax.while_loop(
            lambda state: state.rising & (state.iteration < self.max_iterations),
            lambda state: step(problem, state),
            first,
        )

    def _step(self, problem: Packed, state: "Walk") -> "Walk":
        corner = problem.assign(state.slope)
        corner_slope = problem.scores_at(corner)
        # J is half of <C, P> + <slope, P>, as a quadratic form is half its slope's product, and
        # J(P + t (D - P)) = J(P) + t gain + t^2 bend, from inner products alone.
        at_point = inner(state.slope, state.point)
        towards = picked(state.slope, corner)
        gain = towards - at_point
        at_corner = picked(corner_slope, corner)
        corner_value = (picked(problem.nodes, corner) + at_corner) / 2
        bend = (at_corner - inner(corner_slope, state.point) - towards + at_point) / 2
        vertex = jnp.where(bend < 0, -gain / jnp.where(bend < 0, 2 * bend, 1.0), 1.0)
        step = jnp.clip(vertex, 0.0, 1.0)
        rise = step * gain + step**2 * bend
        point = {g: _move(p, corner[g], step) for g, p in state.point.items()}
        slope = {g: s + step * (corner_slope[g] - s) for g, s in state.slope.items()}
        return self._moved(state, point, slope, rise, corner, corner_value)

    def _step_sampled(self, problem: Packed, state: "Walk") -> "Walk":
        """Step where J is a polynomial of the degree of the largest link."""
        corner = problem.assign(state.slope)

        def point_at(step: jax.Array) -> Stacks:
            return {g: _move(p, corner[g], step) for g, p in state.point.items()}

        degree = max(len(link) for link in problem.problem.joins)
        knots = jnp.linspace(0.0, 1.0, degree + 1)
        values = lax.map(lambda step: problem.objective(point_at(step)), knots)
        step = maximise_polynomial(values)
        point = point_at(step)
        objective, slope = jax.value_and_grad(problem.objective)(point)
        rise = objective - state.objective
        return self._moved(state, point, slope, rise, corner, values[-1])

    def _moved(
        self,
        state: "Walk",
        point: Stacks,
        slope: Stacks,
        rise: jax.Array,
        corner: Stacks,
        corner_value: jax.Array,
    ) -> "Walk":
        objective = state.objective + rise
        ahead = corner_value > state.best_objective
        return Walk(
            point,
            slope,
            objective,
            select(ahead, corner, state.best),
            jnp.maximum(corner_value, state.best_objective),
            jnp.where(jnp.arange(self.max_iterations) >= state.iteration, objective, state.trace),
            state.iteration + 1,
            rise > self.tolerance * jnp.abs(objective),
        )


class Walk(NamedTuple):
    """State of the loop: the point, its slope and objective, and the best corner met."""

    point: Stacks
    slope: Stacks
    objective: jax.Array
    best: Stacks
    best_objective: jax.Array
    trace: jax.Array
    iteration: jax.Array
    rising: jax.Array


def _move(point: jax.Array, corner: jax.Array, step: jax.Array) -> jax.Array:
    return (1 - step) * point + step * jax.nn.one_hot(corner, point.shape[-1])


def maximise_polynomial(values: jax.Array) -> jax.Array:
    """Return where on [0, 1] a polynomial is largest, to a thousandth.

    Args:
        values: of a polynomial of degree k at 0, 1/k, ..., 1, `[k + 1]`.

    Examples:
        >>> knots = jnp.linspace(0.0, 1.0, 4)
        >>> print(f"{maximise_polynomial(knots - knots**3):.3f}")
        0.577
    """
    degree = len(values) - 1
    grid = np.linspace(0.0, 1.0, 1001)
    knots = np.linspace(0.0, 1.0, degree + 1)
    at_grid = np.vander(grid, degree + 1) @ np.linalg.inv(np.vander(knots, degree + 1))
    # Only differences count: of large values near each other little else would be left.
    fitted = jnp.dot(
        jnp.asarray(at_grid, jnp.float32), values - values[0], precision=lax.Precision.HIGHEST
    )
    return jnp.asarray(grid, jnp.float32)[jnp.argmax(fitted)]
