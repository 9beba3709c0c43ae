"""Cut one group into several that are permuted apart."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfuse.symmetry.editing.view import narrow
from jaxfuse.symmetry.tree import named_leaves

if TYPE_CHECKING:
    from jaxfuse.symmetry.axes import TensorAxes
    from jaxfuse.symmetry.spec import Symmetry

PyTree = Any


def split(symmetry: "Symmetry", name: str, sizes: Sequence[int], params: PyTree) -> "Symmetry":
    """Make one group a direct sum of several: units move within their part alone.

    Args:
        symmetry: the symmetry.
        name: the group.
        sizes: the units of each part, in order.
        params: the parameters, or their shapes: where a block lies in its leaf depends on them.

    Returns:
        The symmetry with the groups `name.0`, `name.1` and so on in place of `name`. Groups
        indexed by it are cut along with it: the units inside a head become those inside a head of
        the first part, `units.0`, and so on. Activations that carry one of these are left out: the
        parameters do not tell their shapes.

    Raises:
        ValueError: if there is no such group, the sizes do not add up to it, a new name is taken,
            or a group indexed by it can't be told apart.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.symmetry.spec import Symmetry
        >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
        >>> symmetry = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, params)
        >>> split(symmetry, "h", (5, 3), params).groups
        {'h.0': 5, 'h.1': 3}
    """
    symmetry.check(params)
    _check(symmetry, name, sizes)
    inside = [group for group, contexts in symmetry.over if name in contexts]
    renamed = [{group: f"{group}.{k}" for group in (name, *inside)} for k in range(len(sizes))]
    taken = symmetry.groups | {pin: size for pin, size, _ in symmetry.pinned}
    for new in (new for names in renamed for new in names.values()):
        if new in taken:
            raise ValueError(f"the name {new!r} of a part is taken: the symmetry has it already")
    counts: list[tuple[str, int]] = []
    for group, size in symmetry.sizes:
        if group == name:
            counts += [(names[name], part) for names, part in zip(renamed, sizes, strict=True)]
        elif group in inside:
            counts += [(names[group], size) for names in renamed]
        else:
            counts.append((group, size))
    over: list[tuple[str, tuple[str, ...]]] = []
    for group, contexts in symmetry.over:
        for names in renamed if group in renamed[0] else ({},):
            outer = tuple(names.get(context, context) for context in contexts)
            over.append((names.get(group, group), outer))
    shapes = {path: np.shape(leaf) for path, leaf in named_leaves(params).items()}
    tensors = [
        block
        for tensor in symmetry.tensors
        for block in _blocks(tensor, name, sizes, shapes[tensor.path], renamed)
    ]
    activations = [a for a in symmetry.activations if renamed[0].keys().isdisjoint(a.tensor.groups)]
    return replace(
        symmetry,
        sizes=tuple(counts),
        tensors=tuple(tensors),
        over=tuple(over),
        activations=tuple(activations),
    )


def _check(symmetry: "Symmetry", name: str, sizes: Sequence[int]) -> None:
    if name not in symmetry.groups:
        raise ValueError(f"no group {name!r}: the groups are {list(symmetry.groups)}")
    size = symmetry.groups[name]
    if len(sizes) < 2 or min(sizes) < 1 or sum(sizes) != size:
        raise ValueError(
            f"group {name!r} of {size} units can't be split in parts of {tuple(sizes)}: give two "
            f"or more positive sizes with the sum {size}"
        )


def _blocks(
    tensor: "TensorAxes",
    name: str,
    sizes: Sequence[int],
    shape: tuple[int, ...],
    renamed: Sequence[Mapping[str, str]],
) -> "list[TensorAxes]":
    """Cut a block along every axis that carries the group."""
    axes = [axis for axis, group in enumerate(tensor.groups) if group == name]
    inside = [group for group in tensor.groups if group in renamed[0] and group != name]
    if inside and len(axes) != 1:
        raise ValueError(
            f"leaf {tensor.path!r} carries group {inside[0]!r}, which is indexed by {name!r}, and "
            f"{len(axes)} axes of {name!r}: it can't be told which part its entries belong to. "
            f"Pin {inside[0]!r} first"
        )
    if not axes:
        return [tensor]
    ends = np.cumsum(sizes).tolist()
    blocks = []
    for parts in itertools.product(range(len(sizes)), repeat=len(axes)):
        ranges = {
            axis: (ends[part] - sizes[part], ends[part])
            for axis, part in zip(axes, parts, strict=True)
        }
        of_axis = dict(zip(axes, parts, strict=True))
        groups = tuple(
            renamed[of_axis.get(axis, parts[0])].get(group, group) if group is not None else None
            for axis, group in enumerate(tensor.groups)
        )
        blocks.append(replace(narrow(tensor, shape, ranges), groups=groups))
    return blocks
