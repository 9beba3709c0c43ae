"""The axes of one leaf as data: which groups they carry, and which block of the leaf it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxfuse.symmetry.tree import leaf_name

Run = tuple[int, int, int]


def expand(runs: Sequence[Run]) -> np.ndarray:
    """Return the positions in runs `(start, count, step)`.

    Examples:
        >>> expand(((0, 2, 1), (10, 3, 5)))
        array([ 0,  1, 10, 15, 20])
    """
    parts = [start + step * np.arange(count) for start, count, step in runs]
    return np.concatenate(parts) if parts else np.arange(0)


def compress(positions: Sequence[int] | np.ndarray) -> tuple[Run, ...]:
    """Write positions as runs, `expand` turned round.

    Examples:
        >>> compress([0, 1, 10, 15, 20])
        ((0, 2, 1), (10, 3, 5))
    """
    flat = [int(position) for position in positions]
    runs: list[Run] = []
    begin = 0
    while begin < len(flat):
        step = flat[begin + 1] - flat[begin] if begin + 1 < len(flat) else 1
        end = begin + 1
        while end < len(flat) and flat[end] - flat[end - 1] == step:
            end += 1
        runs.append((flat[begin], end - begin, step))
        begin = end
    return tuple(runs)


@dataclass(frozen=True)
class TensorAxes:
    """The groups that the axes of one leaf carry.

    A leaf whose axis is a direct sum (concatenated features, fused projections, stacked gates) has
    one entry per block.

    Attributes:
        path: the leaf, as `jaxfuse.symmetry.tree.leaf_path` writes it.
        shape: the shape the leaf, or its block, is viewed in. It differs from the leaf's own where
            one axis is a product of several, as the input axis of a dense layer behind a flatten
            is, or the heads and the units of each head.
        groups: per axis of `shape` the group it carries, or None where it is pinned.
        edge: the pinned axes whose entries make up the vector on one edge (the taps of a
            convolution, the positions of a flatten). The other pinned axes count as units that
            are matched to themselves: inputs and outputs.
        statistic: whether the leaf is a running statistic: permuted with its group, and left out
            of every similarity.
        output: for a kernel the axis of the units that it computes, None for any other leaf.
        pins: per axis of `shape` the name of what pins it (`Symmetry.pinned`), or None where it
            carries a group; empty where that is not known, as in a table written by hand.
        index: per axis of the leaf the entries that belong to this block, as runs
            `(start, count, step)`, or None for all of them; empty for a whole leaf.
    """

    path: str
    shape: tuple[int, ...]
    groups: tuple[str | None, ...]
    edge: tuple[int, ...] = ()
    statistic: bool = False
    output: int | None = None
    pins: tuple[str | None, ...] = ()
    index: tuple[tuple[Run, ...] | None, ...] = ()

    def take(self, leaf: Any) -> Any:
        """Return the block of a leaf, viewed as `shape`; a NumPy array stays one.

        Examples:
            >>> half = TensorAxes("kernel", (2, 3), (None, "h"), index=(None, ((3, 3, 1),)))
            >>> half.take(np.arange(12).reshape(2, 6))
            array([[ 3,  4,  5],
                   [ 9, 10, 11]])
        """
        xp = np if isinstance(leaf, np.ndarray) else jnp
        for axis, runs in enumerate(self.index):
            if runs is not None and len(runs) == 1 and runs[0][2] > 0:
                # A slice costs a compiled program less than a gather.
                ((start, count, step),) = runs
                within = slice(start, start + count * step, step)
                leaf = leaf[(*[slice(None)] * axis, within)]
            elif runs is not None:
                leaf = xp.take(leaf, expand(runs), axis=axis)
        return xp.reshape(leaf, self.shape)

    def put(self, leaf: Any, block: Any) -> Any:
        """Return the leaf with its block replaced by one of shape `shape`.

        Two NumPy arrays give a NumPy array, a copy.
        """
        taken = dict(self._positions())
        sizes = [
            len(taken[axis]) if axis in taken else size for axis, size in enumerate(np.shape(leaf))
        ]
        if isinstance(leaf, np.ndarray) and isinstance(block, np.ndarray):
            new = leaf.copy()
            new[self._grid(np.shape(leaf))] = block.reshape(sizes)
            return new
        leaf = jnp.asarray(leaf)
        if not taken:
            return jnp.reshape(block, leaf.shape).astype(leaf.dtype)
        where = self._grid(leaf.shape)
        return leaf.at[where].set(jnp.reshape(block, sizes).astype(leaf.dtype))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a leaf of this shape has such a block."""
        sizes = list(shape)
        if self.index and len(self.index) != len(sizes):
            return False
        for axis, positions in self._positions():
            if np.any(positions >= sizes[axis]):
                return False
            sizes[axis] = len(positions)
        return _is_merged(self.shape, tuple(sizes))

    def _positions(self) -> list[tuple[int, np.ndarray]]:
        """Return per axis that is taken in part the positions of its entries."""
        return [(axis, expand(runs)) for axis, runs in enumerate(self.index) if runs is not None]

    def _grid(self, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        taken = dict(self._positions())
        return np.ix_(*(taken.get(axis, np.arange(size)) for axis, size in enumerate(shape)))


@dataclass(frozen=True)
class Activation:
    """An array between the layers of a network that carries groups.

    Attributes:
        role: whether a layer takes it ("input", after the nonlinearity) or computes it ("output",
            before bias and nonlinearity).
        tensor: its axes, for the inputs that were traced; its path is the place in the program.
    """

    role: Literal["input", "output"]
    tensor: TensorAxes


_STATISTICS = {"mean", "var", "running_mean", "running_var"}


def is_statistic(path: str) -> bool:
    """Tell by its name whether a leaf is a running statistic."""
    return leaf_name(path) in _STATISTICS


def _is_merged(view: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Tell whether joining neighbouring axes of the view gives the shape."""
    rest = list(view)
    for size in shape:
        if not rest:
            return False
        product = rest.pop(0)
        while product != size and rest:
            product *= rest.pop(0)
        if product != size:
            return False
    return math.prod(rest) == 1
