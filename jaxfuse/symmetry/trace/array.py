"""What the tracer knows of an array: the structure of its axes, and no values."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxfuse.symmetry.trace.factor import Axis, Factor, Free, axis_size, pinned


@dataclass(frozen=True)
class Array:
    """An array as the tracer sees it.

    Attributes:
        axes: the structure of every axis.
        ghosts: factors that the array varies with though it has no axis of them: the layers of a
            stack inside the scan over it, the devices inside a `shard_map`.
        points: the axis whose positions the values are, for indices made by iota, argmax, top_k
            and argsort.
        shifted: whether the size of that axis was added, as JAX does before it takes the choice
            between negative and other indices.
        value: the number that every entry is, where that is known.
        leaves: the parameters that the array is made of, by path.
        data: whether the inputs went into it.
        site: the operation that made it; None for arguments of the program.
    """

    axes: tuple[Axis, ...]
    ghosts: frozenset[Factor] = frozenset()
    points: Axis | None = None
    shifted: bool = False
    value: float | None = None
    leaves: frozenset[str] = field(default=frozenset())
    data: bool = False
    site: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(axis_size(axis) for axis in self.axes)

    def at(self, *axes: Axis) -> "Array":
        """Return an array with the same history and other axes."""
        return replace(self, axes=axes, points=None, shifted=False, value=None)


def free(shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Return axes along which an array does not vary."""
    return tuple((Free(size),) if size != 1 else () for size in shape)


def constant(value: Any) -> Array:
    """Describe an array whose values are known: pinned along the axes that it varies along."""
    values = np.asarray(value)
    if not values.size or values.dtype.kind not in "biuf":
        return Array(tuple(pinned(n, "varies along a constant") for n in np.shape(values)))
    axes = []
    for axis, size in enumerate(values.shape):
        first = np.take(values, [0], axis=axis)
        same = size == 1 or _equal(values, first)
        axes.append((Free(size),) if same and size > 1 else pinned(size, "varies along a constant"))
    flat = values.reshape(-1)
    uniform = _equal(flat, flat[:1])
    return Array(tuple(axes), value=float(flat[0]) if uniform else None)


def _equal(values: np.ndarray, others: np.ndarray) -> bool:
    """Compare numbers; the two zeros are not one."""
    same = bool(np.all(values == others))
    return same and (
        values.dtype.kind != "f" or bool(np.all(np.signbit(values) == np.signbit(others)))
    )
