"""Products of matrices and tensors, in float32 or of bfloat16 factors summed in float32."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST

Products = Literal["float32", "bfloat16"]
Axes = tuple[int, ...]


def check_products(products: str) -> None:
    """Refuse an unknown kind of products with a ValueError."""
    if products not in get_args(Products):
        raise ValueError(f"products must be one of {get_args(Products)}, got {products!r}")


def dot(x: jax.Array, y: jax.Array, products: Products) -> jax.Array:
    """Return the product of matrices `[n, k]` and `[k, m]` in float32, differentiable in both.

    Examples:
        >>> third = jnp.full((1, 1), 1 / 3)
        >>> print(*(f"{dot(third, third, kind)[0, 0]:.5f}" for kind in ("float32", "bfloat16")))
        0.11111 0.11155
    """
    if products == "bfloat16":
        return _contract(x, y, (0, 1), (1, 2), (0, 2))
    return jnp.dot(x, y, precision=HIGHEST)


def einsum(
    operands: Sequence[tuple[jax.Array, Sequence[int]]], out: Sequence[int], products: Products
) -> jax.Array:
    """Sum products of tensors over the axes that `out` lacks, in float32.

    Args:
        operands: pairs of a tensor and the numbers of its axes, each in two tensors or more, or
            in a tensor and in `out`.
        out: the axes of the result.
        products: "bfloat16" rounds the factors of every product of two tensors.

    Examples:
        >>> x = jnp.ones((2, 3))
        >>> einsum([(x, (0, 1)), (x, (2, 1)), (x, (0, 1))], (2,), "bfloat16")
        Array([6., 6.], dtype=float32)
    """
    flat: list[Any] = [part for array, axes in operands for part in (array, list(axes))]
    if products == "float32":
        return jnp.einsum(*flat, list(out), precision=HIGHEST)
    left = [(array, tuple(axes)) for array, axes in operands]
    for first, second in jnp.einsum_path(*flat, list(out), optimize="greedy")[0]:
        (x, of_x), (y, of_y) = left[first], left[second]
        left = [each for index, each in enumerate(left) if index not in (first, second)]
        needed = {*out, *(axis for _, axes in left for axis in axes)}
        kept = tuple(axis for axis in dict.fromkeys((*of_x, *of_y)) if axis in needed)
        kept = tuple(out) if not left else kept
        left.append((_contract(x, y, of_x, of_y, kept), kept))
    return left[0][0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _contract(x: jax.Array, y: jax.Array, of_x: Axes, of_y: Axes, out: Axes) -> jax.Array:
    """Sum products of bfloat16 numbers in float32."""
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return jnp.einsum(x, of_x, y, of_y, out, preferred_element_type=jnp.float32)


def _forward(x: jax.Array, y: jax.Array, *axes: Axes) -> tuple[jax.Array, Any]:
    return _contract(x, y, *axes), (x, y)


def _backward(of_x: Axes, of_y: Axes, out: Axes, kept: Any, slope: jax.Array) -> Any:
    # Automatic differentiation would round the gradients too, not only the factors.
    x, y = kept
    return _contract(slope, y, out, of_y, of_x), _contract(x, slope, of_x, out, of_y)


_contract.defvjp(_forward, _backward)
