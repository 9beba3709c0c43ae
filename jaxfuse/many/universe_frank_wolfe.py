"""Universe Frank-Wolfe: C2M3's walk over the matchings of all networks at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.many.merge_many import MergeMany
from jaxfuse.many.problem import ManyProblem, Matchings, Orders
from jaxfuse.many.segment import order_matrices, values_along
from jaxfuse.many.universe import finish, widen
from jaxfuse.matching.frank_wolfe import maximise_polynomial
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import select


@jax.tree_util.register_static
@dataclass(frozen=True)
class UniverseFrankWolfe:
    """Walk towards the best permutations of all networks for the current slope, with one step size.

    C2M3 (Crisostomi et al., NeurIPS 2024) on J of all pairs. The released code finds
    the step by up to twenty evaluations; J on the segment is a polynomial of degree 4, so here the
    search is exact (`jaxfuse.many.segment`).

    J does not change when all networks are reordered alike. That freedom is taken out: network 0
    stays at the identity, the others start at the barycentre, where no order is preferred. (The
    released code starts all at the identity.) For two networks this is `FrankWolfe`.

    The best permutations met on the way are kept, and polished by coordinate ascent.

    Attributes:
        max_iterations: most steps.
        tolerance: relative gain of J below which the walk ends.
        width: units of the universe over those of a network. Above 1 a unit that resembles none of
            another network may stay alone; that is worth while only where similarities can be
            negative, as those of `Linear` can and those of `Gaussian` can't. Then the orders hold
            -1 where a network has no such unit.
        polish: the ascent that follows; None leaves the best permutations as they are.

    The trace `[max_iterations]` is J of the soft matchings after every step.

    Examples:
        >>> from jaxfuse.affinity import Linear
        >>> from jaxfuse.many import build_many
        >>> from jaxfuse.symmetry import infer_chain
        >>> a = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])]
        >>> b = [a[0][:, ::-1], a[1][::-1]]
        >>> problem = build_many([a, b, a], infer_chain(a), Linear())
        >>> UniverseFrankWolfe().solve_many(problem).orders["0"].tolist()
        [[0, 1], [1, 0], [0, 1]]
    """

    max_iterations: int = 40
    tolerance: float = 3e-4
    width: float = 1.0
    polish: MergeMany | None = MergeMany(start=None)

    def __post_init__(self) -> None:
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be 1 or more, got {self.max_iterations}")

    def solve_many(self, problem: ManyProblem, key: jax.Array | None = None) -> Matchings:
        """Match from the barycentre. The key is not used.

        Raises:
            ValueError: for a width that the problem can't have.
        """
        wide = widen(problem, self.width)
        walk = self.walk(wide)
        rounded = corner_of(wide, walk.point)
        value = wide.objective_at(rounded)
        orders = select(value > walk.best_objective, rounded, walk.best)
        finished = ~walk.rising
        if self.polish is not None:
            sweeps = self.polish.ascend(wide, orders)
            orders, finished = sweeps.orders, ~sweeps.gained
        return finish(wide, orders, finished, walk.trace, walk.iteration, problem.sizes)

    def walk(self, problem: ManyProblem) -> "Walk":
        """Run the iteration; no rounding, no polish."""
        first = Walk(
            start_of(problem),
            problem.identity(),
            jnp.float32(-jnp.inf),
            jnp.zeros(self.max_iterations),
            jnp.int32(0),
            jnp.bool_(True),
        )
        return lax.while_loop(
            lambda state: state.rising & (state.iteration < self.max_iterations),
            lambda state: self._step(problem, state),
            first,
        )

    def _step(self, problem: ManyProblem, state: "Walk") -> "Walk":
        corner = corner_of(problem, problem.scores(state.point))
        values = values_along(problem, state.point, corner)
        step = maximise_polynomial(values)
        ends = {node: order_matrices(order) for node, order in corner.items()}
        point = {node: u + step * (ends[node] - u) for node, u in state.point.items()}
        rise = _polynomial_at(values, step)
        objective = values[0] + rise
        ahead = values[-1] > state.best_objective
        later = jnp.arange(self.max_iterations) >= state.iteration
        return Walk(
            point,
            select(ahead, corner, state.best),
            jnp.maximum(values[-1], state.best_objective),
            jnp.where(later, objective, state.trace),
            state.iteration + 1,
            rise > self.tolerance * jnp.abs(objective),
        )


class Walk(NamedTuple):
    """State of the loop: the soft matchings `[K, n, n]`, and the best corner met."""

    point: dict[str, jax.Array]
    best: Orders
    best_objective: jax.Array
    trace: jax.Array
    iteration: jax.Array
    rising: jax.Array


def start_of(problem: ManyProblem) -> dict[str, jax.Array]:
    """Return the matchings `[K, n, n]` to start from: network 0 as it is, the others undecided."""
    return {
        node: jnp.full((problem.count, n, n), 1.0 / n).at[0].set(jnp.eye(n))
        for node, n in problem.sizes.items()
    }


def corner_of(problem: ManyProblem, scores: Mapping[str, jax.Array]) -> Orders:
    """Return the best orders int32 `[K, n]` for scores `[K, n, n]`, network 0 in its own."""
    others = {node: jnp.swapaxes(each[1:], 1, 2) for node, each in scores.items()}
    solved = jax.vmap(lambda one: assign(one, problem.backend, problem.parents))(others)
    return {
        node: jnp.concatenate([order[:1], solved[node]])
        for node, order in problem.identity().items()
    }


def _polynomial_at(values: jax.Array, step: jax.Array) -> jax.Array:
    """Return by how much a polynomial with the given even samples has risen at a step."""
    knots = np.linspace(0.0, 1.0, len(values))
    inverse = jnp.asarray(np.linalg.inv(np.vander(knots)), jnp.float32)
    return jnp.polyval(jnp.dot(inverse, values - values[0], precision=HIGHEST), step)
