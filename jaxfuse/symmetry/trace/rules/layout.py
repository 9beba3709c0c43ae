"""Reshape, transpose and broadcast: axes change places, are split and joined."""

from collections.abc import Iterator
from dataclasses import replace

from jaxfuse.symmetry.trace.array import Array
from jaxfuse.symmetry.trace.factor import (
    Axis,
    Factor,
    Free,
    as_factor,
    axis_size,
    blocks,
    divide,
    family,
    index_of,
    pin,
    pinned,
    resolve,
    split,
)
from jaxfuse.symmetry.trace.registry import Site, register_rule


@register_rule("transpose", pointers=True)
def transpose(site: Site) -> Array:
    """Reorder the axes."""
    (array,) = site.inputs
    return replace(array, axes=tuple(array.axes[i] for i in site.params["permutation"]))


@register_rule("squeeze", pointers=True)
def squeeze(site: Site) -> Array:
    """Drop axes of one entry."""
    (array,) = site.inputs
    dropped = site.params["dimensions"]
    return replace(array, axes=tuple(axis for i, axis in enumerate(array.axes) if i not in dropped))


@register_rule("expand_dims", pointers=True)
def expand_dims(site: Site) -> Array:
    """Add axes of one entry."""
    (array,) = site.inputs
    axes = list(array.axes)
    for position in sorted(site.params["dimensions"]):
        axes.insert(position, ())
    return replace(array, axes=tuple(axes))


@register_rule("broadcast_in_dim", pointers=True)
def broadcast_in_dim(site: Site) -> Array:
    """Place the axes; along new ones the array does not vary."""
    array = site.inputs[0]
    axes: list[Axis] = [(Free(size),) if size != 1 else () for size in site.shape]
    for axis, position in zip(array.axes, site.params["broadcast_dimensions"], strict=True):
        if axis_size(axis) == site.shape[position] and axis:
            axes[position] = axis
    return replace(array, axes=tuple(axes))


@register_rule("reshape", pointers=True)
def reshape(site: Site) -> Array:
    """Split axes into factors and join them, as a flatten and the heads of attention do."""
    array = site.inputs[0]
    axes: list[Axis] = []
    for sources, sizes in _aligned(array.shape, site.shape):
        factors = [factor for i in sources for factor in resolve(array.axes[i])]
        first = len(axes)
        if len(sources) == len(sizes) == 1:
            axes.append(array.axes[sources[0]])
            continue
        new = _distribute(site, factors, sizes, first)
        if new is None:
            pin(factors, "reshaped across its structure")
            new = [pinned(size, "reshaped across its structure") for size in sizes]
        axes += new
    return replace(array, axes=tuple(axes))


def _aligned(
    before: tuple[int, ...], after: tuple[int, ...]
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield runs of axes before and sizes after whose products agree, as short as they can be."""
    i = j = 0
    while i < len(before) or j < len(after):
        sources, sizes, left, right = [], [], 1, 1
        while not (sources or sizes) or left != right:
            if (left <= right and i < len(before)) or j >= len(after):
                sources.append(i)
                left *= before[i]
                i += 1
            else:
                sizes.append(after[j])
                right *= after[j]
                j += 1
        while i < len(before) and before[i] == 1:
            sources.append(i)
            i += 1
        while j < len(after) and after[j] == 1:
            sizes.append(1)
            j += 1
        yield sources, sizes


def _distribute(
    site: Site, factors: list[Factor | Free], sizes: list[int], first: int
) -> list[Axis] | None:
    """Hand factors out to axes of the given sizes, splitting those that reach over a boundary."""
    left = list(factors)
    axes: list[Axis] = []
    for number, size in enumerate(sizes):
        axis: list[Factor | Free] = []
        need = size
        while need > 1:
            head = left[0]
            if need % head.size == 0:
                axis.append(left.pop(0))
                need //= head.size
                continue
            parts = _split_off(site, head, need, (site.key, first + number))
            if parts is None:
                return None
            left[:1] = resolve(parts)
        axes.append(tuple(axis))
    return axes


def _split_off(site: Site, head: Factor | Free, outer: int, origin: object) -> Axis | None:
    if isinstance(head, Factor) and head.kind == "atom" and origin in site.tracer.enumerated:
        if head.size % outer:
            return None
        split(head, "sum", (head.size // outer,) * outer)
    if isinstance(head, Factor) and head.kind == "sum":
        return _by_entry(head, outer, site.key)
    parts = divide(head, outer)
    if parts is not None and isinstance(parts[0], Factor) and not parts[0].pins:
        parts[0].origin = origin
    return parts


def _by_entry(head: Factor, outer: int, mark: object) -> Axis | None:
    """View a direct sum as an index over its blocks and what lies in each."""
    inner, rest = divmod(head.size, outer)
    if rest:
        return None
    members = blocks((head,), [inner * i for i in range(1, outer)])
    if members is None:
        return None
    index = index_of(outer, mark)
    return index, family(index, [as_factor(member) for member in members])
