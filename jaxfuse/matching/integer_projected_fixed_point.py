"""The integer projected fixed point method: quadratic ascent by way of whole matchings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.matching.coordinate_ascent import CoordinateAscent, finish
from jaxfuse.matching.lawler import blend, check_size, product, product_at
from jaxfuse.matching.problem import Permutations, Problem, Scores, inner, picked
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import Matching, Proposal, select


@jax.tree_util.register_static
@dataclass(frozen=True)
class IntegerProjectedFixedPoint:
    """Step towards the best matching for the current scores; return the best one met.

    IPFP (Leordeanu, Hebert and Sukthankar, NIPS 2009, section 2): b is the matching with the
    largest `<b, M x>`; x goes to b where `<x, M x>` bends upwards on the way there, and else as
    far as it rises; and it ends where x stands still. It is Frank-Wolfe with the node terms on the
    diagonal of M: where these weigh as much as the tensors, the form bends upwards more often than
    J, and x comes to permutations sooner. Without node terms the two agree.

    M x costs the gradient of J once, and a step the scores at a permutation, half as much.

    Attributes:
        max_iterations: most steps; 5 to 15 are taken.
        tolerance: relative gain of the form below which x stands still.
        limit: most candidate pairs, the sum of n^2 over the groups; four vectors of them are held.
        polish: the ascent that follows; None is the published method.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.matching.problem import Problem
        >>> problem = Problem({"h": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, (), ())
        >>> IntegerProjectedFixedPoint().solve(problem).permutations["h"]
        Array([1, 0], dtype=int32)
    """

    max_iterations: int = 50
    tolerance: float = 1e-6
    limit: int = 2**28
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
        """Match from the barycentre, or from a doubly stochastic start. The key is not used.

        The trace holds `<x, M x>`, which at a matching is J.

        Raises:
            ValueError: if a tensor joins more than two groups, or there are more candidate pairs
                than the limit.
        """
        check_size(problem, self.limit, "IntegerProjectedFixedPoint")
        climb = self.climb(problem, start)
        found = Proposal(climb.best, climb.trace, climb.iteration, ~climb.rising)
        return finish(problem, found, self.polish)

    def climb(self, problem: Problem, start: Mapping[str, jax.Array] | None = None) -> "Climb":
        """Run the iteration; no polish. A start that is a matching is the first best one."""
        if start is None:
            point, best = problem.barycentre(), problem.identity()
        else:
            point, best = dict(start), assign(start, problem.backend, problem.parents)
        image = product(problem, point)
        value = inner(image, point)
        first = Climb(
            point,
            image,
            value,
            best,
            problem.objective_at(best),
            jnp.full(self.max_iterations, value),
            jnp.int32(0),
            jnp.bool_(True),
        )
        return lax.while_loop(
            lambda state: state.rising & (state.iteration < self.max_iterations),
            lambda state: self._step(problem, state),
            first,
        )

    def _step(self, problem: Problem, state: "Climb") -> "Climb":
        corner = assign(state.image, problem.backend, problem.parents)
        corner_image = product_at(problem, corner)
        # With d = b - x: <x + r d, M (x + r d)> = <x, M x> + 2 r <x, M d> + r^2 <d, M d>.
        towards, at_corner = picked(state.image, corner), picked(corner_image, corner)
        gain = towards - state.value
        bend = at_corner - 2 * towards + state.value
        step = jnp.where(bend >= 0, 1.0, jnp.minimum(-gain / jnp.where(bend < 0, bend, -1.0), 1.0))
        value = state.value + 2 * step * gain + step**2 * bend
        ahead = at_corner > state.best_value
        return Climb(
            blend(state.point, corner, step),
            {n: image + step * (corner_image[n] - image) for n, image in state.image.items()},
            value,
            select(ahead, corner, state.best),
            jnp.maximum(at_corner, state.best_value),
            jnp.where(jnp.arange(self.max_iterations) >= state.iteration, value, state.trace),
            state.iteration + 1,
            value - state.value > self.tolerance * jnp.abs(value),
        )


class Climb(NamedTuple):
    """State of the loop: x, M x, their product, the best matching met, and the account."""

    point: Scores
    image: Scores
    value: jax.Array
    best: Permutations
    best_value: jax.Array
    trace: jax.Array
    iteration: jax.Array
    rising: jax.Array
