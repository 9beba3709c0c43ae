"""A portfolio: several solvers on one problem, the best result kept."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from jaxfuse.matching.coordinate_ascent import CoordinateAscent
from jaxfuse.matching.frank_wolfe import FrankWolfe
from jaxfuse.matching.graduated_assignment import GraduatedAssignment
from jaxfuse.matching.problem import Problem
from jaxfuse.matching.race import Race, Stage
from jaxfuse.matching.result import Matching, Solver

_CLEAR = 0.95


@jax.tree_util.register_static
@dataclass(frozen=True)
class Portfolio:
    """Run several solvers on one problem and keep the matching that is clearly the best.

    The default pairs the two whose failures differ: Frank-Wolfe, the stronger on networks that
    differ in more than noise, and graduated assignment with its reaction term, the stronger where
    the networks are noisy copies. Before them comes coordinate ascent, the cheapest: where a
    matching is beyond doubt, as between a network and its noisy copy or between the clients of one
    round, nothing else is run. A unit is clear when its match scores above all else in its row and
    its column. Of planted matchings nearly all units are and of lost ones about half; of the
    networks trained apart that were tried, fewer.

    Attributes:
        solvers: what is run, in order of preference, up to the first clear matching. Graduated
            assignment gets two sweeps of polish before it is compared: a matching that it has
            nearly recovered then shows.
        margin: relative gain of the objective for which a later solver is preferred. Below one
            percent the objective says nothing of the fused network (over 24 matchings of the
            OTFusion pair its correlation with accuracy is -0.2, `benchmarks/fusion_pair.py`), and
            an earlier solver's result is kept; where one solver fails, the other's objective is
            higher by tens of percent. The value was chosen on that same pair.
        polish: the ascent that follows from the best.
        opening: what is run first, and kept only if its matching is clear; None for nothing.

    A batch of problems, under `vmap`, goes through together: a solver is run for all of them as
    long as one of them is not beyond doubt. All ascents are one loop, so they are compiled once.

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
    opening: CoordinateAscent | None = CoordinateAscent(max_sweeps=2, start="known")

    def __post_init__(self) -> None:
        if not self.solvers:
            raise ValueError("a portfolio needs at least one solver")

    def solve(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> Matching:
        """Run the solvers from the same start; the trace is the winner's."""
        opening, polish = self.opening, self.polish
        stages = []
        if opening is not None:
            stages = [Stage("open", None, opening.max_sweeps, blank=opening.start == "known")]
        stages += [Stage.of(solver) for solver in self.solvers]
        stages += [Stage("finish", None, polish.max_sweeps)] if polish else []
        race = Race(tuple(stages), polish or CoordinateAscent(), self.margin, _CLEAR)
        return race.run(problem, start, key)
