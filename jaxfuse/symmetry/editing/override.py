"""Correct a symmetry by hand: pin what must stay, add what was missed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxfuse.symmetry.editing.view import common_factors, factors_of
from jaxfuse.symmetry.tree import named_leaves

if TYPE_CHECKING:
    from jaxfuse.symmetry.axes import TensorAxes
    from jaxfuse.symmetry.spec import AxisSpec, Symmetry

PyTree = Any
BY_HAND = "pinned by hand"


def pin(symmetry: "Symmetry", *patterns: str) -> "Symmetry":
    """Pin the groups whose names match.

    Args:
        symmetry: the symmetry.
        *patterns: names, in which `*`, `?` and `[...]` stand for others as in a shell; `layer1*` is
            all groups whose names begin so.

    Returns:
        The symmetry without these groups. Their axes are pinned axes of the same names; groups
        indexed by one of them still are, with its entries in their given order.

    Raises:
        ValueError: if a pattern matches no group.

    Examples:
        >>> from jaxfuse.symmetry.spec import Symmetry
        >>> symmetry = Symmetry((("conv1", 8), ("conv2", 16), ("dense", 4)), ())
        >>> pin(symmetry, "conv*").groups
        {'dense': 4}
    """
    for pattern in patterns:
        if not any(fnmatchcase(group, pattern) for group in symmetry.groups):
            raise ValueError(
                f"no group matches {pattern!r}: the groups are {list(symmetry.groups)}"
            )
    chosen = {
        group: size
        for group, size in symmetry.sizes
        if any(fnmatchcase(group, pattern) for pattern in patterns)
    }

    def pinned(tensor: "TensorAxes") -> "TensorAxes":
        if chosen.keys().isdisjoint(tensor.groups):
            return tensor
        known = tensor.pins or (None,) * len(tensor.groups)
        pairs = list(zip(tensor.groups, known, strict=True))
        return replace(
            tensor,
            groups=tuple(None if group in chosen else group for group, _ in pairs),
            pins=tuple(group if group in chosen else name for group, name in pairs),
        )

    return replace(
        symmetry,
        sizes=tuple(pair for pair in symmetry.sizes if pair[0] not in chosen),
        tensors=tuple(pinned(tensor) for tensor in symmetry.tensors),
        activations=tuple(replace(a, tensor=pinned(a.tensor)) for a in symmetry.activations),
        over=tuple(pair for pair in symmetry.over if pair[0] not in chosen),
        pinned=(*symmetry.pinned, *((group, size, BY_HAND) for group, size in chosen.items())),
    )


def add(
    symmetry: "Symmetry", axes: Mapping[str, Sequence["AxisSpec"]], params: PyTree
) -> "Symmetry":
    """Add groups on axes that carry none yet, by a table written by hand.

    Args:
        symmetry: the symmetry.
        axes: per leaf path one entry per axis, as `Symmetry.from_axes` takes it; None leaves an
            axis as it is. An axis that is pinned as a whole may be written as a product, and its
            other factors stay pinned. The name of a group that exists makes the axis one of its
            own.
        params: the parameters, or their shapes.

    Returns:
        The symmetry with the new groups behind the others.

    Raises:
        ValueError: if an axis carries another group or cuts one, if it is a direct sum of blocks,
            or if a name is taken; and as `Symmetry.from_axes` does.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.symmetry.spec import Symmetry
        >>> params = [jnp.ones((3, 8)), jnp.ones((8, 5)), jnp.ones((5, 2))]
        >>> symmetry = Symmetry.from_axes({"0": (None, "h"), "1": ("h", None)}, params)
        >>> add(symmetry, {"1": (None, "k"), "2": ("k", None)}, params).groups
        {'h': 8, 'k': 5}
    """
    symmetry.check(params)
    written = type(symmetry).from_axes(axes, params)
    for group, size in written.sizes:
        if symmetry.groups.get(group, size) != size or symmetry.contexts(group):
            raise ValueError(
                f"group {group!r} exists with the shape {symmetry.shape(group)}, and the table "
                f"gives it {size} units: choose another name"
            )
    shapes = {path: np.shape(leaf) for path, leaf in named_leaves(params).items()}
    table = {tensor.path: tensor for tensor in written.tensors}
    cut: dict[str, tuple[str, int]] = {}
    tensors = [
        _overlay(tensor, table[tensor.path], shapes[tensor.path], cut)
        if tensor.path in table
        else tensor
        for tensor in symmetry.tensors
    ]
    present = {tensor.path for tensor in symmetry.tensors}
    tensors += [tensor for path, tensor in table.items() if path not in present]
    new = [pair for pair in written.sizes if pair[0] not in symmetry.groups]
    result = replace(
        symmetry,
        sizes=(*symmetry.sizes, *new),
        tensors=tuple(tensors),
        pinned=_still_pinned(symmetry, tensors, cut),
    )
    taken = [name for name, _, _ in result.pinned if name in dict(new)]
    if taken:
        raise ValueError(f"the name {taken[0]!r} is that of a pinned axis: choose another one")
    result.check(params)
    return result


class _Axis(NamedTuple):
    """One axis of the view that a block and the table have in common."""

    size: int
    group: str | None
    pin: str | None
    edge: bool
    output: bool


def _overlay(
    block: "TensorAxes",
    table: "TensorAxes",
    shape: tuple[int, ...],
    cut: dict[str, tuple[str, int]],
) -> "TensorAxes":
    """Lay a row of the table over a block; pins cut in factors are noted in `cut`."""
    known = factors_of(block, shape)
    wanted = factors_of(table, shape)
    axes: list[_Axis] = []
    for place, (old, new) in enumerate(zip(known, wanted, strict=True)):
        if block.index and block.index[place] is not None:
            if any(table.groups[axis] is not None for axis in new):
                raise ValueError(
                    f"axis {place} of leaf {block.path!r} is a direct sum of blocks with groups of "
                    "their own, on which no group can be added: write the whole symmetry by hand"
                )
            axes += [_keep(block, axis) for axis in old]
            continue
        pieces = common_factors([block.shape[a] for a in old], [table.shape[a] for a in new])
        if pieces is None:
            raise ValueError(
                f"axis {place} of leaf {block.path!r} is the product "
                f"{[block.shape[a] for a in old]}, which the table's "
                f"{[table.shape[a] for a in new]} does not agree with"
            )
        solid = [(size, left, right) for size, left, right in pieces if size > 1]
        halved = {new[r] for _, _, r in solid if sum(right == r for _, _, right in solid) > 1}
        for left, axis in enumerate(old):
            parts = [(size, new[r]) for size, part, r in solid if part == left]
            axes += _join(block, axis, table, parts, halved, cut) or [_keep(block, axis)]
    output = [axis for axis, each in enumerate(axes) if each.output]
    carried = [axis for axis in output if axes[axis].group is not None]
    pins = tuple(axis.pin for axis in axes)
    return replace(
        block,
        shape=tuple(axis.size for axis in axes),
        groups=tuple(axis.group for axis in axes),
        edge=tuple(index for index, axis in enumerate(axes) if axis.edge),
        output=(carried or output or [None])[-1],
        pins=pins if block.pins or any(pins) else (),
    )


def _keep(block: "TensorAxes", axis: int) -> _Axis:
    pin = block.pins[axis] if block.pins else None
    return _Axis(
        block.shape[axis], block.groups[axis], pin, axis in block.edge, axis == block.output
    )


def _join(
    block: "TensorAxes",
    axis: int,
    table: "TensorAxes",
    parts: Sequence[tuple[int, int]],
    halved: set[int],
    cut: dict[str, tuple[str, int]],
) -> list[_Axis]:
    """Return one axis of a block as the factors, each above one, that the table wants."""
    old = _keep(block, axis)
    sizes = [size for size, _ in parts]
    joined = []
    for number, (size, right) in enumerate(parts):
        group = table.groups[right]
        if old.group is not None and (len(parts) > 1 or group not in (None, old.group)):
            raise ValueError(
                f"axis {axis} of leaf {block.path!r}, viewed as {block.shape}, carries group "
                f"{old.group!r} already: pin it first"
            )
        if group is not None and right in halved:
            raise ValueError(
                f"group {group!r} is given an axis of leaf {block.path!r} that is a product, "
                f"viewed as {block.shape}: name its factors"
            )
        name = old.pin
        if name is not None and len(parts) > 1:
            name = f"{name}.{'x'.join(map(str, sizes))}.{number}"
            cut[name] = (old.pin or "", size)
        edge = old.edge or (len(parts) > 1 and right in table.edge)
        output = old.output or (block.output is None and right == table.output)
        group = old.group or group
        pinned = group is None
        joined.append(_Axis(size, group, name if pinned else None, edge and pinned, output))
    return joined


def _still_pinned(
    symmetry: "Symmetry", tensors: Sequence["TensorAxes"], cut: Mapping[str, tuple[str, int]]
) -> tuple[tuple[str, int, str], ...]:
    """Drop pins that lost their last axis, and put the factors of those that were cut behind."""
    before = {name for tensor in symmetry.tensors for name in tensor.pins}
    after = {name for tensor in tensors for name in tensor.pins}
    after |= {name for _, contexts in symmetry.over for name in contexts}
    pinned = []
    for name, size, reason in symmetry.pinned:
        if name in after or name not in before:
            pinned.append((name, size, reason))
        pinned += [
            (factor, part, reason)
            for factor, (whole, part) in cut.items()
            if whole == name and factor in after
        ]
    return tuple(pinned)
