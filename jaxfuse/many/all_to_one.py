"""Align all to one: every network is matched to the first."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.many.problem import ManyProblem, Matchings
from jaxfuse.matching.portfolio import Portfolio
from jaxfuse.matching.result import Solver
from jaxfuse.status import Status


@jax.tree_util.register_static
@dataclass(frozen=True)
class AllToOne:
    """Match every network to network 0, each on its own.

    The scheme of OTFusion and CCA-Merge (Horoi et al., ICML 2024) for more than two networks. It
    costs K - 1 two-model matchings, and what two networks other than the first have in common
    counts for nothing.

    Attributes:
        solver: the two-model solver; compiled once, run K - 1 times.

    The trace is one value: J at the end.

    Examples:
        >>> from jaxfuse.affinity import Linear
        >>> from jaxfuse.many import build_many
        >>> from jaxfuse.matching import CoordinateAscent
        >>> from jaxfuse.symmetry import infer_chain
        >>> a = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])]
        >>> b = [a[0][:, ::-1], a[1][::-1]]
        >>> problem = build_many([a, b, a], infer_chain(a), Linear())
        >>> AllToOne(CoordinateAscent()).solve_many(problem).orders["0"].tolist()
        [[0, 1], [1, 0], [0, 1]]
    """

    solver: Solver = Portfolio()

    def solve_many(self, problem: ManyProblem, key: jax.Array | None = None) -> Matchings:
        """Match from the solver's own start. The key is for solvers that use one."""
        reference = problem.network(0)
        keys = None if key is None else jax.random.split(key, problem.count)

        def match(step: tuple[jax.Array, jax.Array | None]) -> tuple:
            k, own_key = step
            two = problem.match(
                reference,
                problem.network(k),
                lambda pairs: {node: scores[0, k] for node, scores in pairs.items()},
            )
            matching = self.solver.solve(two, key=own_key)
            return matching.permutations, matching.status != Status.NOT_CONVERGED

        others = (jnp.arange(1, problem.count), None if keys is None else keys[1:])
        permutations, finished = lax.map(match, others)
        orders, aligned = {}, jnp.bool_(True)
        for node, order in problem.identity().items():
            orders[node] = jnp.concatenate([order[:1], permutations[node]])
            aligned &= jnp.all(orders[node] == order)
        objective = problem.objective_at(orders)
        stopped = jnp.where(jnp.all(finished), Status.CONVERGED, Status.NOT_CONVERGED)
        status = jnp.where(aligned, Status.ALREADY_ALIGNED, stopped).astype(jnp.int32)
        return Matchings(orders, objective, status, objective[None], jnp.int32(problem.count - 1))
