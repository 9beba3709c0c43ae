"""Turn what a trace found into a `Symmetry`: the groups and the leaves they lie on."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxfuse.symmetry.axes import Activation, Run, TensorAxes, compress, is_statistic
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.trace.array import Array
from jaxfuse.symmetry.trace.factor import Factor, atoms, axis_size, pin
from jaxfuse.symmetry.trace.interpreter import Interpreter
from jaxfuse.symmetry.trace.naming import name_units
from jaxfuse.symmetry.trace.occurrences import Block, Span, blocks_of, collect
from jaxfuse.symmetry.trace.units import Units, find_units


def assemble(leaves: Mapping[str, Array], trace: Interpreter) -> Symmetry:
    """Build the symmetry of a program.

    Args:
        leaves: the parameters by path, as the trace saw them at its start.
        trace: the interpreter, after its run.

    Returns:
        One group for each set of axes that may be permuted.
    """
    _pin_unused(leaves, trace.seen)
    blocks = {path: list(blocks_of(array.axes)) for path, array in leaves.items()}
    paths = list(dict.fromkeys([*(path for path in trace.computed if path in leaves), *leaves]))
    found = dict.fromkeys(
        item.factor
        for path in paths
        for block in blocks[path]
        for span in block
        for item in span.items
    )
    units = find_units(found, collect([*leaves.values(), *trace.seen], trace.met, found))
    computed = {path: _atoms(axes) for path, axes in trace.computed.items()}
    name_units(paths, blocks, units, computed)
    windows = _atoms(trace.windows)
    tensors = [
        _tensor(path, leaves[path].shape, same, units, computed.get(path, set()), windows)
        for path in leaves
        for same in _joined(blocks[path], units)
    ]
    named = [group for group in dict.fromkeys(units.values()) if group.name]
    groups = [group for group in named if group.moves]
    return Symmetry(
        tuple((group.name, group.size) for group in groups),
        tuple(tensors),
        tuple((group.name, tuple(c.name for c in group.over)) for group in groups if group.over),
        tuple((u.name, u.size, next(iter(u.atoms[0].pins))) for u in named if not u.moves),
        _activations(trace, units),
    )


def _activations(trace: Interpreter, units: Mapping[Factor, Units]) -> tuple[Activation, ...]:
    """Describe the arrays between the layers that carry groups."""
    found = []
    for (site, role), axes in trace.activations.items():
        blocks = list(blocks_of(axes))
        others = {
            item.factor: Units([item.factor])
            for block in blocks
            for span in block
            for item in span.items
        }
        every = {**others, **units}
        shape = tuple(axis_size(axis) for axis in axes)
        for same in _joined(blocks, every):
            tensor = _tensor(site, shape, same, every, set(), set())
            if any(tensor.groups):
                found.append(Activation(role, tensor))
    return tuple(found)


def _atoms(axes: Sequence[Sequence[object]]) -> set[Factor]:
    return set(atoms([factor for axis in axes for factor in axis]))  # pyright: ignore


def _pin_unused(leaves: Mapping[str, Array], seen: Sequence[Array]) -> None:
    used = frozenset().union(*(array.leaves for array in seen))
    for path, array in leaves.items():
        if path not in used:
            for axis in array.axes:
                pin(axis, "not used by the function")


def _joined(blocks: Sequence[Block], units: Mapping[Factor, Units]) -> list[list[Block]]:
    """Bring the blocks together that differ only in which part of a group they hold."""
    alike: dict[object, list[Block]] = {}
    for block in blocks:
        alike.setdefault(tuple(_alike(span, units) for span in block), []).append(block)
    return list(alike.values())


def _alike(span: Span, units: Mapping[Factor, Units]) -> object:
    parts = tuple((id(units[item.factor]), item.stride, item.choice) for item in span.items)
    spread = any(len(units[item.factor].atoms) > 1 for item in span.items)
    return parts if spread else (span.start, parts)


def _tensor(
    path: str,
    shape: tuple[int, ...],
    blocks: Sequence[Block],
    units: Mapping[Factor, Units],
    computed: set[Factor],
    windows: set[Factor],
) -> TensorAxes:
    """Describe one block of a leaf, or the blocks that are one because of a group spread out."""
    view: list[int] = []
    groups: list[str | None] = []
    pins: list[str | None] = []
    edge: list[int] = []
    index: list[tuple[Run, ...] | None] = []
    output = None
    for axis, size in enumerate(shape):
        spans = [block[axis] for block in blocks]
        positions = _positions(spans, units)
        index.append(None if np.array_equal(positions, np.arange(size)) else compress(positions))
        items = spans[0].items
        carries = any(units[item.factor].is_group for item in items)
        for item in items:
            group = units[item.factor]
            if not group.is_group and (carries or item.factor in windows):
                edge.append(len(view))
            if group.is_group and item.factor in computed:
                output = len(view)
            view.append(group.size)
            groups.append(group.name if group.is_group else None)
            pins.append(None if group.is_group else group.name or None)
        if not items:
            view.append(1)
            groups.append(None)
            pins.append(None)
    return TensorAxes(
        path,
        tuple(view),
        tuple(groups),
        tuple(edge),
        is_statistic(path),
        output,
        tuple(pins),
        tuple(index) if any(runs is not None for runs in index) else (),
    )


def _positions(spans: Sequence[Span], units: Mapping[Factor, Units]) -> np.ndarray:
    """Return where on an axis the entries of a block lie, in the order of its view."""
    positions = np.zeros([units[item.factor].size for item in spans[0].items], np.int64)
    for span in spans:
        where = []
        entries = np.asarray(span.start)
        for number, item in enumerate(span.items):
            begin = units[item.factor].offset(item.factor)
            where.append(slice(begin, begin + item.factor.size))
            steps = [1] * len(span.items)
            steps[number] = item.factor.size
            entries = entries + item.stride * np.arange(item.factor.size).reshape(steps)
        positions[tuple(where)] = entries
    return positions.reshape(-1)
