"""Several starts of one solver in one compiled call, the best result kept."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxfuse.matching.coordinate_ascent import CoordinateAscent
from jaxfuse.matching.frank_wolfe import FrankWolfe
from jaxfuse.matching.problem import Problem, Scores
from jaxfuse.matching.projection import cold_potentials, soften
from jaxfuse.matching.result import Matching, Solver
from jaxfuse.matching.simulated_annealing import SimulatedAnnealing

_SINKHORN_ITERATIONS = 20


@jax.tree_util.register_static
@dataclass(frozen=True)
class MultiStart:
    """Run a solver from several starts at once, and keep the matching with the highest objective.

    The first start is the solver's own, or the one that is given; the others are random doubly
    stochastic matrices, the Sinkhorn projection of Gaussian noise. All run in one call under
    `vmap`: it takes `starts` times the memory of the solver, and as many steps as the slowest
    start. Of equals the earliest is kept, and the result is never below that of the first start.

    Attributes:
        solver: what is run, a solver of two networks; many are matched by it all to the first.
        starts: number of starts, the solver's own included.
        tau: temperature of the projection of noise of unit variance; the lower, the nearer are the
            starts to permutations.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse.matching.problem import Problem
        >>> problem = Problem({"h": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, (), ())
        >>> MultiStart(starts=2).solve(problem, key=jax.random.key(0)).permutations["h"]
        Array([1, 0], dtype=int32)
    """

    solver: Solver = FrankWolfe()
    starts: int = 8
    tau: float = 1.0

    def __post_init__(self) -> None:
        if self.starts < 1 or not self.tau > 0:
            raise ValueError(f"starts must be 1 or more and tau positive: got {self}")
        if not isinstance(self.solver, Solver):
            raise ValueError(
                f"MultiStart runs solvers of two networks, as FrankWolfe() is: got {self.solver}"
            )

    def solve(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> Matching:
        """Match from all starts; status, trace and iterations are those of the best.

        Raises:
            ValueError: if there is no key.
        """
        if key is None:
            raise ValueError("MultiStart needs key=jax.random.key(seed)")
        starts, keys = self.draw(problem, start, key)
        results = jax.vmap(lambda s, k: self.solver.solve(problem, s, k))(starts, keys)
        best = jnp.argmax(results.objective)
        return jax.tree.map(lambda leaf: leaf[best], results)

    def draw(
        self, problem: Problem, start: Mapping[str, jax.Array] | None, key: jax.Array
    ) -> tuple[Scores, jax.Array]:
        """Return all starts, `[starts, n, n]` per node, and a key for each."""
        own = _own_start(self.solver, problem) if start is None else dict(start)
        noise_key, solver_key = jax.random.split(key)
        keys = jax.random.split(solver_key, self.starts)
        drawn = jax.vmap(lambda k: self._noise(problem, k))(
            jax.random.split(noise_key, self.starts)
        )
        return {n: drawn[n].at[0].set(matrix) for n, matrix in own.items()}, keys

    def _noise(self, problem: Problem, key: jax.Array) -> Scores:
        keys = jax.random.split(key, len(problem.nodes))
        noise = {
            node: jax.random.normal(k, (n, n))
            for k, (node, n) in zip(keys, problem.sizes.items(), strict=True)
        }
        taus = {node: jnp.float32(self.tau) for node in noise}
        cold = cold_potentials(problem.sizes, problem.parents)
        return soften(noise, taus, cold, _SINKHORN_ITERATIONS, problem.parents)[0]


def _own_start(solver: Solver, problem: Problem) -> Scores:
    """Return as matrices where a solver starts when it is given none."""
    if isinstance(solver, CoordinateAscent | SimulatedAnnealing):
        return {node: jnp.eye(n) for node, n in problem.sizes.items()}
    return problem.barycentre()
