"""A product of data with a kernel as a matrix product: rows of samples, columns of units."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.symmetry.trace.replay import Layer

_CHUNK = 64  # examples whose windows are held at once


class Axes(NamedTuple):
    """How the kernel of a layer is a matrix.

    Attributes:
        taken: axes of the kernel operand that are summed over, in the order of the rows.
        computed: axes of the kernel operand that are units.
        units: the same units on the outputs.
    """

    taken: tuple[int, ...]
    computed: tuple[int, ...]
    units: tuple[int, ...]


def matrix_axes(layer: Layer) -> Axes | None:
    """Return how the kernel is a matrix, or None where it is not.

    It is none if only a part or a sum of the leaf is used, and if it is one of several kernels side
    by side, as in a grouped convolution or a product over heads.
    """
    places = layer.kernel.axes
    if any(axis is None for axis in places) or sorted(map(_number, places)) != list(
        range(len(places))
    ):
        return None
    if layer.primitive == "conv_general_dilated":
        numbers = layer.params["dimension_numbers"]
        if layer.params["feature_group_count"] != 1 or layer.params["batch_group_count"] != 1:
            return None
        unit, *taken = numbers.rhs_spec
        return Axes(tuple(taken), (unit,), (numbers.out_spec[1],))
    contract, batch = layer.params["dimension_numbers"]
    side = 1 if layer.data_first else 0
    if batch[side]:
        return None
    computed = tuple(axis for axis in range(len(places)) if axis not in contract[side])
    others = layer.inputs[0].ndim - len(contract[1 - side])
    start = others if layer.data_first else 0
    return Axes(tuple(contract[side]), computed, tuple(range(start, start + len(computed))))


def kernel_matrix(layer: Layer, axes: Axes, leaf: jax.Array) -> jax.Array:
    """Return the kernel as `[taken, units]`."""
    order = [_number(layer.kernel.axes[axis]) for axis in (*axes.taken, *axes.computed)]
    moved = jnp.transpose(leaf, order).astype(jnp.float32)
    return moved.reshape(math.prod(moved.shape[: len(axes.taken)]), -1)


def put_matrix(layer: Layer, axes: Axes, leaf: jax.Array, matrix: jax.Array) -> jax.Array:
    """Return the leaf that holds a kernel `[taken, units]`, in its own dtype."""
    order = [_number(layer.kernel.axes[axis]) for axis in (*axes.taken, *axes.computed)]
    moved = matrix.reshape([leaf.shape[axis] for axis in order])
    inverse = sorted(range(len(order)), key=lambda place: order[place])
    return jnp.transpose(moved, inverse).astype(leaf.dtype)


def output_matrix(axes: Axes, outputs: jax.Array) -> jax.Array:
    """Return outputs as `[samples, units]`, float32."""
    samples = [axis for axis in range(outputs.ndim) if axis not in axes.units]
    moved = jnp.transpose(outputs, (*samples, *axes.units)).astype(jnp.float32)
    return moved.reshape(math.prod(moved.shape[: len(samples)]), -1)


class Regression(NamedTuple):
    """Sums over samples of what a linear regression with intercept needs.

    Attributes:
        count: number of samples.
        mean_x: `[taken]`.
        mean_y: `[units]`.
        gram: `X^T X` of the deviations from the mean, `[taken, taken]`.
        cross: `X^T Y` of the deviations, `[taken, units]`.
    """

    count: jax.Array
    mean_x: jax.Array
    mean_y: jax.Array
    gram: jax.Array
    cross: jax.Array


def regression_sums(layer: Layer, axes: Axes, inputs: jax.Array, targets: jax.Array) -> Regression:
    """Add up the products of a layer's inputs with targets for its outputs, some examples at once.

    Args:
        layer: the product.
        axes: of its kernel.
        inputs: data of one network.
        targets: what its outputs should be, in their shape.
    """
    means = jnp.mean(output_matrix(axes, targets), axis=0)
    mean_x = _mean_rows(layer, axes, inputs)
    total = inputs.shape[0]
    chunk = max(size for size in range(1, min(_CHUNK, total) + 1) if total % size == 0)

    def sums(part: Any) -> tuple[jax.Array, jax.Array]:
        x, y = part
        rows = _rows(layer, axes, x) - mean_x[None, :]
        units = output_matrix(axes, y) - means[None, :]
        gram = jnp.dot(rows.T, rows, precision=HIGHEST)
        return gram, jnp.dot(rows.T, units, precision=HIGHEST)

    split = lambda array: array.reshape(total // chunk, chunk, *array.shape[1:])  # noqa: E731
    parts = (split(inputs), split(targets))
    first = jax.eval_shape(sums, jax.tree.map(lambda array: array[0], parts))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), first)

    def step(carry: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, sums(part)), None

    (gram, cross), _ = lax.scan(step, zeros, parts)
    count = targets.size // len(means)
    return Regression(jnp.float32(count), mean_x, means, gram, cross)


def _rows(layer: Layer, axes: Axes, inputs: jax.Array) -> jax.Array:
    """Return what every output is computed from, `[samples, taken]`, float32."""
    if layer.primitive == "dot_general":
        contract, _ = layer.params["dimension_numbers"]
        summed = contract[0 if layer.data_first else 1]
        samples = [axis for axis in range(inputs.ndim) if axis not in summed]
        moved = jnp.transpose(inputs, (*samples, *summed)).astype(jnp.float32)
        return moved.reshape(math.prod(moved.shape[: len(samples)]), -1)
    params, numbers = layer.params, layer.params["dimension_numbers"]
    shape = [layer.kernel_shape[axis] for axis in numbers.rhs_spec[2:]]
    patches = lax.conv_general_dilated_patches(
        inputs.astype(jnp.float32),
        filter_shape=shape,
        window_strides=params["window_strides"],
        padding=params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=numbers,
        precision=HIGHEST,
    )
    return output_matrix(axes, patches)


def _mean_rows(layer: Layer, axes: Axes, inputs: jax.Array) -> jax.Array:
    """Return the mean of the rows; the windows of the mean image are the mean of the windows."""
    if layer.primitive == "dot_general":
        return jnp.mean(_rows(layer, axes, inputs), axis=0)
    batch = layer.params["dimension_numbers"].lhs_spec[0]
    return jnp.mean(_rows(layer, axes, jnp.mean(inputs, axis=batch, keepdims=True)), axis=0)


def _number(axis: int | None) -> int:
    return -1 if axis is None else axis
