"""Take the edges of a network out of its tensors: what an affinity compares."""

import math

import jax
import jax.numpy as jnp

from jaxfuse.symmetry.spec import TensorAxes


def edges(leaf: jax.Array, tensor: TensorAxes) -> jax.Array:
    """Arrange a tensor as the edges between the units of its groups.

    Args:
        leaf: the tensor, in its own shape.
        tensor: which axes carry groups, and which make up the vector on one edge.

    Returns:
        float32 `[n, m, e]`: the vector of `e` entries on the edge from unit i of the tensor's
        first group to unit j of its second. Where the tensor carries one group, the second axis
        runs over its pinned units (inputs, outputs); a bias has one.

    Raises:
        ValueError: if more than two axes carry groups.

    Examples:
        >>> import jax.numpy as jnp
        >>> conv = TensorAxes("conv/kernel", (3, 3, 8, 16), (None, None, "a", "b"), (0, 1))
        >>> edges(jnp.ones((3, 3, 8, 16)), conv).shape
        (8, 16, 9)
    """
    carriers = [axis for axis, group in enumerate(tensor.groups) if group is not None]
    if len(carriers) > 2:
        raise ValueError(
            f"{len(carriers)} axes of leaf {tensor.path!r} carry groups {tensor.groups}; an "
            "affinity compares edges between two"
        )
    pinned = [a for a in range(len(tensor.shape)) if a not in carriers and a not in tensor.edge]
    vector = list(tensor.edge) if len(carriers) == 1 else pinned + list(tensor.edge)
    units = carriers if len(carriers) == 2 else carriers + pinned
    viewed = jnp.reshape(leaf, tensor.shape).astype(jnp.float32)
    taps = math.prod(tensor.shape[axis] for axis in vector)
    return jnp.transpose(viewed, units + vector).reshape((tensor.shape[carriers[0]], -1, taps))
