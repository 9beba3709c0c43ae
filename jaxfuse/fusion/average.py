"""The weighted average of parameter trees."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
        One tree, each leaf in the dtype of the first; sums are taken in float32 at least. Outside
        jit, leaves that are NumPy arrays in every tree stay NumPy arrays and keep float64; any
        other float64 becomes float32 unless JAX has 64 bits enabled.

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
        return weighted_sum((first, *others), shares)

    return jax.tree.map(mix, *params)


def weighted_sum(leaves: Sequence[Any], shares: Sequence[float | jax.Array]) -> Any:
    """Return `sum_k shares[k] * leaves[k]` in the dtype of the first, by float32 sums or wider."""
    own = leaves[0].dtype
    if all(isinstance(leaf, np.ndarray) for leaf in leaves) and is_concrete(*shares):
        # NumPy on NumPy keeps float64, which JAX would round.
        wide = np.promote_types(own, np.float32)
        pairs = zip(shares, leaves, strict=True)
        return np.asarray(sum(float(share) * leaf.astype(wide) for share, leaf in pairs), own)
    own = jax.dtypes.canonicalize_dtype(own)
    wide = jnp.promote_types(own, jnp.float32)
    pairs = zip(shares, leaves, strict=True)
    return jnp.asarray(sum(share * jnp.asarray(leaf, wide) for share, leaf in pairs), own)


def normalise_weights(
    weights: Sequence[float] | jax.Array | None, count: int
) -> list[float] | list[jax.Array]:
    """Return `count` shares that sum to one: plain numbers unless the weights are traced.

    Raises:
        ValueError: as `average` does.
    """
    if weights is None:
        return [1 / count] * count
    concrete = is_concrete(*jax.tree.leaves(weights))
    array = np.asarray(weights, np.float64) if concrete else jnp.asarray(weights, jnp.float32)
    if array.shape != (count,):
        raise ValueError(f"got {array.size} weights for {count} networks: pass one for each")
    if isinstance(array, np.ndarray):
        if not (np.all(array >= 0) and 0 < np.sum(array) < np.inf):
            raise ValueError(f"weights must be non-negative with a positive sum, got {weights}")
        return (array / np.sum(array)).tolist()
    return list(array / jnp.sum(array))
