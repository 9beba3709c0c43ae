"""A portfolio: several solvers on one problem, the best result kept."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxfuse.matching.coordinate_ascent import CoordinateAscent, finish
from jaxfuse.matching.frank_wolfe import FrankWolfe
from jaxfuse.matching.graduated_assignment import GraduatedAssignment
from jaxfuse.matching.problem import Problem
from jaxfuse.matching.result import Matching, Solver
from jaxfuse.status import Status


@jax.tree_util.register_static
@dataclass(frozen=True)
class Portfolio:
    """Run several solvers on one problem and keep the matching that is clearly the best.

    The default pairs the two whose failures differ: Frank-Wolfe, the stronger on networks that
    differ in more than noise, and graduated assignment with its reaction term, the stronger where
    the networks are noisy copies.

    Attributes:
        solvers: what is run, in order of preference. Graduated assignment gets two sweeps of
            polish before it is compared: a matching that it has nearly recovered then shows.
        margin: relative gain of the objective for which a later solver is preferred. Below one
            percent the objective says nothing of the fused network (over 24 matchings of the
            OTFusion pair its correlation with accuracy is -0.2, `benchmarks/fusion_pair.py`), and
            an earlier solver's result is kept; where one solver fails, the other's objective is
            higher by tens of percent. The value was chosen on that same pair.
        polish: the ascent that follows from the best.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.matching.problem import Problem
        >>> problem = Problem({"h": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, (), ())
        >>> Portfolio().solve(problem).permutations["h"]
        Array([1, 0], dtype=int32)
    """

    solvers: tuple[Solver, ...] = (
        FrankWolfe(max_iterations=20, polish=None),
        GraduatedAssignment(polish=CoordinateAscent(max_sweeps=2)),
    )
    margin: float = 0.01
    polish: CoordinateAscent | None = CoordinateAscent()

    def __post_init__(self) -> None:
        if not self.solvers:
            raise ValueError("a portfolio needs at least one solver")

    def solve(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> Matching:
        """Run every solver from the same start; the trace is the winner's."""
        results = [solver.solve(problem, start, key) for solver in self.solvers]
        length = max(len(result.trace) for result in results)
        results = [
            result._replace(trace=jnp.pad(result.trace, (0, length - len(result.trace)), "edge"))
            for result in results
        ]
        best = results[0]
        for result in results[1:]:
            ahead = result.objective - best.objective > self.margin * jnp.abs(best.objective)
            best = jax.tree.map(lambda new, old, a=ahead: jnp.where(a, new, old), result, best)
        finished = best.status != Status.NOT_CONVERGED
        return finish(
            problem, best.permutations, self.polish, finished, best.trace, best.iterations
        )
