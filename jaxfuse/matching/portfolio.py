"""A portfolio: several solvers on one problem, the best result kept."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.matching.coordinate_ascent import CoordinateAscent, finish, is_clear
from jaxfuse.matching.frank_wolfe import FrankWolfe
from jaxfuse.matching.graduated_assignment import GraduatedAssignment
from jaxfuse.matching.problem import Permutations, Problem
from jaxfuse.matching.result import Matching, Solver
from jaxfuse.status import Status

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

    Under `vmap` all solvers run, for one problem alone only those that it takes.

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
    opening: CoordinateAscent | None = CoordinateAscent(max_sweeps=1)

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
        # Traced once each, though their shapes are asked for first.
        runs = [jax.jit(solver.solve) for solver in self.solvers]
        traces = [jax.eval_shape(run, problem, start, key).trace for run in runs]
        length = max(map(len, traces))

        def found_by(run: Callable[..., Matching]) -> Matching:
            found = run(problem, start, key)
            trace = jnp.pad(found.trace, (0, length - len(found.trace)), "edge")
            return found._replace(trace=trace)

        def challenge(best: Matching, run: Callable[..., Matching]) -> Matching:
            found = found_by(run)
            ahead = found.objective - best.objective > self.margin * jnp.abs(best.objective)
            return jax.tree.map(lambda new, old: jnp.where(ahead, new, old), found, best)

        def settles(matching: Matching) -> jax.Array:
            return clear_share(problem, matching.permutations) >= _CLEAR

        if self.opening is None:
            best, clear = found_by(runs[0]), jnp.bool_(False)
        else:
            ascent = self.opening.climb(problem, start, key)
            trace = jnp.full(length, ascent.objective)
            status = Status.CONVERGED.array()
            held = Matching(ascent.permutations, ascent.objective, status, trace, ascent.sweep)
            clear = ascent.clear >= _CLEAR
            best = lax.cond(clear, lambda: held, lambda: found_by(runs[0]))
        for run in runs[1:]:
            clear = lax.cond(clear, lambda: jnp.bool_(True), functools.partial(settles, best))
            best = lax.cond(clear, lambda best=best: best, functools.partial(challenge, best, run))
        finished = best.status != Status.NOT_CONVERGED
        return finish(
            problem, best.permutations, self.polish, finished, best.trace, best.iterations
        )


def clear_share(problem: Problem, permutations: Permutations) -> jax.Array:
    """Return the share of units that are clear (`is_clear`)."""
    scores = problem.scores_at(permutations)
    clear = [is_clear(scores[node], columns) for node, columns in permutations.items()]
    return jnp.mean(jnp.concatenate(clear))
