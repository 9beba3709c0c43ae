"""Hierarchical merging: a balanced binary tree of pairwise matchings."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfuse.many.problem import ManyProblem, Matchings, Orders
from jaxfuse.many.universe import finish
from jaxfuse.matching.portfolio import Portfolio
from jaxfuse.matching.result import Solver
from jaxfuse.status import Status


@jax.tree_util.register_static
@dataclass(frozen=True)
class Hierarchical:
    """Match networks in pairs, then the pairs in pairs, and so on up a balanced binary tree.

    Hierarchical Re-Basin (arXiv 2510.09174). In each merge the sum of the right half is matched to
    the sum of the left half, and all networks of the right half move on together.

    Attributes:
        solver: the two-model solver; compiled once, run K - 1 times.

    The trace `[K]` is J within the sets merged so far.

    Examples:
        >>> from jaxfuse.affinity import Linear
        >>> from jaxfuse.many import build_many
        >>> from jaxfuse.matching import CoordinateAscent
        >>> from jaxfuse.symmetry import infer_chain
        >>> a = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])]
        >>> b = [a[0][:, ::-1], a[1][::-1]]
        >>> problem = build_many([a, b, a], infer_chain(a), Linear())
        >>> Hierarchical(CoordinateAscent()).solve_many(problem).orders["0"].tolist()
        [[0, 1], [1, 0], [0, 1]]
    """

    solver: Solver = Portfolio()

    def solve_many(self, problem: ManyProblem, key: jax.Array | None = None) -> Matchings:
        """Match from the solver's own start. The key is for solvers that use one."""
        left, right = merges(problem.count)
        keys = None if key is None else jax.random.split(key, len(left))

        def merge(orders: Orders, step: tuple) -> tuple[Orders, tuple[jax.Array, jax.Array]]:
            a, b, own_key = step
            two = problem.between(a, b, orders)
            matching = self.solver.solve(two, key=own_key)
            moved = {
                node: jnp.where(b[:, None] > 0, order[:, matching.permutations[node]], order)
                for node, order in orders.items()
            }
            return moved, (matching.objective, matching.status != Status.NOT_CONVERGED)

        steps = (jnp.asarray(left), jnp.asarray(right), keys)
        orders, (gains, finished) = lax.scan(merge, problem.identity(), steps)
        trace = jnp.concatenate([jnp.zeros(1), jnp.cumsum(gains)])
        return finish(problem, orders, jnp.all(finished), trace, problem.count - 1)


def merges(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sets `[count - 1, count]` that are merged, left and right, children first.

    Examples:
        >>> left, right = merges(3)
        >>> left.tolist(), right.tolist()
        ([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    """
    left, right = [], []

    def merge(begin: int, end: int) -> None:
        if end - begin < 2:
            return
        middle = (begin + end + 1) // 2
        merge(begin, middle)
        merge(middle, end)
        index = np.arange(count)
        left.append((index >= begin) & (index < middle))
        right.append((index >= middle) & (index < end))

    merge(0, count)
    shape = (max(count - 1, 0), count)
    return np.array(left, np.float32).reshape(shape), np.array(right, np.float32).reshape(shape)
