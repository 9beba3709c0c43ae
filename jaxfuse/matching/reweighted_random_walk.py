"""Reweighted random walk matching: a walk among candidate pairs that jumps to likely matchings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.assignment import Potentials
from jaxfuse.matching.coordinate_ascent import CoordinateAscent, finish
from jaxfuse.matching.lawler import check_size, product, raised
from jaxfuse.matching.problem import Problem, Scores, inner
from jaxfuse.matching.projection import assign, cold_potentials, soften
from jaxfuse.matching.result import Matching, Proposal


@jax.tree_util.register_static
@dataclass(frozen=True)
class ReweightedRandomWalk:
    """Walk among candidate pairs along their affinity, with jumps to where a matching is likely.

    RRWM (Cho, Lee and Lee, ECCV 2010, algorithm 1). A step takes the distribution x over the pairs
    to `w = M x`; inflates it, `exp(beta w / max w)`; makes that doubly stochastic by Sinkhorn, y;
    and goes on from `alpha w + (1 - alpha) y`. In the paper and its authors' code alpha is the
    share of the walk; pygmtools uses the name for the share of the jump. With alpha = 1 it is
    spectral matching.

    The paper has one group. Here each has a walker, of mass n for n units, and its own maximum in
    the inflation: with one maximum for all, groups with few edges never decide, and planted
    matchings are lost. Where the affinity is negative, as the linear one, the pairs of a group get
    at every step the smallest constant that leaves none negative. Candidate pairs of one group
    that contradict each other meet only in tensors that join a group with itself; the paper
    removes their affinity, here it is kept.

    Attributes:
        alpha: share of the walk, against that of the jumps (0.2, the paper's).
        beta: inflation (30, the paper's).
        sinkhorn_iterations: of every step, warm-started from the last one's potentials (20, as
            pygmtools).
        max_iterations: most steps.
        tolerance: mean change per unit, as a share of its mass, below which the walk ends.
        limit: most candidate pairs, the sum of n^2 over the groups; six vectors of them are held.
        polish: the ascent that follows; None is the published method.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.matching.problem import Problem
        >>> problem = Problem({"h": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, (), ())
        >>> ReweightedRandomWalk().solve(problem).permutations["h"]
        Array([1, 0], dtype=int32)
    """

    alpha: float = 0.2
    beta: float = 30.0
    sinkhorn_iterations: int = 20
    max_iterations: int = 100
    tolerance: float = 1e-3
    limit: int = 2**28
    polish: CoordinateAscent | None = CoordinateAscent()

    def __post_init__(self) -> None:
        if not (0 <= self.alpha <= 1 and self.beta > 0):
            raise ValueError(f"alpha lies between 0 and 1, and beta is positive: got {self}")
        if min(self.max_iterations, self.sinkhorn_iterations) < 1:
            raise ValueError(f"max_iterations and sinkhorn_iterations must be 1 or more: {self}")

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
        check_size(problem, self.limit, "ReweightedRandomWalk")
        walk = self.walk(problem, problem.barycentre() if start is None else dict(start))
        rounded = assign(walk.point, problem.backend, problem.parents)
        settled = walk.change <= self.tolerance
        found = Proposal(rounded, walk.trace, walk.iteration, settled)
        return finish(problem, found, self.polish)

    def walk(self, problem: Problem, point: Scores) -> "Walk":
        """Run the walk from a doubly stochastic point; no rounding, no polish."""
        units = sum(problem.sizes.values())

        def step(state: Walk) -> Walk:
            image = product(problem, state.point)
            value = inner(image, state.point)
            image = {node: _with_mass(w) for node, w in raised(image).items()}
            taus = {node: jnp.max(w) / self.beta for node, w in image.items()}
            jump, potentials = soften(
                image, taus, state.potentials, self.sinkhorn_iterations, problem.parents
            )
            point = {n: self.alpha * w + (1 - self.alpha) * jump[n] for n, w in image.items()}
            change = sum(
                (jnp.sum(jnp.abs(point[n] - x)) for n, x in state.point.items()), jnp.float32(0)
            )
            ahead = jnp.arange(self.max_iterations) >= state.iteration
            trace = jnp.where(ahead, value, state.trace)
            return Walk(point, potentials, trace, state.iteration + 1, change / units)

        first = Walk(
            point,
            cold_potentials(problem.sizes, problem.parents),
            jnp.zeros(self.max_iterations),
            jnp.int32(0),
            jnp.float32(jnp.inf),
        )
        return lax.while_loop(
            lambda state: (state.change > self.tolerance) & (state.iteration < self.max_iterations),
            step,
            first,
        )


class Walk(NamedTuple):
    """State of the loop: the distribution, the potentials of its jump, and the account."""

    point: Scores
    potentials: Mapping[str, Potentials]
    trace: jax.Array
    iteration: jax.Array
    change: jax.Array


def _with_mass(values: jax.Array) -> jax.Array:
    """Scale non-negative values `[n, n]` to a sum of n; spread the mass evenly where all are 0."""
    n, total = values.shape[-1], jnp.sum(values)
    return jnp.where(total > 0, values * (n / jnp.where(total > 0, total, 1.0)), 1.0 / n)
