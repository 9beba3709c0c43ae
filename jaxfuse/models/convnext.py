"""ConvNeXt."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfuse.models.layers import conv, dense, normalisation, scale_width

_EXPANSION = 4


class ConvNeXtBlock(nnx.Module):
    """Depthwise 7x7 convolution, layer normalisation and an MLP on each pixel, added to the input.

    The MLP has a hidden layer of four times the channels and the exact GELU. What is added is
    scaled by one learnt factor a channel (layer scale).

    Parameter paths: `depthwise`, `norm`, `up`, `down`, `layer_scale`.

    Args:
        channels: number of channels.
        layer_scale: initial value of the factors.
        rngs: source of the initial weights.

    Examples:
        >>> ConvNeXtBlock(4, rngs=nnx.Rngs(0))(jnp.ones((2, 5, 5, 4))).shape
        (2, 5, 5, 4)
    """

    def __init__(self, channels: int, *, layer_scale: float = 1e-6, rngs: nnx.Rngs):
        self.depthwise = conv(
            channels, channels, 7, padding=3, channel_groups=channels, bias=True, rngs=rngs
        )
        self.norm = normalisation("layer", channels, rngs=rngs)
        self.up = dense(channels, _EXPANSION * channels, bias=True, rngs=rngs)
        self.down = dense(_EXPANSION * channels, channels, bias=True, rngs=rngs)
        self.layer_scale = nnx.Param(jnp.full((channels,), layer_scale, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block.

        Args:
            x: images `[n, h, w, channels]`.

        Returns:
            Images `[n, h, w, channels]`.
        """
        y = self.norm(self.depthwise(x))
        y = self.down(nnx.gelu(self.up(y), approximate=False))
        return x + y * self.layer_scale[...][None, None, None]


class ConvNeXt(nnx.Module):
    """ConvNeXt (Liu et al., 2022): a convolutional network in the style of a transformer.

    Patches by a strided convolution, stages of blocks with a layer normalisation and a strided 2x2
    convolution between each two, a spatial mean, a layer normalisation and a dense layer; there is
    no stochastic depth. With the defaults it is ConvNeXt-T, 28,589,128 weights for RGB images and
    1,000 classes.

    Parameter paths: `stem/kernel`, `stem_norm/scale`, `stages/0/0/depthwise/kernel`,
    `stages/0/0/norm/scale`, `stages/0/0/up/kernel`, `stages/0/0/down/kernel`,
    `stages/0/0/layer_scale` ..., `downsample_norms/0/scale`, `downsample_convs/0/kernel` ...,
    `norm/scale`, `head/kernel`; every one but the layer scales also has a `bias`.

    Args:
        inputs: number of channels of an image.
        classes: number of outputs.
        blocks: numbers of blocks of the stages.
        channels: numbers of channels of the stages.
        patch: side and step of the first convolution.
        layer_scale: initial factor of what a block adds. With the published 1e-6 a fresh network
            hardly depends on its blocks.
        width: multiplier of the channels.
        rngs: source of the initial weights.

    Raises:
        ValueError: Blocks and channels are not of one length of one or more.

    Examples:
        >>> model = ConvNeXt(3, 10, blocks=(1, 2), channels=(4, 8), patch=2, rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((2, 8, 8, 3))).shape
        (2, 10)
        >>> model.stages[1][0].up.kernel.shape
        (8, 32)
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        blocks: Sequence[int] = (3, 3, 9, 3),
        channels: Sequence[int] = (96, 192, 384, 768),
        patch: int = 4,
        layer_scale: float = 1e-6,
        width: float = 1.0,
        rngs: nnx.Rngs,
    ):
        if not blocks or len(blocks) != len(channels):
            raise ValueError(
                "give as many numbers of channels as of blocks, one a stage, got "
                f"blocks={tuple(blocks)} and channels={tuple(channels)}"
            )
        sizes = [scale_width(features, width) for features in channels]
        self.stem = conv(
            inputs, sizes[0], patch, stride=patch, padding="VALID", bias=True, rngs=rngs
        )
        self.stem_norm = normalisation("layer", sizes[0], rngs=rngs)
        self.downsample_norms = nnx.List(
            [normalisation("layer", features, rngs=rngs) for features in sizes[:-1]]
        )
        self.downsample_convs = nnx.List(
            [
                conv(n, m, 2, stride=2, padding="VALID", bias=True, rngs=rngs)
                for n, m in itertools.pairwise(sizes)
            ]
        )
        self.stages = nnx.List(
            [
                nnx.List(
                    [ConvNeXtBlock(n, layer_scale=layer_scale, rngs=rngs) for _ in range(repeats)]
                )
                for n, repeats in zip(sizes, blocks, strict=True)
            ]
        )
        self.norm = normalisation("layer", sizes[-1], rngs=rngs)
        self.head = dense(sizes[-1], classes, bias=True, rngs=rngs)
        self.smallest = patch * 2 ** (len(blocks) - 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits.

        Args:
            x: images `[n, h, w, c]`.

        Returns:
            Logits `[n, classes]`.

        Raises:
            ValueError: The images shrink to nothing.
        """
        if min(x.shape[1:3]) < self.smallest:
            raise ValueError(
                f"this ConvNeXt needs images of {self.smallest}x{self.smallest} pixels or more, "
                f"got {x.shape}: enlarge them, or take a smaller patch or fewer stages"
            )
        x = self.stem_norm(self.stem(x))
        for index, stage in enumerate(self.stages):
            if index:
                x = self.downsample_convs[index - 1](self.downsample_norms[index - 1](x))
            for block in stage:
                x = block(x)
        return self.head(self.norm(x.mean(axis=(1, 2))))
