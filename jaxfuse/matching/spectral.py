"""Spectral matching: the principal eigenvector of the affinity between all candidate pairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.matching.coordinate_ascent import CoordinateAscent, finish
from jaxfuse.matching.lawler import check_size, norm, product, raised
from jaxfuse.matching.problem import Problem, Scores, inner
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import Matching, Proposal


@jax.tree_util.register_static
@dataclass(frozen=True)
class SpectralMatching:
    """Assign by the principal eigenvector of the affinity between candidate pairs.

    Leordeanu and Hebert (ICCV 2005): of the vectors x of one length the principal eigenvector of M
    has the largest `<x, M x>`, and its entries are read as confidences; here all groups have a
    part in one vector, and the Hungarian method takes the place of the greedy choice. The vector
    is found by power iteration from scores alone: M, with a row for every candidate pair, is never
    written out. A step costs the gradient of J.

    The paper's M is non-negative, and so is its eigenvector. The linear affinity is not: at every
    step the pairs of a group then get the smallest constant that leaves none negative. Where the
    iteration stands, x is a non-negative eigenvector of M plus one constant per group for the
    products of its own pairs, which adds the same to J at every matching. A constant that leaves
    no entry of M negative would do so too, and drown the affinity. M plus a multiple of the
    identity, the length of M x, is iterated, as two layers alone give M eigenvalues in pairs of
    both signs.

    Attributes:
        max_iterations: most steps.
        tolerance: length of a step, relative to the vector's, below which the iteration ends.
        limit: most candidate pairs, the sum of n^2 over the groups; four vectors of them are held.
        polish: the ascent that follows; None is the published method.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.matching.problem import Problem
        >>> problem = Problem({"h": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, (), ())
        >>> SpectralMatching().solve(problem).permutations["h"]
        Array([1, 0], dtype=int32)
    """

    max_iterations: int = 100
    tolerance: float = 1e-4
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
        """Match from the uniform vector, or from a non-negative start. The key is not used.

        The trace holds `<x, M x> / <x, x>` times the number of units, on the scale of J.

        Raises:
            ValueError: if a tensor joins more than two groups, or there are more candidate pairs
                than the limit.
        """
        check_size(problem, self.limit, "SpectralMatching")
        power = self.iterate(problem, problem.barycentre() if start is None else dict(start))
        rounded = assign(power.vector, problem.backend, problem.parents)
        settled = power.change <= self.tolerance
        found = Proposal(rounded, power.trace, power.iteration, settled)
        return finish(problem, found, self.polish)

    def iterate(self, problem: Problem, vector: Scores) -> "Power":
        """Return the eigenvector, of length one; no rounding, no polish."""
        units = sum(problem.sizes.values())

        def step(state: Power) -> Power:
            image = product(problem, state.vector)
            value = units * inner(image, state.vector)
            image = raised(image)
            length = norm(image)
            scale = 1.0 / jnp.where(length > 0, length, 1.0)
            moved = _unit({n: scale * image[n] + x for n, x in state.vector.items()})
            change = norm({n: moved[n] - x for n, x in state.vector.items()})
            ahead = jnp.arange(self.max_iterations) >= state.iteration
            trace = jnp.where(ahead, value, state.trace)
            return Power(moved, trace, state.iteration + 1, change)

        first = Power(
            _unit(vector), jnp.zeros(self.max_iterations), jnp.int32(0), jnp.float32(jnp.inf)
        )
        return lax.while_loop(
            lambda state: (state.change > self.tolerance) & (state.iteration < self.max_iterations),
            step,
            first,
        )


class Power(NamedTuple):
    """State of the loop: the vector, the trace, the step, and how far the last one went."""

    vector: Scores
    trace: jax.Array
    iteration: jax.Array
    change: jax.Array


def _unit(vector: Scores) -> Scores:
    length = norm(vector)
    return {node: values / length for node, values in vector.items()}
