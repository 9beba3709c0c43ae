"""Measure something on all parts of a batch in one compiled loop."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def fold_batches(
    measure: Callable[..., PyTree],
    merge: Callable[[PyTree, PyTree], PyTree],
    inputs: tuple[PyTree, ...],
    batch_size: int | None,
    *operands: PyTree,
) -> PyTree:
    """Measure every part of a batch and merge the results, one part in memory at a time.

    Args:
        measure: `measure(part, *operands)`, a pytree of arrays.
        merge: joins two results; zeros must be neutral.
        inputs: arrays whose first axis is that of the examples.
        batch_size: examples in a part; None for all at once.
        *operands: what else `measure` takes.

    Returns:
        The result for all examples, in whatever number; a remainder is a part of its own.

    Raises:
        ValueError: if there are no examples, or the inputs disagree on their number.

    Examples:
        >>> total = fold_batches(lambda x: x[0].sum(0), jnp.add, (jnp.ones((5, 2)),), 2)
        >>> total.tolist()
        [5.0, 5.0]
    """
    measured = jax.jit(measure)
    parts, rest = _cut(inputs, batch_size)
    if parts is None:
        return measured(rest, *operands)
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), parts)
    shapes = jax.eval_shape(measured, first, *operands)
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def step(carry: PyTree, part: tuple[PyTree, ...]) -> tuple[PyTree, None]:
        return merge(carry, measured(part, *operands)), None

    result, _ = jax.lax.scan(step, start, parts)
    return result if rest is None else merge(result, measured(rest, *operands))


def map_batches(
    function: Callable[..., jax.Array],
    inputs: tuple[PyTree, ...],
    batch_size: int | None,
    *operands: PyTree,
) -> jax.Array:
    """Call a function on every part of a batch and return its results in one array.

    Args:
        function: `function(part, *operands)`, an array whose first axis is that of the examples.
        inputs: as in `fold_batches`.
        batch_size: as in `fold_batches`.
        *operands: what else the function takes.

    Returns:
        One array for all examples, in their order.

    Raises:
        ValueError: as `fold_batches`.

    Examples:
        >>> map_batches(lambda x: 2 * x[0], (jnp.arange(5),), 2).tolist()
        [0, 2, 4, 6, 8]
    """
    called = jax.jit(function)
    parts, rest = _cut(inputs, batch_size)
    if parts is None:
        return called(rest, *operands)
    found = jax.lax.map(lambda part: called(part, *operands), parts)
    found = found.reshape(-1, *found.shape[2:])
    return found if rest is None else jnp.concatenate([found, called(rest, *operands)])


def count_examples(inputs: tuple[PyTree, ...]) -> int:
    """Return the length of the first axis, which all inputs share.

    Raises:
        ValueError: if there are no examples, or the inputs disagree on their number.

    Examples:
        >>> count_examples((jnp.ones((5, 2)), jnp.ones(5)))
        5
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    if any(not shape or shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(
            f"the inputs have shapes {shapes}, whose first axes are not one number of examples: "
            "pass batch_size=None, which takes all inputs as they are"
        )
    if not shapes or not shapes[0][0]:
        raise ValueError(f"there are no examples: got inputs of shapes {shapes}")
    return shapes[0][0]


def _cut(inputs: tuple[PyTree, ...], batch_size: int | None) -> tuple[PyTree, PyTree]:
    """Return parts of one size, stacked, and what remains; None for what is empty."""
    if batch_size is None:
        return None, inputs
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, or None for all at once: got {batch_size}")
    total = count_examples(inputs)
    if batch_size >= total:
        return None, inputs
    whole = total // batch_size * batch_size
    parts = jax.tree.map(lambda x: x[:whole].reshape(-1, batch_size, *x.shape[1:]), inputs)
    rest = jax.tree.map(lambda x: x[whole:], inputs) if whole < total else None
    return parts, rest
