"""What methods that find maps check, and how they refuse."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.matching.nodes import list_nodes
from jaxfuse.networks import Networks
from jaxfuse.status import Status, is_concrete
from jaxfuse.symmetry.tree import is_weight, named_leaves
from jaxfuse.transport.maps import Maps, map_params

PyTree = Any


def finite_params(networks: Networks) -> tuple[Networks, jax.Array]:
    """Return the networks, with parameters of zero where any is NaN or infinite, and if none is."""
    finite = jnp.bool_(True)
    for leaf in named_leaves(networks.params).values():
        if is_weight(leaf):
            finite &= jnp.all(jnp.isfinite(leaf))

    def clean(leaf: Any) -> Any:
        return jax.lax.stop_gradient(jnp.where(finite, leaf, 0)) if is_weight(leaf) else leaf

    return dataclasses.replace(networks, params=jax.tree.map(clean, networks.params)), finite


def refuse_nested(networks: Networks, method: str) -> None:
    """Refuse groups that another one indexes, for a method that has no map for them.

    Raises:
        ValueError: with the groups and the remedy.
    """
    for name, node in list_nodes(networks.symmetry).items():
        if node.parent:
            raise ValueError(
                f"group {node.group!r} (node {name!r}) is indexed by {node.parent!r}, as units by "
                f"their heads: {method} has no map that keeps such units together. Pin the one or "
                f"the other, symmetry.pin({node.group!r}), or use a method that finds permutations"
            )


def join_status(statuses: Sequence[jax.Array], finite: jax.Array) -> jax.Array:
    """Return one status, int32, of all networks: the worst, and ALREADY_ALIGNED if all are."""
    codes = jnp.stack([jnp.int32(Status.ALREADY_ALIGNED), *statuses])
    aligned = codes == Status.ALREADY_ALIGNED
    worst = jnp.max(jnp.where(aligned, Status.CONVERGED, codes))
    status = jnp.where(jnp.all(aligned), Status.ALREADY_ALIGNED, worst)
    return jnp.where(finite, status, Status.NON_FINITE).astype(jnp.int32)


def check_function(
    networks: Networks, maps: Maps, method: str, *, examples: int = 32, tolerance: float = 1e-2
) -> None:
    """Refuse maps that change what a network computes, for a method whose maps must not.

    Nothing is checked without a function and inputs, and under jit.

    Args:
        networks: the networks, with their function and a batch.
        maps: the maps of all of them.
        method: for the message.
        examples: how many examples of the batch are run.
        tolerance: largest difference that counts as none, relative to the largest output. Rounding
            stays far below it, a unit that is no such symmetry's changes far more.

    Raises:
        ValueError: with the largest difference.
    """
    if not networks.has_data or not is_concrete(*jax.tree.leaves((networks, maps))):
        return
    run = jax.jit(networks.function(method))
    inputs = jax.tree.map(lambda x: x[:examples], networks.inputs)
    for k, (params, symmetry) in enumerate(zip(networks.params, networks.symmetries, strict=True)):
        moved = map_params(params, symmetry, *maps.of(k))
        pairs = zip(*(jax.tree.leaves(run(p, *inputs)) for p in (params, moved)), strict=True)
        for before, after in pairs:
            difference = float(jnp.max(jnp.abs(after - before)))
            largest = float(jnp.max(jnp.abs(before)))
            if not difference <= tolerance * largest:
                raise ValueError(
                    f"{method}: the maps of network {k} change its outputs by up to "
                    f"{difference:.3g}, where the largest is {largest:.3g}: a group is moved in a "
                    "way that its nonlinearity or normalisation does not allow. Name the groups "
                    "that may be moved so in groups="
                )
