"""Take the edges of a network out of its tensors: what an affinity compares."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxfuse.symmetry.axes import TensorAxes


def edges(leaf: jax.Array, tensor: TensorAxes) -> jax.Array:
    """Arrange a tensor as the edges between the units of its groups.

    For a tensor whose groups are indexed by nothing; `jaxfuse.affinity.terms` has the others.

    Args:
        leaf: the tensor, in its own shape.
        tensor: which axes carry groups, and which make up the vector on one edge.

    Returns:
        float32 `[n, m, e]`: the vector of `e` entries on the edge from unit i of the tensor's
        first group to unit j of its second. Where the tensor carries one group, the second axis
        runs over its pinned units (inputs, outputs); a bias has one.

    Raises:
        ValueError: unless one or two axes carry groups.

    Examples:
        >>> import jax.numpy as jnp
        >>> conv = TensorAxes("conv/kernel", (3, 3, 8, 16), (None, None, "a", "b"), (0, 1))
        >>> edges(jnp.ones((3, 3, 8, 16)), conv).shape
        (8, 16, 9)
    """
    carriers = [axis for axis, group in enumerate(tensor.groups) if group is not None]
    if len(carriers) not in (1, 2):
        raise ValueError(
            f"{len(carriers)} axes of leaf {tensor.path!r} carry groups {tensor.groups}; an "
            "affinity compares edges between two"
        )
    block = tensor.take(leaf)
    return arrange(block, *split_axes(tensor, [[axis] for axis in carriers]))


def split_axes(
    tensor: TensorAxes, carriers: Sequence[Sequence[int]]
) -> tuple[list[int], list[int], list[int]]:
    """Return the axes of the row units, of the column units, and of the vector on an edge.

    With one carrier the pinned axes are column units, apart from those in `edge`; with more they
    join the vector, and the columns are all the axes of the later carriers.
    """
    rows = list(carriers[0])
    columns = [axis for other in carriers[1:] for axis in other]
    columns = [axis for axis in dict.fromkeys(columns) if axis not in rows]
    carried = {*rows, *columns}
    pinned = [a for a in range(len(tensor.shape)) if a not in carried and a not in tensor.edge]
    edge = [axis for axis in tensor.edge if axis not in carried]
    return (rows, pinned, edge) if len(carriers) == 1 else (rows, columns, pinned + edge)


def arrange(
    block: jax.Array, rows: Sequence[int], columns: Sequence[int], vector: Sequence[int]
) -> jax.Array:
    """Arrange a block as float32 `[n, m, e]`: its row units, its column units, the vector."""
    sizes = [math.prod(block.shape[axis] for axis in axes) for axes in (rows, vector, columns)]
    block = jnp.asarray(block).astype(jnp.float32)
    # Features lie in this order, so that a transposition of large tensors is left out.
    return jnp.transpose(block, (*rows, *vector, *columns)).reshape(sizes).swapaxes(1, 2)
