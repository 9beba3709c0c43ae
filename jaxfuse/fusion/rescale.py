"""Give the units of an average the strength that the units of its parents had."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.status import is_concrete
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import map_named, named_leaves

PyTree = Any


def rescale_units(
    fused: PyTree,
    parents: Sequence[PyTree],
    shares: Sequence[float | jax.Array],
    symmetry: Symmetry,
) -> PyTree:
    """Scale the incoming weights of every hidden unit to the mean norm of its parents'.

    Matched units agree only in part, so their average is shorter than either, and its outputs vary
    less: the variance collapse of REPAIR (Jordan et al., ICLR 2023), which compounds layer by
    layer. With inputs of equal variance the norm of the incoming weights is the standard
    deviation of the unit, so restoring the norm restores it without any data. On 24 matchings
    of the OTFusion pair it raises the mean accuracy from 96.6 to 96.7 %
    (`benchmarks/fusion_pair.py`), more where the matching is worse.

    Args:
        fused: the average.
        parents: the K aligned networks.
        shares: their K weights, with sum one.
        symmetry: which says what computes a unit (`TensorAxes.output`).

    Returns:
        A tree like `fused`, with factors in float32. Biases, normalisation layers and outputs stay
        as they are.

    Differentiable.

    Examples:
        >>> import jax.numpy as jnp
        >>> first, second = jnp.array([[1.0], [0.0]]), jnp.array([[0.0], [1.0]])
        >>> spec = Symmetry.from_axes({"kernel": (None, "h")}, {"kernel": first})
        >>> parents = [{"kernel": first}, {"kernel": second}]
        >>> rescale_units({"kernel": (first + second) / 2}, parents, [0.5, 0.5], spec)
        {'kernel': Array([[0.70710677],
               [0.70710677]], dtype=float32)}
    """
    norms = [unit_norms(parent, symmetry) for parent in parents]
    factors = {}
    for group, norm in unit_norms(fused, symmetry).items():
        target = sum(share * other[group] for share, other in zip(shares, norms, strict=True))
        factors[group] = jnp.where(norm > 0, target / jnp.where(norm > 0, norm, 1.0), 1.0)
    tensors = {tensor.path: tensor for tensor in symmetry.tensors}

    def scale(path: str, leaf: Any) -> Any:
        tensor = tensors.get(path)
        if tensor is None or tensor.output is None:
            return leaf
        factor = factors.get(tensor.groups[tensor.output])
        if factor is None:
            return leaf
        units = [1] * len(tensor.shape)
        units[tensor.output] = -1
        if isinstance(leaf, np.ndarray) and is_concrete(factor):
            # NumPy on NumPy keeps float64, which JAX would round.
            scaled = leaf.reshape(tensor.shape) * np.asarray(factor).reshape(units)
            return scaled.reshape(leaf.shape).astype(leaf.dtype)
        viewed = jnp.reshape(leaf, tensor.shape) * factor.reshape(units)
        return jnp.reshape(viewed, jnp.shape(leaf)).astype(
            jax.dtypes.canonicalize_dtype(leaf.dtype)
        )

    return map_named(scale, fused)


def unit_norms(params: PyTree, symmetry: Symmetry) -> dict[str | None, jax.Array]:
    """Return per group the norm of the incoming weights of every unit, `[n]`.

    Its derivative at zero is zero.
    """
    leaves = named_leaves(params)
    squares: dict[str | None, jax.Array] = {}
    for tensor in symmetry.tensors:
        if tensor.output is None or tensor.groups[tensor.output] is None:
            continue
        viewed = jnp.reshape(leaves[tensor.path], tensor.shape).astype(jnp.float32)
        others = tuple(axis for axis in range(viewed.ndim) if axis != tensor.output)
        group = tensor.groups[tensor.output]
        squares[group] = squares.get(group, 0.0) + jnp.sum(jnp.square(viewed), axis=others)
    return {
        group: jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1.0)), 0.0)
        for group, total in squares.items()
    }
