"""J of many networks on the segment from soft matchings to permutations, exactly."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.many.problem import ManyProblem
from jaxfuse.matching.stacked import stack_slots


def values_along(
    problem: ManyProblem, point: Mapping[str, jax.Array], corner: Mapping[str, jax.Array]
) -> jax.Array:
    """Return J at even steps from soft matchings to orders, enough to know it in between.

    Where a tensor joins c groups, the features of a network in the universe are a polynomial of
    degree c of the step, and their inner products one of degree 2c: 4 for most networks. So the
    features at c + 1 points, two of which the gradient and a gather give, are an exact line search.

    Args:
        problem: the objective.
        point: soft matchings `[K, n, n]` per node.
        corner: orders int32 `[K, n]` per node.

    Returns:
        J at 0, 1/d, ..., 1, `[d + 1]` for a degree of d.
    """
    degree = 2 * max((len(links[0]) for links in problem.links), default=1)
    ends = {node: order_matrices(order) for node, order in corner.items()}

    def at(node: str, step: float) -> jax.Array:
        return (1 - step) * point[node] + step * ends[node]

    total = jnp.zeros(degree + 1)
    for node, units in problem.units.items():
        moved = [
            jnp.einsum("kie,kiu->kue", units, at(node, step), precision=HIGHEST)
            for step in (0.0, 1.0)
        ]
        total += _across_along(moved, degree)
    for links, block in zip(problem.links, problem.blocks, strict=True):
        soft = jax.vmap(jax.vmap(lambda own, *us: own.soft(*us)))
        hard = jax.vmap(jax.vmap(lambda own, *orders: own.hard(*orders)))
        starts, stops, columns = (
            stack_slots(each, links, axis=1) for each in (point, ends, corner)
        )
        moved = [
            soft(block, *((1 - s) * u + s * v for u, v in zip(starts, stops, strict=True)))
            for s in np.linspace(0.0, 1.0, len(links[0]) + 1)[:-1]
        ]
        total += _across_along([*moved, hard(block, *columns)], degree)
    if problem.pairs:
        steps = (0.0, 0.5, 1.0)
        pairs = [problem.pair_value({node: at(node, s) for node in point}) for s in steps]
        total += jnp.dot(_interpolation(2, degree), jnp.stack(pairs), precision=HIGHEST)
    return total


def order_matrices(orders: jax.Array) -> jax.Array:
    """Return the matchings `[K, n, n]` of orders int32 `[K, n]`: `U[k, orders[k, u], u] = 1`."""
    return jnp.swapaxes(jax.nn.one_hot(orders, orders.shape[1]), 1, 2)


def _across_along(moved: Sequence[jax.Array], degree: int) -> jax.Array:
    """Return the sum of <X_k, X_l> over k < l at the knots of J, from X at even steps."""
    ones = jnp.ones(len(moved[0]))
    totals = [jnp.tensordot(ones, each, axes=1, precision=HIGHEST) for each in moved]
    products = [
        [
            jnp.vdot(s, t, precision=HIGHEST) - jnp.vdot(x, y, precision=HIGHEST)
            for t, y in zip(totals, moved, strict=True)
        ]
        for s, x in zip(totals, moved, strict=True)
    ]
    gram = jnp.stack([jnp.stack(row) for row in products]) / 2
    weights = _interpolation(len(moved) - 1, degree)
    return jnp.einsum("ds,st,dt->d", weights, gram, weights, precision=HIGHEST)


def _interpolation(degree: int, wanted: int) -> jax.Array:
    """Return the weights `[wanted + 1, degree + 1]` of even samples of a polynomial at others."""
    knots, others = np.linspace(0.0, 1.0, degree + 1), np.linspace(0.0, 1.0, wanted + 1)
    known = np.vander(knots, degree + 1)
    return jnp.asarray(np.vander(others, degree + 1) @ np.linalg.inv(known), jnp.float32)
