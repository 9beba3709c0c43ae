"""Layers that every reference model is made of: dense, convolution, normalisation, pooling."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Norm = Literal["batch", "layer", "group"]
Normalisation = nnx.BatchNorm | nnx.LayerNorm | nnx.GroupNorm

_SHORTEST_DRAW = 4096
_TRUNCATED = 0.87962566103423978
"""Standard deviation of a standard normal variable that is truncated at two."""


# One function for all layers: a graph definition compares initialisers by identity, and equal graph
# definitions share compiled programs.
def he_normal(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Draw the weights of `nnx.initializers.he_normal`, with few programs to compile.

    Compiling a draw takes most of the time of making a small model. The random number of an entry
    depends on its place in the flattened array and not on the shape, so arrays of all shapes are
    cut from draws of a few lengths, powers of two.

    Args:
        key: key of the draw.
        shape: shape of a kernel, `[..., inputs, outputs]`.
        dtype: type of the weights.

    Returns:
        Weights of variance `2 / (product of all axes but the last)`, truncated at two standard
        deviations of the normal distribution that they are drawn from.

    Examples:
        >>> key = jax.random.key(0)
        >>> published = nnx.initializers.he_normal()(key, (3, 3, 4, 5), jnp.float32)
        >>> bool((he_normal(key, (3, 3, 4, 5)) == published).all())
        True
    """
    length = max(_SHORTEST_DRAW, 1 << (math.prod(shape) - 1).bit_length())
    draws = jax.random.truncated_normal(key, -2, 2, (length,), dtype)
    variance = np.asarray(2 / math.prod(shape[:-1]), dtype)
    return _cut(draws, tuple(shape)) * (np.sqrt(variance) / np.asarray(_TRUNCATED, dtype))


@functools.partial(jax.jit, static_argnums=1)
def _cut(draws: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return draws[: math.prod(shape)].reshape(shape)


def scale_width(features: int, width: float) -> int:
    """Scale a number of hidden units, to one unit at least.

    Args:
        features: the number of units at full width.
        width: the multiplier, positive.

    Returns:
        The rounded product.

    Raises:
        ValueError: The multiplier is not positive.

    Examples:
        >>> scale_width(100, 0.25)
        25
    """
    if not width > 0:
        raise ValueError(f"width multiplier must be positive, got {width}")
    return max(1, round(features * width))


def dense(inputs: int, outputs: int, *, bias: bool, rngs: nnx.Rngs) -> nnx.Linear:
    """Make a dense layer with He-normal weights, kernel `[inputs, outputs]`.

    Args:
        inputs: number of input units.
        outputs: number of output units.
        bias: whether to add a bias `[outputs]`.
        rngs: source of the initial weights.

    Returns:
        The layer.
    """
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=he_normal, rngs=rngs)


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    padding: Literal["VALID", "SAME"] | int,
    bias: bool,
    rngs: nnx.Rngs,
    stride: int = 1,
    channel_groups: int = 1,
) -> nnx.Conv:
    """Make a square convolution with He-normal weights.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        kernel: side of the window.
        padding: whether the image shrinks ("VALID") or not ("SAME"), or the number of zeros on
            each side, as in PyTorch; the last two differ where the stride is not 1.
        bias: whether to add a bias `[outputs]`.
        rngs: source of the initial weights.
        stride: step of the window.
        channel_groups: parts of the channels that do not see each other; as many as channels for
            a depthwise convolution.

    Returns:
        The layer, with a kernel `[kernel, kernel, inputs // channel_groups, outputs]`.
    """
    return nnx.Conv(
        inputs,
        outputs,
        (kernel, kernel),
        strides=stride,
        padding=((padding, padding),) * 2 if isinstance(padding, int) else padding,
        feature_group_count=channel_groups,
        use_bias=bias,
        kernel_init=he_normal,
        rngs=rngs,
    )


