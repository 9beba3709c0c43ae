"""The view of a leaf against its shape: which factors make up each axis."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from jaxfuse.symmetry.axes import compress, expand

if TYPE_CHECKING:
    from jaxfuse.symmetry.axes import TensorAxes


def factors_of(tensor: "TensorAxes", shape: tuple[int, ...]) -> list[list[int]]:
    """Return per axis of a leaf of this shape the axes of the view whose product it is.

    Examples:
        >>> from jaxfuse.symmetry.spec import TensorAxes
        >>> factors_of(TensorAxes("kernel", (9, 4, 2), (None, "h", None)), (36, 2))
        [[0, 1], [2]]
    """
    rest = list(range(len(tensor.shape)))
    factors: list[list[int]] = []
    for positions in _positions(tensor, shape):
        taken = [rest.pop(0)]
        while math.prod(tensor.shape[axis] for axis in taken) != len(positions):
            taken.append(rest.pop(0))
        factors.append(taken)
    if factors:
        factors[-1] += rest  # ones
    return factors


def narrow(
    tensor: "TensorAxes", shape: tuple[int, ...], ranges: Mapping[int, tuple[int, int]]
) -> "TensorAxes":
    """Return the block of a block that lies in a range of some axes of its view.

    Args:
        tensor: the block.
        shape: the shape of the leaf.
        ranges: per axis of the view the first entry and the one behind the last.

    Examples:
        >>> from jaxfuse.symmetry.spec import TensorAxes
        >>> whole = TensorAxes("kernel", (3, 4), (None, "h"))
        >>> narrow(whole, (12,), {1: (0, 2)}).index
        (((0, 2, 1), (4, 2, 1), (8, 2, 1)),)
    """
    index = list(tensor.index or (None,) * len(shape))
    positions = _positions(tensor, shape)
    for place, axes in enumerate(factors_of(tensor, shape)):
        if ranges.keys().isdisjoint(axes):
            continue
        grid = positions[place].reshape([tensor.shape[axis] for axis in axes])
        part = grid[tuple(slice(*ranges.get(axis, (None,))) for axis in axes)]
        index[place] = compress(part.ravel())
    view = tuple(
        ranges[axis][1] - ranges[axis][0] if axis in ranges else size
        for axis, size in enumerate(tensor.shape)
    )
    return replace(tensor, shape=view, index=tuple(index))


def common_factors(left: Sequence[int], right: Sequence[int]) -> list[tuple[int, int, int]] | None:
    """Cut two products of one size into factors that both are made of.

    Returns:
        Triples of a size and the factors of either product that it is part of, or None if the two
        overlap.

    Examples:
        >>> common_factors([36], [9, 4])
        [(9, 0, 0), (4, 0, 1)]
        >>> common_factors([6, 4], [4, 6]) is None
        True
    """
    open_left, open_right = list(left), list(right)
    pieces = []
    i = j = 0
    while i < len(left) and j < len(right):
        size = min(open_left[i], open_right[j])
        if open_left[i] % size or open_right[j] % size:
            return None
        pieces.append((size, i, j))
        open_left[i] //= size
        open_right[j] //= size
        last = i == len(left) - 1, j == len(right) - 1
        step_left = open_left[i] == 1 and not (last[0] and not last[1])
        step_right = open_right[j] == 1 and not (last[1] and not last[0])
        i, j = i + step_left, j + step_right
    return pieces


def _positions(tensor: "TensorAxes", shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return per axis of the leaf the entries that belong to the block."""
    index = tensor.index or (None,) * len(shape)
    return [
        np.arange(size) if runs is None else expand(runs)
        for size, runs in zip(shape, index, strict=True)
    ]
