"""Direct sums: concatenate, pad, slice and split join blocks and take them apart."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from jaxfuse.symmetry.trace.array import Array
from jaxfuse.symmetry.trace.factor import (
    Axis,
    Factor,
    Free,
    as_factor,
    axis_size,
    blocks,
    compound,
    distinguish,
    divide_axis,
    family,
    holds,
    index_of,
    is_pinned,
    pin,
    pinned,
    resolve,
    restrict,
)
from jaxfuse.symmetry.trace.registry import Site, register_rule, tie_all


@register_rule("concatenate")
def concatenate(site: Site) -> Array:
    """Make the direct sum of the axes; arrays stacked one by one keep their other axes apart."""
    along = site.params["dimension"]
    if len(site.inputs) > 1 and all(array.shape[along] == 1 for array in site.inputs):
        rest = [
            replace(array, axes=(*array.axes[:along], *array.axes[along + 1 :]))
            for array in site.inputs
        ]
        return _stacked(site, rest, along)
    axes = [
        tie_all([array.axes[axis] for array in site.inputs])
        for axis in range(len(site.shape))
        if axis != along
    ]
    parts = [_block(site, array, along, number) for number, array in enumerate(site.inputs)]
    return Array((*axes[:along], (compound("sum", parts),), *axes[along:]))


def _block(site: Site, array: Array, along: int, number: int) -> Factor:
    """Return the block of one operand; blocks of one known value may be mistaken for each other."""
    told: tuple[object, ...] = ("operand", number)
    if array.value is not None:
        told = ("value", array.value, math.copysign(1.0, array.value))
    return as_factor(array.axes[along], marks=frozenset([(site.key, told)]))


def _stack(index: Factor, parts: Sequence[Axis]) -> Axis:
    if any(is_pinned(axis) for axis in parts) or all(
        len(axis) == 1 and isinstance(axis[0], Free) for axis in parts
    ):
        return tie_all(parts)
    return (family(index, [as_factor(axis) for axis in parts]),)


@register_rule("pad")
def pad(site: Site) -> Array:
    """Add blocks of one value, whose entries may change places among each other."""
    array = site.inputs[0]
    axes = []
    for axis, (low, high, interior) in zip(array.axes, site.params["padding_config"], strict=True):
        size = len(axes)
        before, after = array.shape[size], site.shape[size]
        if low == high == interior == 0:
            axes.append(axis)
        elif interior or (axis and is_pinned(axis)):
            pin(axis, "padded between its entries" if interior else "padded")
            axes.append(pinned(after, "padded"))
        elif low < 0 or high < 0:
            start, stop = max(0, -low), before - max(0, -high)
            kept = _cut(site, axis, start, stop)
            axes.append(_padded(site, kept, max(0, low), max(0, high)))
        else:
            axes.append(_padded(site, axis, low, high))
    return Array(tuple(axes))


def _padded(site: Site, axis: Axis, low: int, high: int) -> Axis:
    parts = []
    for amount, middle in ((low, False), (0, True), (high, False)):
        if middle:
            parts.append(as_factor(axis))
        elif amount:
            parts.append(as_factor((Free(int(amount)),), marks=frozenset([(site.key, "padding")])))
    return (compound("sum", parts),) if len(parts) > 1 else axis


@register_rule("slice")
def slice_(site: Site) -> Array:
    """Take blocks out."""
    (array,) = site.inputs
    starts, stops = site.params["start_indices"], site.params["limit_indices"]
    strides = site.params["strides"] or (1,) * len(starts)
    for axis, (start, stop, stride) in enumerate(zip(starts, stops, strides, strict=True)):
        array = take(site, array, axis, int(start), int(stop), int(stride))
    return array


@register_rule("split")
def split_(site: Site) -> list[Array]:
    """Take an axis apart in blocks."""
    (array,) = site.inputs
    axis = site.params["axis"]
    ends = [int(end) for end in accumulate(site.params["sizes"])]
    return [
        take(site, array, axis, start, stop, 1)
        for start, stop in zip([0, *ends[:-1]], ends, strict=True)
    ]


def take(site: Site, array: Array, axis: int, start: int, stop: int, stride: int) -> Array:
    """Cut an array down to some entries of an axis."""
    whole = array.axes[axis]
    size = array.shape[axis]
    if (start, stop, stride) == (0, size, 1):
        return array
    if stride != 1:
        kept = _strided(site, whole, size, start, stop, stride)
        return replace(array, axes=_set(array.axes, axis, kept), points=None)
    if is_pinned(whole):
        kept = pinned(stop - start, "part of a pinned axis")
        return replace(array, axes=_set(array.axes, axis, kept), points=None)
    head = resolve(whole)[0]
    others = [a for i, a in enumerate(array.axes) if i != axis and not is_pinned(a)]
    if stop - start == 1 and (len(resolve(whole)) > 1 or any(others)):
        site.want_entries(whole)
    kept = _cut(site, whole, start, stop)
    begin, end = start, stop
    axes = []
    for i, other in enumerate(array.axes):
        restricted = i != axis and head.size == size and not holds(other, head)
        axes.append(restrict(other, head, kept, begin, end) if restricted else other)
    return replace(array, axes=_set(tuple(axes), axis, kept), points=None)


def _set(axes: tuple[Axis, ...], position: int, axis: Axis) -> tuple[Axis, ...]:
    return (*axes[:position], axis, *axes[position + 1 :])


def _cut(site: Site, axis: Axis, start: int, stop: int) -> Axis:
    """Return one block of an axis."""
    cuts = sorted({start, stop} - {0, axis_size(axis)})
    pieces = blocks(axis, cuts)
    if pieces is None:
        pin(axis, "cut across its structure")
        return pinned(stop - start, "cut across its structure")
    piece = pieces[0 if start == 0 else 1]
    distinguish(piece, (site.key, start))
    return piece


def _strided(site: Site, axis: Axis, size: int, start: int, stop: int, stride: int) -> Axis:
    """Take every n-th entry: the outer factor, where the axis divides."""
    count = -(-(stop - start) // stride)
    if size % stride == 0 and count == size // stride and start < stride and not is_pinned(axis):
        parts = divide_axis(axis, size // stride)
        if parts is not None:
            phase = blocks(parts[1], sorted({start, start + 1} - {0, stride}))
            if phase is not None:
                distinguish(phase[0 if start == 0 else 1], (site.key, start))
                return parts[0]
    pin(axis, "taken at intervals")
    return pinned(count, "taken at intervals")


@register_rule("unstack")
def unstack(site: Site) -> list[Array]:
    """Take an axis apart entry by entry."""
    (array,) = site.inputs
    axis = site.params["axis"]
    results = []
    for entry in range(array.shape[axis]):
        one = take(site, array, axis, entry, entry + 1, 1)
        results.append(replace(one, axes=(*one.axes[:axis], *one.axes[axis + 1 :])))
    return results


@register_rule("stack")
def stack(site: Site) -> Array:
    """Stack arrays along a new axis; their other axes may differ from array to array."""
    return _stacked(site, site.inputs, site.params["axis"])


def _stacked(site: Site, arrays: Sequence[Array], position: int) -> Array:
    index = index_of(len(arrays), site.key)
    parts = zip(*(array.axes for array in arrays), strict=True)
    axes = [_stack(index, list(part)) for part in parts]
    return Array((*axes[:position], (index,), *axes[position:]))


@register_rule("tile")
def tile(site: Site) -> Array:
    """Repeat an axis: the repetitions are an outer factor along which nothing varies."""
    (array,) = site.inputs
    axes = [
        (Free(times), *axis) if times > 1 else axis
        for axis, times in zip(array.axes, site.params["reps"], strict=True)
    ]
    return Array(tuple(axes))
