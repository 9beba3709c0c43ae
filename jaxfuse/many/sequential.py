"""Sequential matching: each network is matched to the sum of those before it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.many.bundle import Bundle
from jaxfuse.many.problem import ManyProblem, Matchings, pick_weighted
from jaxfuse.many.universe import finish
from jaxfuse.matching.portfolio import Portfolio
from jaxfuse.matching.result import Solver
from jaxfuse.status import Status


@jax.tree_util.register_static
@dataclass(frozen=True)
class Sequential:
    """Match network k to the sum of networks 0 to k - 1 as they have been matched.

    The loop of CLAFusion (Nguyen et al., 2023). Every network sees what all before it agree on, so
    the noise of single ones averages out; the result depends on their order. Each matching
    maximises what its network adds to J, given those before it.

    Attributes:
        solver: the two-model solver; compiled once, run K - 1 times.

    The trace `[K]` is J of the networks matched so far.

    Examples:
        >>> from jaxfuse.affinity import Linear
        >>> from jaxfuse.many import build_many
        >>> from jaxfuse.matching import CoordinateAscent
        >>> from jaxfuse.symmetry import infer_chain
        >>> a = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])]
        >>> b = [a[0][:, ::-1], a[1][::-1]]
        >>> problem = build_many([a, b, b], infer_chain(a), Linear())
        >>> Sequential(CoordinateAscent()).solve_many(problem).orders["0"].tolist()
        [[0, 1], [1, 0], [1, 0]]
    """

    solver: Solver = Portfolio()

    def solve_many(self, problem: ManyProblem, key: jax.Array | None = None) -> Matchings:
        """Match from the solver's own start. The key is for solvers that use one."""
        keys = None if key is None else jax.random.split(key, problem.count)
        before = jnp.arange(problem.count)

        def match(carried: tuple[Bundle, dict], step: tuple[jax.Array, jax.Array | None]) -> tuple:
            total, orders = carried
            k, own_key = step
            own, one = problem.network(k), jax.nn.one_hot(k, problem.count)
            pick = pick_weighted((before < k).astype(jnp.float32), one, orders)
            two = problem.match(total, own, pick)
            matching = self.solver.solve(two, key=own_key)
            moved = matching.permutations
            orders = {node: order.at[k].set(moved[node]) for node, order in orders.items()}
            finished = matching.status != Status.NOT_CONVERGED
            return (total + own.hard(moved), orders), (matching.objective, finished)

        first = (problem.network(0), problem.identity())
        others = (before[1:], None if keys is None else keys[1:])
        (_, orders), (gains, finished) = lax.scan(match, first, others)
        trace = jnp.concatenate([jnp.zeros(1), jnp.cumsum(gains)])
        return finish(problem, orders, jnp.all(finished), trace, problem.count - 1)
