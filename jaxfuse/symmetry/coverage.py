"""How much of a model a symmetry can move."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfuse.symmetry.axes import is_statistic
from jaxfuse.symmetry.tree import is_weight, named_leaves

if TYPE_CHECKING:
    from jaxfuse.symmetry.spec import Symmetry

PyTree = Any


def coverage(symmetry: "Symmetry", params: PyTree) -> float:
    """Return the share of the parameters that lie on an axis that carries a group.

    Running statistics are left out, and so are leaves that are no arrays of real numbers.

    Args:
        symmetry: the symmetry.
        params: the parameters, or their shapes.

    Returns:
        A number from 0 to 1; 0 for a model without parameters.

    Raises:
        ValueError: for parameters of another model.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.symmetry.spec import Symmetry
        >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2)), "bias": jnp.ones(10)}
        >>> symmetry = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, params)
        >>> coverage(symmetry, params)
        0.8
    """
    symmetry.check(params)
    statistics = {tensor.path for tensor in symmetry.tensors if tensor.statistic}
    sizes = {
        path: math.prod(np.shape(leaf))
        for path, leaf in named_leaves(params).items()
        if is_weight(leaf) and path not in statistics and not is_statistic(path)
    }
    covered = sum(
        math.prod(tensor.shape)
        for tensor in symmetry.tensors
        if tensor.path in sizes and any(group is not None for group in tensor.groups)
    )
    return covered / max(sum(sizes.values()), 1)
