"""Convolutions as matrix products of patches, and pooling by slices, which batch over clients."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.federated.rewrite import rewrite

Padding = tuple[tuple[int, int], ...]
_NHWC = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def as_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose convolutions are matrix products of patches, its pooling slices.

    With a kernel for every client, a convolution under `vmap` becomes one of as many channel groups
    as clients, and inside a loop XLA's CPU backend compiles any convolution badly; batched products
    are fast in both. The patches of an image take as many times its memory as the kernel has
    entries.

    Args:
        function: pure function of arrays. Its convolutions of images `[n, h, w, c]` with kernels
            `[h, w, in, out]`, without dilation or groups, are replaced, and maxima over windows
            that meet without overlap; others stay.

    Returns:
        A function of the same arguments that gives the same results up to rounding.

    Examples:
        >>> x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))
        >>> def blur(x, kernel):
        ...     return jax.lax.conv_general_dilated(
        ...         x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        >>> bool(jnp.allclose(as_products(blur)(x, kernel), blur(x, kernel)))
        True
    """
    return rewrite(function, _rule)


def _rule(equation: Any, operands: Sequence[Any]) -> list[Any] | None:
    if equation.primitive.name == "reduce_window_max":
        return _pooling(equation.params, operands[0])
    if equation.primitive.name != "conv_general_dilated":
        return None
    params = equation.params
    plain = (
        tuple(params["dimension_numbers"]) == _NHWC
        and all(each == 1 for each in (*params["lhs_dilation"], *params["rhs_dilation"]))
        and params["feature_group_count"] == params["batch_group_count"] == 1
    )
    if not plain:
        return None
    images, kernel = operands
    padding = tuple((int(low), int(high)) for low, high in params["padding"])
    return [_convolve(images, kernel, tuple(params["window_strides"]), padding)]


def _pooling(params: Any, images: jax.Array) -> list[Any] | None:
    window = params["window_dimensions"]
    plain = (
        len(window) == 4
        and window[0] == window[3] == 1
        and window == params["window_strides"]
        and not any(map(sum, params["padding"]))
        and all(each == 1 for each in (*params["base_dilation"], *params["window_dilation"]))
    )
    if not plain:
        return None
    _, height, breadth, _ = images.shape
    _, down, across, _ = window
    # What is left at the edges is in no window.
    images = images[:, : height // down * down, : breadth // across * across]
    return [_pool(images, (down, across))]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding
) -> jax.Array:
    patches = _patches(_channels_first(images), kernel.shape[:2], strides, padding)
    by_channel = kernel.reshape(-1, kernel.shape[-1]).T @ _flat(patches)
    return by_channel.reshape(-1, *patches.shape[2:]).transpose(1, 2, 3, 0)


def _forward(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(images, kernel, strides, padding), (images, kernel)


def _backward(
    strides: tuple[int, ...],
    padding: Padding,
    kept: tuple[jax.Array, jax.Array],
    slope: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    images, kernel = kept
    window, channels = kernel.shape[:2], _channels_first(images)
    patches = _patches(channels, window, strides, padding)
    slopes = _channels_first(slope).reshape(slope.shape[-1], -1)
    for_kernel = _flat(patches) @ slopes.T
    for_patches = kernel.reshape(-1, kernel.shape[-1]) @ slopes
    spread = jax.linear_transpose(
        lambda x: _patches(x, window, strides, padding), jax.typeof(channels)
    )
    (for_channels,) = spread(for_patches.reshape(patches.shape))
    # The transposition as a product: XLA would fuse the sum over the window into what follows, and
    # take it again for each use.
    flat_images = lax.dot_general(
        for_channels.reshape(len(for_channels), -1),
        jnp.eye(len(for_channels), dtype=for_channels.dtype),
        (((0,), (0,)), ((), ())),
    )
    for_images = flat_images.reshape(images.shape)
    return for_images, for_kernel.reshape(kernel.shape)


_convolve.defvjp(_forward, _backward)


def _flat(patches: jax.Array) -> jax.Array:
    return patches.reshape(-1, math.prod(patches.shape[2:]))


def _channels_first(images: jax.Array) -> jax.Array:
    # Rows of an image are then what is copied, and not its few channels.
    return images.transpose(3, 0, 1, 2)


def _patches(
    images: jax.Array, window: Sequence[int], strides: Sequence[int], padding: Padding
) -> jax.Array:
    """Return of images `[c, n, h, w]` the window of every output, `[entries, c, n, h', w']`."""
    widths = ((0, 0, 0), (0, 0, 0), *((low, high, 0) for low, high in padding))
    padded = lax.pad(images, jnp.zeros((), images.dtype), widths)
    height, breadth = padded.shape[2:]
    down, across = strides
    shifted = [
        padded[..., i : height - window[0] + i + 1 : down, j : breadth - window[1] + j + 1 : across]
        for i in range(window[0])
        for j in range(window[1])
    ]
    return jnp.stack(shifted)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pool(images: jax.Array, window: tuple[int, int]) -> jax.Array:
    return functools.reduce(jnp.maximum, _corners(images, window))


def _corners(images: jax.Array, window: tuple[int, int]) -> list[jax.Array]:
    down, across = window
    return [images[:, i::down, j::across] for i in range(down) for j in range(across)]


def _pool_forward(
    images: jax.Array, window: tuple[int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    largest = jnp.asarray(_pool(images, window))
    return largest, (images, largest)


def _pool_backward(
    window: tuple[int, int], kept: tuple[jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array]:
    images, largest = kept
    # The first of equal entries takes the slope, as in XLA's own rule.
    free = jnp.ones(largest.shape, bool)
    shares = []
    for corner in _corners(images, window):
        chosen = (corner == largest) & free
        shares.append(jnp.where(chosen, slope, 0))
        free &= ~chosen
    n, h, w, c = slope.shape
    down, across = window
    spread = jnp.stack(shares).reshape(down, across, n, h, w, c)
    return (spread.transpose(2, 3, 0, 4, 1, 5).reshape(n, h * down, w * across, c),)


_pool.defvjp(_pool_forward, _pool_backward)
