"""Apply a matching to parameters: reorder the units of every group."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.status import is_concrete
from jaxfuse.symmetry.axes import TensorAxes
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import map_named

PyTree = Any


def permute(params: PyTree, symmetry: Symmetry, permutations: Mapping[str, jax.Array]) -> PyTree:
    """Reorder the units of every group: new unit i is the old unit `permutation[i]`.

    The function that the network computes does not change. Where a group is indexed by another, as
    the units of attention heads by their head, the entries of that one move first, as wholes: new
    unit a of new head i is the old unit `units[i, a]` of the old head `heads[i]`.

    Args:
        params: the parameters.
        symmetry: which axes belong together.
        permutations: per group int32 permutations of shape `symmetry.shape(group)`: `[n]`, or one
            for every entry of what the group is indexed by, `[..., n]`. Groups that are missing
            stay.

    Returns:
        Parameters of the same structure, shapes and dtypes; NumPy arrays stay NumPy arrays
        outside jit.

    Raises:
        ValueError: for parameters of another model, a group that the symmetry does not have, and a
            permutation of the wrong shape; where the permutations are concrete, also for one that
            does not hold every unit once.

    Examples:
        >>> import jax.numpy as jnp
        >>> params = {"in": jnp.arange(3.0)[None], "out": jnp.arange(3.0)[:, None]}
        >>> spec = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, params)
        >>> permute(params, spec, {"h": jnp.array([2, 0, 1])})["in"]
        Array([[2., 0., 1.]], dtype=float32)
    """
    symmetry.check(params)
    _check_permutations(symmetry, permutations)
    tensors: dict[str, list[TensorAxes]] = {}
    for tensor in symmetry.tensors:
        if any(group in permutations for group in tensor.groups):
            tensors.setdefault(tensor.path, []).append(tensor)
    concrete = is_concrete(*permutations.values())

    def reorder(path: str, leaf: Any) -> Any:
        for tensor in tensors.get(path, ()):
            # NumPy on NumPy keeps float64, which JAX would round.
            xp = np if isinstance(leaf, np.ndarray) and concrete else jnp
            block = reorder_block(tensor.take(leaf), tensor, symmetry, permutations, xp)
            leaf = tensor.put(leaf, block)
        return leaf

    return map_named(reorder, params)


def reorder_block(
    block: Any,
    tensor: TensorAxes,
    symmetry: Symmetry,
    permutations: Mapping[str, Any],
    xp: Any,
    cut: tuple[int, slice] | None = None,
) -> Any:
    """Reorder every axis of a block, what indexes before what is indexed by it.

    Args:
        block: the block, in the shape of its view.
        tensor: its axes.
        symmetry: the groups.
        permutations: per group its permutations, as `permute` takes them.
        xp: NumPy or its twin in JAX.
        cut: an axis of which the block holds but some entries, in their new order already, and
            which of the new order they are.
    """
    carriers = [axis for axis, group in enumerate(tensor.groups) if group in permutations]
    contexts = {axis: context_axes(symmetry, tensor, axis) for axis in carriers}
    for axis in sorted(carriers, key=lambda axis: len(contexts[axis])):
        if cut is not None and axis == cut[0]:
            continue
        columns = xp.asarray(permutations[str(tensor.groups[axis])])
        if cut is not None and cut[0] in contexts[axis]:
            columns = columns[(slice(None),) * contexts[axis].index(cut[0]) + (cut[1],)]
        if contexts[axis]:
            columns = spread(columns, (*contexts[axis], axis), len(tensor.shape))
            block = xp.take_along_axis(block, columns, axis=axis)
        else:
            block = xp.take(block, columns, axis=axis)
    return block


def context_axes(symmetry: Symmetry, tensor: TensorAxes, axis: int) -> tuple[int, ...]:
    """Return the axes of a tensor that index the permutation of the group on one axis.

    Where the tensor has as many axes of a context as of the group, they belong together in their
    order; otherwise the group belongs to the context's axis before it, or to its first.

    Args:
        symmetry: which says what the group is indexed by.
        tensor: the tensor.
        axis: an axis of its view that carries a group.

    Returns:
        The axes of the view, outermost context first; empty for most groups.

    Raises:
        ValueError: if the tensor has no axis of a context.

    Examples:
        >>> query = TensorAxes("query", (8, 2, 4), (None, "heads", "units"))
        >>> sizes = (("heads", 2), ("units", 4))
        >>> context_axes(Symmetry(sizes, (query,), over=(("units", ("heads",)),)), query, 2)
        (1,)
    """
    group = tensor.groups[axis]
    own = [other for other, name in enumerate(tensor.groups) if name == group]
    pins = tensor.pins or (None,) * len(tensor.groups)
    found = []
    for context in symmetry.contexts(str(group)):
        names = zip(tensor.groups, pins, strict=True)
        axes = [other for other, pair in enumerate(names) if context in pair]
        if not axes:
            raise ValueError(
                f"group {group!r} is indexed by {context!r}, and leaf {tensor.path!r}, viewed as "
                f"{tensor.shape}, carries it without: its axes are {tensor.groups}, pinned as "
                f"{tensor.pins}. Split the view so that {context!r} has an axis of its own"
            )
        before = [other for other in axes if other < axis]
        paired = len(axes) == len(own)
        found.append(axes[own.index(axis)] if paired else before[-1] if before else axes[0])
    return tuple(found)


def spread(array: Any, axes: Sequence[int], ndim: int) -> Any:
    """Lay the axes of an array along the given ones of `ndim`, the others of size one.

    Examples:
        >>> spread(np.zeros((2, 5)), (3, 0), 4).shape
        (5, 1, 1, 2)
    """
    order = sorted(range(len(axes)), key=lambda index: axes[index])
    sizes = [1] * ndim
    for axis, size in zip(axes, array.shape, strict=True):
        sizes[axis] = size
    return array.transpose(order).reshape(sizes)


def _check_permutations(symmetry: Symmetry, permutations: Mapping[str, jax.Array]) -> None:
    sizes = symmetry.groups
    for group, permutation in permutations.items():
        if group not in sizes:
            raise ValueError(
                f"the symmetry has no group {group!r}: its groups are {list(sizes)}. Name the "
                "permutations by its groups"
            )
        size, shape = sizes[group], symmetry.shape(group)
        if np.shape(permutation) != shape:
            entries = "".join(f", for each of {name!r}" for name in symmetry.contexts(group))
            raise ValueError(
                f"the permutation of group {group!r} has shape {np.shape(permutation)}: pass one "
                f"of shape {shape}, an index for each of its units{entries}"
            )
        if is_concrete(permutation) and np.any(np.sort(permutation) != np.arange(size)):
            raise ValueError(
                f"group {group!r} got {np.asarray(permutation)}, which is no permutation: every "
                f"number from 0 to {size - 1} must occur once"
            )


def random_permutations(symmetry: Symmetry, key: jax.Array) -> dict[str, jax.Array]:
    """Draw a uniformly random permutation of every group, for each entry of what indexes it.

    Args:
        symmetry: the groups.
        key: source of randomness.

    Returns:
        Per group int32 `symmetry.shape(group)`.

    Examples:
        >>> spec = Symmetry((("h", 4),), ())
        >>> sorted(random_permutations(spec, jax.random.key(0))["h"].tolist())
        [0, 1, 2, 3]
    """
    keys = jax.random.split(key, max(len(symmetry.sizes), 1))
    return {
        group: _random_permutation(k, symmetry.shape(group))
        for k, (group, _) in zip(keys, symmetry.sizes, strict=False)
    }


def _random_permutation(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if len(shape) == 1:
        return jax.random.permutation(key, shape[0]).astype(jnp.int32)
    units = jnp.broadcast_to(jnp.arange(shape[-1], dtype=jnp.int32), shape)
    return jax.random.permutation(key, units, axis=-1, independent=True)
