"""VGG11 and VGG16 for small images."""

import itertools
from collections.abc import Sequence
from types import MappingProxyType
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfuse.models.layers import Norm, conv, dense, hidden, max_pool, normalisations, scale_width

VGG11_WIDTHS = MappingProxyType(
    {
        "full": (64, 128, 256, 256, 512, 512, 512, 512),
        "half": (64, 64, 128, 128, 256, 256, 256, 512),
        "double": (64, 256, 512, 512, 1024, 1024, 1024, 512),
        "quad": (64, 512, 1024, 1024, 2048, 2048, 2048, 512),
    }
)
"""Channels of the eight convolutions: GAMF's variants share the first and the last width."""

_VGG16_WIDTHS = (64, 64, 128, 128, *[256] * 3, *[512] * 6)


class _VGG(nnx.Module):
    """What both depths share: convolutions with pooling, a spatial mean and a dense layer."""

    pool_after: ClassVar[frozenset[int]]

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        widths: Sequence[int],
        width: float,
        bias: bool,
        norm: Norm | None,
        rngs: nnx.Rngs,
    ):
        channels = [scale_width(features, width) for features in widths]
        self.conv = nnx.List(
            [
                conv(n, m, 3, padding="SAME", bias=bias, rngs=rngs)
                for n, m in itertools.pairwise([inputs, *channels])
            ]
        )
        self.dense = nnx.List([dense(channels[-1], classes, bias=bias, rngs=rngs)])
        self.conv_norm = normalisations(norm, channels, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits.

        Args:
            x: images `[n, h, w, c]`.

        Returns:
            Logits `[n, classes]`.
        """
        for index, layer in enumerate(self.conv):
            x = hidden(layer, self.conv_norm, index, x)
            if index in self.pool_after:
                x = max_pool(x)
        return self.dense[0](jnp.mean(x, axis=(1, 2)))


class VGG11(_VGG):
    """VGG11 with a spatial mean and one dense layer as its head.

    Convolutions are 3x3 with padding 1, in the order 64-M-128-M-256-256-M-512-512-M-512-512-M with
    M a 2x2 max pooling (Simonyan and Zisserman, 2015, configuration A). With the defaults it is
    the `vgg11_nobias` of OTFusion and GAMF: nine weight tensors, 9,222,848 weights for RGB images
    and ten classes. An image that has shrunk to one pixel's height or width is pooled no further,
    so 8x8 images work as well.

    Parameter paths: `conv/0/kernel` ... `conv/7/kernel`, `dense/0/kernel` (and `bias`); with a norm
    `conv_norm/0/scale` ... (and `bias`, and with batch normalisation `mean` and `var`).

    Args:
        inputs: number of channels of an image.
        classes: number of outputs.
        widths: channels of the eight convolutions, or a name of `VGG11_WIDTHS`.
        width: multiplier of the channels.
        bias: whether convolutions and the dense layer have biases.
        norm: normalisation between each convolution and its ReLU.
        rngs: source of the initial weights.

    Raises:
        ValueError: The widths are no known name, or not eight.

    Examples:
        >>> import jax
        >>> model = VGG11(3, 10, width=0.125, rngs=nnx.Rngs(jax.random.key(0)))
        >>> model(jax.numpy.zeros((2, 32, 32, 3))).shape
        (2, 10)
    """

    pool_after = frozenset({0, 1, 3, 5, 7})

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        widths: str | Sequence[int] = "full",
        width: float = 1.0,
        bias: bool = False,
        norm: Norm | None = None,
        rngs: nnx.Rngs,
    ):
        if isinstance(widths, str):
            if widths not in VGG11_WIDTHS:
                raise ValueError(
                    f"unknown widths {widths!r}: choose one of {', '.join(VGG11_WIDTHS)}, or give "
                    "eight numbers"
                )
            widths = VGG11_WIDTHS[widths]
        if len(widths) != len(VGG11_WIDTHS["full"]):
            raise ValueError(f"VGG11 has eight convolutions, got {len(widths)} widths")
        super().__init__(
            inputs, classes, widths=widths, width=width, bias=bias, norm=norm, rngs=rngs
        )


class VGG16(_VGG):
    """VGG16 with a spatial mean and one dense layer as its head.

    Convolutions are 3x3 with padding 1, in the order 64-64-M-128-128-M-256-256-256-M-512-512-512-M-
    512-512-512-M with M a 2x2 max pooling (Simonyan and Zisserman, 2015, configuration D). With
    biases the convolutions have the published 14,714,688 weights for RGB images. The head of three
    dense layers is left out, as is usual for small images. An image that has shrunk to one pixel's
    height or width is pooled no further.

    Parameter paths: `conv/0/kernel` ... `conv/12/kernel`, `dense/0/kernel` (and `bias`); with a
    norm `conv_norm/0/scale` ... (and `bias`, and with batch normalisation `mean` and `var`).

    Args:
        inputs: number of channels of an image.
        classes: number of outputs.
        widths: channels of the thirteen convolutions.
        width: multiplier of the channels.
        bias: whether convolutions and the dense layer have biases. Off by default, as in `VGG11`.
        norm: normalisation between each convolution and its ReLU.
        rngs: source of the initial weights.

    Raises:
        ValueError: The widths are not thirteen.

    Examples:
        >>> import jax
        >>> model = VGG16(3, 10, width=0.0625, norm="layer", rngs=nnx.Rngs(jax.random.key(0)))
        >>> model(jax.numpy.zeros((2, 32, 32, 3))).shape
        (2, 10)
    """

    pool_after = frozenset({1, 3, 6, 9, 12})

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        widths: Sequence[int] = _VGG16_WIDTHS,
        width: float = 1.0,
        bias: bool = False,
        norm: Norm | None = None,
        rngs: nnx.Rngs,
    ):
        if len(widths) != len(_VGG16_WIDTHS):
            raise ValueError(f"VGG16 has thirteen convolutions, got {len(widths)} widths")
        super().__init__(
            inputs, classes, widths=widths, width=width, bias=bias, norm=norm, rngs=rngs
        )
