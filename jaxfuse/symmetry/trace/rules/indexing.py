"""Gather and scatter: whole axes are handed on, those that are looked up by number are pinned."""

from dataclasses import replace

from jaxfuse.symmetry.trace.array import Array
from jaxfuse.symmetry.trace.factor import Axis, pin, pinned, tie
from jaxfuse.symmetry.trace.registry import Site, read_pointers, register_rule
from jaxfuse.symmetry.trace.rules.blocks import take

_LOOKED_UP = "looked up by number"


@register_rule("gather", pointers=True)
def gather(site: Site) -> Array:
    """Hand on the axes that are taken whole; a position on an axis ties the two."""
    operand, indices = site.inputs
    numbers, sizes = site.params["dimension_numbers"], site.params["slice_sizes"]
    read_pointers([operand])
    single = len(numbers.start_index_map) == 1
    for axis in numbers.start_index_map:
        if sizes[axis] == operand.shape[axis]:
            continue
        if single and indices.points is not None and not indices.shifted and sizes[axis] == 1:
            tie(operand.axes[axis], indices.points)
        else:
            read_pointers([indices])
            pin(operand.axes[axis], _LOOKED_UP)
    batch = list(indices.axes[:-1])
    for axis, place in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    ):
        batch[place] = tie(operand.axes[axis], batch[place])
    dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = []
    for axis in range(len(operand.axes)):
        if axis in dropped:
            continue
        whole = sizes[axis] == operand.shape[axis]
        if not whole and axis not in numbers.start_index_map:
            pin(operand.axes[axis], _LOOKED_UP)
        kept.append(operand.axes[axis] if whole else pinned(sizes[axis], _LOOKED_UP))
    if indices.data and not operand.data:
        site.tracer.computes(operand.leaves, kept)
    own = [a for i, a in enumerate(operand.axes) if i not in numbers.operand_batching_dims]
    site.tracer.meets(*own, *batch)
    result: list[Axis] = []
    for position in range(len(site.shape)):
        source = kept if position in numbers.offset_dims else batch
        result.append(source.pop(0))
    return Array(tuple(result))


@register_rule("dynamic_slice")
def dynamic_slice(site: Site) -> Array:
    """Take a block out; where its place is not known, what is not taken whole is pinned."""
    operand, *starts = site.inputs
    for axis, (size, start) in enumerate(zip(site.params["slice_sizes"], starts, strict=True)):
        whole = operand.shape[axis]
        if size == whole:
            continue
        if start.value is not None:
            begin = min(max(int(start.value), 0), whole - size)
            operand = take(site, operand, axis, begin, begin + size, 1)
        else:
            pin(operand.axes[axis], _LOOKED_UP)
            axes = list(operand.axes)
            axes[axis] = pinned(size, _LOOKED_UP)
            operand = replace(operand, axes=tuple(axes))
    return replace(operand, points=None)


@register_rule("dynamic_update_slice")
def dynamic_update_slice(site: Site) -> Array:
    """Put a block in: axes that it fills are tied, the others pinned."""
    operand, update = site.inputs[:2]
    axes = []
    for ours, theirs, size, part in zip(
        operand.axes, update.axes, operand.shape, update.shape, strict=True
    ):
        if size == part:
            axes.append(tie(ours, theirs))
            continue
        pin((*ours, *theirs), _LOOKED_UP)
        axes.append(pinned(size, _LOOKED_UP))
    return Array(tuple(axes))


@register_rule("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")
def scatter(site: Site) -> Array:
    """Put entries in: axes of the update that are whole are tied, the others pinned."""
    operand, indices, updates = site.inputs
    numbers = site.params["dimension_numbers"]
    own = [a for i, a in enumerate(operand.axes) if i not in numbers.operand_batching_dims]
    scattered = [i for i in range(len(updates.axes)) if i not in numbers.update_window_dims]
    site.tracer.meets(*own, *(updates.axes[i] for i in scattered))
    dropped = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    window = [axis for axis in range(len(operand.axes)) if axis not in dropped]
    axes = list(operand.axes)
    for axis in numbers.inserted_window_dims:
        pin(axes[axis], _LOOKED_UP)
        axes[axis] = pinned(operand.shape[axis], _LOOKED_UP)
    for axis, place in zip(window, numbers.update_window_dims, strict=True):
        if operand.shape[axis] == updates.shape[place]:
            axes[axis] = tie(axes[axis], updates.axes[place])
        else:
            pin((*axes[axis], *updates.axes[place]), _LOOKED_UP)
            axes[axis] = pinned(operand.shape[axis], _LOOKED_UP)
    for place, index in zip(scattered, range(len(indices.axes) - 1), strict=False):
        tie(updates.axes[place], indices.axes[index])
    for axis, index in zip(
        numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True
    ):
        axes[axis] = tie(axes[axis], indices.axes[index])
    return Array(tuple(axes))
