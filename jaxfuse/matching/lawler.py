"""The matching problem as one quadratic form over the candidate pairs of all groups.

A candidate pair (i, j) says that unit i of A may correspond to unit j of B, and a vector gives
every candidate pair of every node a number: a dict of matrices `[n, n]`. With the node terms on
the diagonal, as `x^2 = x` where x is 0 or 1, the objective is `J(x) = <x, M x>` at permutations
(Lawler, 1963). Written out, M has a row for every candidate pair; its product with a vector comes
from the scores, so that no solver holds more than vectors.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfuse.matching.problem import Problem, Scores, inner


def check_size(problem: Problem, limit: int, method: str) -> None:
    """Refuse problems that are not quadratic, and those with too many candidate pairs.

    Args:
        problem: the objective.
        limit: most candidate pairs, the sum of n^2 over the nodes.
        method: who asks.

    Raises:
        ValueError: if a tensor joins more than two groups, or there are more pairs than the limit.
    """
    if not problem.is_quadratic:
        link = max(problem.joins, key=len)
        raise ValueError(
            f"{method} needs an objective that is quadratic in the matching, and one tensor joins "
            f"the groups {', '.join(link)}: use FrankWolfe or GraduatedAssignment"
        )
    pairs = sum(n**2 for n in problem.sizes.values())
    if pairs > limit:
        raise ValueError(
            f"{method} holds vectors of all candidate pairs: got {pairs} of them, "
            f"{pairs * 4 / 2**30:.2f} GiB a vector, over limit={limit} (the affinity written out "
            f"would have {pairs**2:.1e} entries). Raise limit= where the memory is there, or use "
            "CoordinateAscent, which holds one group at a time"
        )


def product(problem: Problem, vector: Mapping[str, jax.Array]) -> Scores:
    """Return M times a vector, `[n, n]` per node."""
    return _symmetric(problem, problem.scores(vector), vector)


def product_at(problem: Problem, permutations: Mapping[str, jax.Array]) -> Scores:
    """Return M times a matching, int32 `[n]` per node: half the products of `product`."""
    vector = {node: jax.nn.one_hot(columns, len(columns)) for node, columns in permutations.items()}
    return _symmetric(problem, problem.scores_at(permutations), vector)


def raised(vector: Scores) -> Scores:
    """Add to the pairs of every node the smallest constant that leaves none negative.

    On permutations a constant for all products of two pairs of a node adds the same to every J.
    The methods that need a non-negative M, as affinities in vision are, get this shift at every
    step instead: the smallest for the vector at hand. Where M is non-negative it is zero, and the
    method is the published one.
    """
    return {node: values - jnp.minimum(jnp.min(values), 0.0) for node, values in vector.items()}


def blend(
    point: Mapping[str, jax.Array], permutations: Mapping[str, jax.Array], share: jax.Array
) -> Scores:
    """Return the vector that lies a share of the way from a point to a matching."""
    return {
        node: ((1 - share) * values).at[jnp.arange(len(values)), permutations[node]].add(share)
        for node, values in point.items()
    }


def norm(vector: Mapping[str, jax.Array]) -> jax.Array:
    """Return the Euclidean norm of a vector."""
    return jnp.sqrt(inner(vector, vector))


def _symmetric(problem: Problem, scores: Scores, vector: Mapping[str, jax.Array]) -> Scores:
    """Turn scores, where the blocks count twice and the node terms are constant, into M x."""
    return {
        node: terms * vector[node] + (scores[node] - terms) / 2
        for node, terms in problem.nodes.items()
    }
