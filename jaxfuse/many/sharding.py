"""The problem of many networks spread over devices."""

from dataclasses import replace
from typing import TypeVar

import jax
from jax import lax
from jax.sharding import NamedSharding

from jaxfuse.many.problem import ManyProblem

Tree = TypeVar("Tree")


def shard_networks(problem: ManyProblem, sharding: NamedSharding) -> ManyProblem:
    """Spread the features of a problem over devices, those of one network on one of them.

    `UniverseFrankWolfe` moves all networks at once, so each device then does the products of its
    own. Assignments every device does for all networks, and so with every step of the solvers that
    take one network after the other, which only share out the memory of the features.

    Args:
        problem: the problem.
        sharding: of an array `[K]`: `NamedSharding(mesh, PartitionSpec("models"))`.

    Raises:
        ValueError: if the devices do not divide the networks.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jax.sharding import AxisType, PartitionSpec
        >>> from jaxfuse import Linear, UniverseFrankWolfe, build_many, infer_chain
        >>> a = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])]
        >>> b = [a[0][:, ::-1], a[1][::-1]]
        >>> mesh = jax.make_mesh((1,), ("models",), (AxisType.Auto,), devices=jax.devices()[:1])
        >>> problem = build_many([a, b, a], infer_chain(a), Linear())
        >>> problem = shard_networks(problem, NamedSharding(mesh, PartitionSpec("models")))
        >>> jax.jit(UniverseFrankWolfe().solve_many)(problem).orders["0"].tolist()
        [[0, 1], [1, 0], [0, 1]]
    """
    try:
        sharding.shard_shape((problem.count,))
    except ValueError as error:
        raise ValueError(
            f"the {problem.count} networks are no multiple of the devices of {sharding.spec} in "
            f"{sharding.mesh}: take a mesh of fewer, or repeat a network"
        ) from error

    def spread(tree: Tree) -> Tree:
        return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, sharding), tree)

    return replace(
        problem,
        units=spread(problem.units),
        blocks=spread(problem.blocks),
        pairs=spread(problem.pairs),
        pair_weights=spread(problem.pair_weights),
    )
