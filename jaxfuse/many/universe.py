"""The universe of K networks: its width, its order, and what is returned of it."""

import math
from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp

from jaxfuse.assignment import invert_permutation
from jaxfuse.many.problem import ManyProblem, Matchings, Orders
from jaxfuse.matching.result import select
from jaxfuse.status import Status


def widen(problem: ManyProblem, width: float) -> ManyProblem:
    """Give every network units without features, up to `width` times as many.

    To match those too is to match the others into a universe of more units: a unit that is matched
    to empty ones alone adds nothing to J, so it stays alone where any company would cost.

    Args:
        problem: the objective.
        width: units of the universe over those of a network, 1 or more.

    Returns:
        The problem with `ceil(width * n)` units per node; the same one for a width of 1.

    Raises:
        ValueError: for a width below 1, and for nodes that another one indexes.
    """
    if width < 1:
        raise ValueError(
            f"a universe holds the units of network 0: width is 1 or more, got {width}"
        )
    if width == 1:
        return problem
    if problem.parents:
        child, parent = problem.parents[0]
        raise ValueError(
            f"the units of {child!r} are indexed by those of {parent!r}, so their number in the "
            f"universe stays as it is: use width=1, got {width}"
        )
    more = {node: math.ceil(width * n) - n for node, n in problem.sizes.items()}
    units = {node: _pad(x, {1: more[node]}) for node, x in problem.units.items()}
    pairs = {node: _pad(x, {2: more[node], 3: more[node]}) for node, x in problem.pairs.items()}
    blocks = []
    for links, block in zip(problem.links, problem.blocks, strict=True):
        # Tensors of one shape get as many units more, those of one node.
        axes = {2 + axis: more[node] for node, axis in zip(links[0], block.unit_axes, strict=True)}
        blocks.append(replace(block, features=_pad(block.features, axes)))
    return replace(problem, units=units, blocks=tuple(blocks), pairs=pairs)


def rebase(orders: Orders) -> Orders:
    """Reorder the universe so that network 0 has its own order, int32 `[K, N]` without -1."""
    return {node: order[:, invert_permutation(order[0])] for node, order in orders.items()}


def finish(
    problem: ManyProblem,
    orders: Orders,
    finished: jax.Array,
    trace: jax.Array,
    iterations: int | jax.Array,
    sizes: Mapping[str, int] | None = None,
) -> Matchings:
    """Put orders up against those that the networks have, and make a result of the better ones.

    The identity wins ties: networks that are aligned already are left as they are.

    Args:
        problem: the objective, as wide as the orders.
        orders: per node int32 `[K, N]` without -1.
        finished: whether no limit stopped the search.
        trace: as `Matchings` has it.
        iterations: steps taken.
        sizes: per node the units of a network; those above them are empty, and become -1.
    """
    identity = problem.identity()
    orders = rebase(orders)
    objective, at_identity = problem.objective_at(orders), problem.objective_at(identity)
    aligned = at_identity >= objective
    stopped = jnp.where(finished, Status.CONVERGED, Status.NOT_CONVERGED)
    status = jnp.where(aligned, Status.ALREADY_ALIGNED, stopped).astype(jnp.int32)
    kept = select(aligned, identity, orders)
    if sizes is not None:
        kept = {node: jnp.where(order < sizes[node], order, -1) for node, order in kept.items()}
    best = jnp.where(aligned, at_identity, objective)
    return Matchings(kept, best, status, trace, jnp.int32(iterations))


def _pad(array: jax.Array, more: Mapping[int, int]) -> jax.Array:
    return jnp.pad(array, [(0, more.get(axis, 0)) for axis in range(array.ndim)])