def transposed_conv(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    padding: Literal["VALID", "SAME"],
    rngs: nnx.Rngs,
) -> nnx.ConvTranspose:
    """Make a square transposed convolution with stride 2, He-normal weights and bias.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        kernel: side of the window, 2 or more.
        padding: "SAME" to double the image; "VALID" adds `kernel - 2` pixels to that.
        rngs: source of the initial weights.

    Returns:
        The layer, with a kernel `[kernel, kernel, inputs, outputs]`.
    """
    return nnx.ConvTranspose(
        inputs,
        outputs,
        (kernel, kernel),
        strides=(2, 2),
        padding=padding,
        kernel_init=he_normal,
        rngs=rngs,
    )


def normalisation(
    kind: Norm, features: int, *, groups: int | None = None, rngs: nnx.Rngs
) -> Normalisation:
    """Make a normalisation over the last axis.

    Batch normalisation keeps running statistics with momentum 0.9 (PyTorch's default). Group
    normalisation takes, unless told, the largest number of groups that divides `features`, is at
    most 32 and leaves eight channels or more in a group (Wu and He, 2018, use 32 groups at 256 and
    more channels); it lets units permute only within a group and groups among each other.

    Args:
        kind: "batch", "layer" or "group".
        features: length of the last axis.
        groups: number of groups for "group"; the other kinds have none.
        rngs: source of the initial weights.

    Returns:
        The layer.

    Raises:
        ValueError: The kind is unknown, or the groups do not divide the features.

    Examples:
        >>> normalisation("group", 12, groups=4, rngs=nnx.Rngs(0)).num_groups
        4
    """
    match kind:
        case "batch":
            return nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
        case "layer":
            return nnx.LayerNorm(features, rngs=rngs)
        case "group":
            return nnx.GroupNorm(features, _groups(features, groups), rngs=rngs)
    raise ValueError(
        "norm must be 'batch', 'layer' or 'group', or None in a model that can go without, got "
        f"{kind!r}"
    )


def _groups(features: int, groups: int | None) -> int:
    if groups is None:
        most = min(32, max(1, features // 8))
        return max(n for n in range(1, most + 1) if features % n == 0)
    if groups < 1 or features % groups:
        raise ValueError(
            f"group normalisation needs groups that divide the channels, got {groups} groups of "
            f"{features} channels: change the groups or the width"
        )
    return groups


def normalisations(
    kind: Norm | None, features: Sequence[int], *, rngs: nnx.Rngs
) -> nnx.List[Normalisation]:
    """Make one normalisation a hidden layer, or none at all.

    Args:
        kind: "batch", "layer", "group", or None for an empty list.
        features: widths of the hidden layers.
        rngs: source of the initial weights.

    Returns:
        The layers, as long as `features`, or empty.
    """
    if kind is None:
        return nnx.List([])
    return nnx.List([normalisation(kind, n, rngs=rngs) for n in features])


def hidden(
    linear: Callable[[jax.Array], jax.Array],
    norms: Sequence[Normalisation],
    index: int,
    x: jax.Array,
) -> jax.Array:
    """Apply a linear map, its normalisation where there is one, and ReLU.

    Args:
        linear: dense layer or convolution.
        norms: normalisations of all hidden layers, or empty.
        index: number of this hidden layer.
        x: its input, features last.

    Returns:
        Its output, features last.
    """
    x = linear(x)
    if norms:
        x = norms[index](x)
    return nnx.relu(x)


def max_pool(x: jax.Array) -> jax.Array:
    """Halve height and width by the maximum of each 2x2 window.

    A remaining odd row or column is dropped. An image of one pixel's height or width is returned
    as it is, so that deep networks accept small images.

    Args:
        x: images `[n, h, w, c]`.

    Returns:
        Images `[n, h // 2, w // 2, c]`.
    """
    if min(x.shape[1:3]) < 2:
        return x
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


def average_pool(x: jax.Array) -> jax.Array:
    """Halve height and width by the mean of each 2x2 window.

    A remaining odd row or column is dropped. An image of one pixel's height or width is returned
    as it is.

    Args:
        x: images `[n, h, w, c]`.

    Returns:
        Images `[n, h // 2, w // 2, c]`.
    """
    if min(x.shape[1:3]) < 2:
        return x
    return nnx.avg_pool(x, (2, 2), strides=(2, 2))
