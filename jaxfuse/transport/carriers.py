"""Which axes of a leaf carry units that move, and whether the leaf computes or takes them."""

from jaxfuse.symmetry.axes import TensorAxes, is_statistic
from jaxfuse.symmetry.permute import context_axes
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import leaf_name


def carriers(symmetry: Symmetry, tensor: TensorAxes) -> dict[int, tuple[int, ...]]:
    """Return the axes whose units a linear map moves, each with the axes that index it.

    An axis that only indexes another one on the leaf, as that of the heads where there are units in
    them, is none.

    Args:
        symmetry: which says what a group is indexed by.
        tensor: the leaf.

    Returns:
        Per axis of the view the axes that index it, outermost first.

    Raises:
        ValueError: if two groups on the leaf are indexed by one axis that moves.

    Examples:
        >>> carriers(Symmetry((("h", 8),), ()), TensorAxes("kernel", (3, 8), (None, "h"), output=1))
        {1: ()}
    """
    contexts = {
        axis: context_axes(symmetry, tensor, axis)
        for axis, group in enumerate(tensor.groups)
        if group is not None
    }
    indexing = [axis for axes in contexts.values() for axis in axes]
    found = {axis: axes for axis, axes in contexts.items() if axis not in indexing}
    moving = [a for axes in found.values() for a in axes if tensor.groups[a] is not None]
    if len(moving) != len(set(moving)):
        raise ValueError(
            f"leaf {tensor.path!r} carries several groups that one axis indexes ({tensor.groups}): "
            "linear maps need an axis for each; pin one of the groups"
        )
    return found


def computes(symmetry: Symmetry, tensor: TensorAxes, axis: int) -> bool:
    """Tell whether a leaf computes the units on an axis, or is added to them, or takes them.

    A kernel says so by its `output`. One whose outputs are all pinned, the last layer's, may not:
    then it takes the units if an axis is pinned as an output of the network, or if its last axis is
    pinned for no known reason, as in `[in, out]`.

    Examples:
        >>> spec = Symmetry((("h", 8),), ())
        >>> computes(spec, TensorAxes("first", (3, 8), (None, "h"), output=1), 1)
        True
        >>> computes(spec, TensorAxes("last", (8, 3), ("h", None)), 0)
        False
    """
    if tensor.output is not None:
        return tensor.output == axis
    if is_statistic(tensor.path) or "bias" in leaf_name(tensor.path):
        return True
    reasons = {name: reason for name, _, reason in symmetry.pinned}
    names = tensor.pins or (None,) * len(tensor.shape)
    pinned = [name for name, group in zip(names, tensor.groups, strict=True) if group is None]
    if any(name is not None and reasons.get(name) == "output" for name in pinned):
        return False
    last = len(tensor.shape) - 1
    # Ones behind two axes or more only make a vector fit an image, as in [channels, 1, 1].
    is_kernel = tensor.groups[last] is None and (tensor.shape[last] > 1 or last == 1)
    return not (is_kernel and names[last] not in reasons)
