"""Densely connected networks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfuse.models.layers import average_pool, conv, dense, normalisation, scale_width
from jaxfuse.models.resnet import Stem, stem_conv, stem_pool


class DenseLayer(nnx.Module):
    """Bottleneck layer of a dense block: appends new channels to those it reads.

    Batch normalisation and ReLU come before each of its two convolutions, 1x1 and 3x3.

    Parameter paths: `norm1`, `conv1`, `norm2`, `conv2`.

    Args:
        inputs: number of input channels.
        growth: number of channels it appends.
        bottleneck: number of channels between its convolutions.
        rngs: source of the initial weights.

    Examples:
        >>> layer = DenseLayer(6, growth=2, bottleneck=8, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 5, 5, 6))).shape
        (2, 5, 5, 8)
    """

    def __init__(self, inputs: int, *, growth: int, bottleneck: int, rngs: nnx.Rngs):
        self.norm1 = normalisation("batch", inputs, rngs=rngs)
        self.conv1 = conv(inputs, bottleneck, 1, padding=0, bias=False, rngs=rngs)
        self.norm2 = normalisation("batch", bottleneck, rngs=rngs)
        self.conv2 = conv(bottleneck, growth, 3, padding=1, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Append new channels.

        Args:
            x: images `[n, h, w, inputs]`.

        Returns:
            Images `[n, h, w, inputs + growth]`, the input first.
        """
        y = self.conv1(nnx.relu(self.norm1(x)))
        y = self.conv2(nnx.relu(self.norm2(y)))
        return jnp.concatenate([x, y], axis=-1)


class Transition(nnx.Module):
    """Passage between two dense blocks: fewer channels, then a quarter of the pixels.

    Parameter paths: `norm`, `conv`.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        rngs: source of the initial weights.

    Examples:
        >>> Transition(6, 3, rngs=nnx.Rngs(0))(jnp.ones((2, 4, 4, 6))).shape
        (2, 2, 2, 3)
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.norm = normalisation("batch", inputs, rngs=rngs)
        self.conv = conv(inputs, outputs, 1, padding=0, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Shrink images.

        Args:
            x: images `[n, h, w, inputs]`.

        Returns:
            Images `[n, h // 2, w // 2, outputs]`; one pixel's height or width stays.
        """
        return average_pool(self.conv(nnx.relu(self.norm(x))))


class DenseNet(nnx.Module):
    """DenseNet-BC (Huang et al., 2017): every layer of a block reads all layers before it.

    A stem, dense blocks with a transition between each two, batch normalisation and ReLU, a spatial
    mean and a dense layer. With the defaults it is DenseNet-121 for ImageNet, 7,978,856 weights for
    RGB images and 1,000 classes.

    Parameter paths: `conv0/kernel`, `norm0/scale`, `blocks/0/0/norm1/scale`,
    `blocks/0/0/conv1/kernel` ..., `transitions/0/norm/scale`, `transitions/0/conv/kernel` ...,
    `norm/scale`, `classifier/kernel`, `classifier/bias`; every normalisation also has `bias`,
    `mean` and `var`.

    Args:
        inputs: number of channels of an image.
        classes: number of outputs.
        growth: number of channels that a layer appends.
        blocks: numbers of layers of the dense blocks.
        first: number of channels of the stem.
        bottleneck: channels between a layer's convolutions, in units of the growth.
        compression: share of the channels that a transition keeps.
        stem: "imagenet" for a 7x7 convolution and a max pooling, both with stride 2; "cifar" for a
            3x3 convolution at full size.
        width: multiplier of the growth and of the stem's channels.
        rngs: source of the initial weights.

    Raises:
        ValueError: The compression is not in (0, 1], or the stem is unknown.

    Examples:
        >>> sizes = {"growth": 4, "blocks": (2, 2), "first": 8, "stem": "cifar"}
        >>> model = DenseNet(3, 10, **sizes, rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((2, 8, 8, 3))).shape
        (2, 10)
        >>> model.transitions[0].conv.kernel.shape
        (1, 1, 16, 8)
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        growth: int = 32,
        blocks: Sequence[int] = (6, 12, 24, 16),
        first: int = 64,
        bottleneck: int = 4,
        compression: float = 0.5,
        stem: Stem = "imagenet",
        width: float = 1.0,
        rngs: nnx.Rngs,
    ):
        if not 0 < compression <= 1:
            raise ValueError(f"compression must be in (0, 1], got {compression}")
        growth = scale_width(growth, width)
        channels = scale_width(first, width)
        self.conv0 = stem_conv(stem, inputs, channels, rngs=rngs)
        self.norm0 = normalisation("batch", channels, rngs=rngs)
        self.pools = stem == "imagenet"
        dense_blocks, transitions = [], []
        for layers in blocks:
            if dense_blocks:
                kept = max(1, int(channels * compression))
                transitions.append(Transition(channels, kept, rngs=rngs))
                channels = kept
            sources = range(channels, channels + layers * growth, growth)
            dense_blocks.append(
                nnx.List(
                    [
                        DenseLayer(n, growth=growth, bottleneck=bottleneck * growth, rngs=rngs)
                        for n in sources
                    ]
                )
            )
            channels += layers * growth
        self.blocks = nnx.List(dense_blocks)
        self.transitions = nnx.List(transitions)
        self.norm = normalisation("batch", channels, rngs=rngs)
        self.classifier = dense(channels, classes, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits.

        Args:
            x: images `[n, h, w, c]`.

        Returns:
            Logits `[n, classes]`.
        """
        x = nnx.relu(self.norm0(self.conv0(x)))
        if self.pools:
            x = stem_pool(x)
        for index, block in enumerate(self.blocks):
            if index:
                x = self.transitions[index - 1](x)
            for layer in block:
                x = layer(x)
        return self.classifier(nnx.relu(self.norm(x)).mean(axis=(1, 2)))
