"""The weighted average of parameter trees."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.status import is_concrete
from jaxfuse.symmetry.tree import check_same_trees, is_weight

PyTree = Any


def average(params: Sequence[PyTree], weights: Sequence[float] | jax.Array | None = None) -> PyTree:
    """Average K parameter trees entry by entry.

    Args:
        params: K trees of one structure and shapes. Leaves that are no arrays of real numbers are
            taken from the first.
        weights: K non-negative numbers; they are normalised to sum to one. Equal by default.

    Returns:
        One tree, each leaf in the dtype of the first; sums are taken in float32 at least.

    Raises:
        ValueError: for no trees, trees that differ, a wrong number of weights, and, outside jit,
            negative or non-finite weights or a sum of zero.

    Differentiable in the parameters and the weights.

    Examples:
        >>> import jax.numpy as jnp
        >>> average([{"w": jnp.zeros(2)}, {"w": jnp.ones(2)}], [1, 3])["w"]
        Array([0.75, 0.75], dtype=float32)
    """
    params = list(params)
    if not params:
        raise ValueError("there is nothing to average: pass at least one parameter tree")
    for index, other in enumerate(params[1:], start=1):
        check_same_trees(params[0], other, ("params[0]", f"params[{index}]"))
    shares = normalise_weights(weights, len(params))

    def mix(first: Any, *others: Any) -> Any:
        if not is_weight(first):
            return first
        own = jax.dtypes.canonicalize_dtype(first.dtype)
        dtype = jnp.promote_types(own, jnp.float32)
        leaves = [jnp.asarray(leaf, dtype) for leaf in (first, *others)]
        total = sum(share * leaf for share, leaf in zip(shares, leaves, strict=True))
        return jnp.asarray(total, own)

    return jax.tree.map(mix, *params)


def normalise_weights(weights: Sequence[float] | jax.Array | None, count: int) -> list[jax.Array]:
    """Return `count` shares that sum to one.

    Raises:
        ValueError: as `average` does.
    """
    if weights is None:
        return [jnp.float32(1 / count)] * count
    array = jnp.asarray(weights, jnp.float32)
    if array.shape != (count,):
        raise ValueError(f"got {array.size} weights for {count} networks: pass one for each")
    if is_concrete(array):
        total = float(jnp.sum(array))
        if not (bool(jnp.all(array >= 0)) and 0 < total < float("inf")):
            raise ValueError(f"weights must be non-negative with a positive sum, got {weights}")
    return list(array / jnp.sum(array))
