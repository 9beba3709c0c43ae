"""Layers that every reference model is made of: dense, convolution, normalisation."""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
from flax import nnx

Norm = Literal["batch", "layer", "group"]

# One object for all layers: a graph definition compares initialisers by identity, and equal graph
# definitions share compiled programs.
_HE_NORMAL = nnx.initializers.he_normal()


def scale_width(features: int, width: float) -> int:
    """Scale a number of hidden units, to one unit at least.

    Args:
        features: The number of units at full width.
        width: The multiplier, positive.

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
        inputs: Number of input units.
        outputs: Number of output units.
        bias: Whether to add a bias `[outputs]`.
        rngs: Source of the initial weights.

    Returns:
        The layer.
    """
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=_HE_NORMAL, rngs=rngs)


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    padding: Literal["VALID", "SAME"],
    bias: bool,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Make a square convolution with He-normal weights, kernel `[kernel, kernel, inputs, outputs]`.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        kernel: Side of the window.
        padding: Whether the image shrinks ("VALID") or not ("SAME").
        bias: Whether to add a bias `[outputs]`.
        rngs: Source of the initial weights.

    Returns:
        The layer.
    """
    return nnx.Conv(
        inputs,
        outputs,
        (kernel, kernel),
        padding=padding,
        use_bias=bias,
        kernel_init=_HE_NORMAL,
        rngs=rngs,
    )


def normalisation(kind: Norm, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """Make a normalisation over the last axis.

    Batch normalisation keeps running statistics with momentum 0.9 (PyTorch's default). Group
    normalisation takes the largest number of groups that divides `features`, is at most 32 and
    leaves eight channels or more in a group (Wu and He, 2018, use 32 groups at 256 and more
    channels); it lets units permute only within a group and groups among each other.

    Args:
        kind: "batch", "layer" or "group".
        features: Length of the last axis.
        rngs: Source of the initial weights.

    Returns:
        The layer.

    Raises:
        ValueError: The kind is unknown.
    """
    match kind:
        case "batch":
            return nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
        case "layer":
            return nnx.LayerNorm(features, rngs=rngs)
        case "group":
            most = min(32, max(1, features // 8))
            groups = max(n for n in range(1, most + 1) if features % n == 0)
            return nnx.GroupNorm(features, groups, rngs=rngs)
    raise ValueError(f"norm must be None, 'batch', 'layer' or 'group', got {kind!r}")


def normalisations(
    kind: Norm | None, features: Sequence[int], *, rngs: nnx.Rngs
) -> nnx.List[nnx.Module]:
    """Make one normalisation a hidden layer, or none at all.

    Args:
        kind: "batch", "layer", "group", or None for an empty list.
        features: Widths of the hidden layers.
        rngs: Source of the initial weights.

    Returns:
        The layers, as long as `features`, or empty.
    """
    if kind is None:
        return nnx.List([])
    return nnx.List([normalisation(kind, n, rngs=rngs) for n in features])


def hidden(
    linear: Callable[[jax.Array], jax.Array],
    norms: Sequence[nnx.Module],
    index: int,
    x: jax.Array,
) -> jax.Array:
    """Apply a linear map, its normalisation where there is one, and ReLU.

    Args:
        linear: Dense layer or convolution.
        norms: Normalisations of all hidden layers, or empty.
        index: Number of this hidden layer.
        x: Its input, features last.

    Returns:
        Its output, features last.
    """
    x = linear(x)
    if norms:
        x = norms[index](x)  # pyright: ignore[reportCallIssue]
    return nnx.relu(x)


def max_pool(x: jax.Array) -> jax.Array:
    """Halve height and width by the maximum of each 2x2 window.

    A remaining odd row or column is dropped. An image of one pixel's height or width is returned
    as it is, so that deep networks accept small images.

    Args:
        x: Images `[n, h, w, c]`.

    Returns:
        Images `[n, h // 2, w // 2, c]`.
    """
    if min(x.shape[1:3]) < 2:
        return x
    return nnx.max_pool(x, (2, 2), strides=(2, 2))
