"""MobileNetV2."""

from collections.abc import Sequence

import jax
from flax import nnx

from jaxfuse.models.layers import conv, dense, normalisation, scale_width

_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nnx.Module):
    """Wider inside than at its ends: 1x1, depthwise 3x3 and linear 1x1 convolution.

    Batch normalisation follows each convolution, ReLU6 the first two. The input is added where the
    shape stays.

    Parameter paths: `expand` and `expand_norm` (without expansion there are none), `depthwise`,
    `depthwise_norm`, `project`, `project_norm`.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        expansion: hidden channels, in units of the input channels.
        stride: step of the depthwise convolution.
        rngs: source of the initial weights.

    Examples:
        >>> block = InvertedResidual(4, 8, expansion=6, stride=2, rngs=nnx.Rngs(0))
        >>> block(jax.numpy.ones((2, 6, 6, 4))).shape
        (2, 3, 3, 8)
        >>> block.depthwise.kernel.shape
        (3, 3, 1, 24)
    """

    def __init__(
        self, inputs: int, outputs: int, *, expansion: int, stride: int = 1, rngs: nnx.Rngs
    ):
        hidden = expansion * inputs
        self.expands = expansion != 1
        if self.expands:
            self.expand = conv(inputs, hidden, 1, padding=0, bias=False, rngs=rngs)
            self.expand_norm = normalisation("batch", hidden, rngs=rngs)
        self.depthwise = conv(
            hidden,
            hidden,
            3,
            stride=stride,
            padding=1,
            channel_groups=hidden,
            bias=False,
            rngs=rngs,
        )
        self.depthwise_norm = normalisation("batch", hidden, rngs=rngs)
        self.project = conv(hidden, outputs, 1, padding=0, bias=False, rngs=rngs)
        self.project_norm = normalisation("batch", outputs, rngs=rngs)
        self.residual = stride == 1 and inputs == outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block.

        Args:
            x: images `[n, h, w, inputs]`.

        Returns:
            Images `[n, ceil(h / stride), ceil(w / stride), outputs]`.
        """
        y = x
        if self.expands:
            y = nnx.relu6(self.expand_norm(self.expand(y)))
        y = nnx.relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.residual else y


class MobileNetV2(nnx.Module):
    """MobileNetV2 (Sandler et al., 2018): inverted residuals with depthwise convolutions.

    A 3x3 convolution with stride 2, stages of inverted residuals, a 1x1 convolution, a spatial mean
    and a dense layer; there is no dropout. With the defaults it is the network of the paper's
    table 2, 3,504,872 weights for RGB images and 1,000 classes.

    Parameter paths: `stem/kernel`, `stem_norm/scale`, `blocks/0/depthwise/kernel`,
    `blocks/0/depthwise_norm/scale`, `blocks/0/project/kernel` ..., `last/kernel`,
    `last_norm/scale`, `classifier/kernel`, `classifier/bias`; every normalisation also has `bias`,
    `mean` and `var`.

    Args:
        inputs: number of channels of an image.
        classes: number of outputs.
        stages: rows `(expansion, channels, blocks, stride)` of the paper's table 2; the stride is
            that of a stage's first block.
        first: number of channels of the first convolution.
        last: number of channels of the last convolution.
        stride: step of the first convolution; 1 for small images.
        width: multiplier of the channels. The last convolution is widened by it, never narrowed, as
            in the paper. Products are rounded to whole channels, not to multiples of eight.
        rngs: source of the initial weights.

    Raises:
        ValueError: A stage has an expansion, channels or a number of blocks below one.

    Examples:
        >>> model = MobileNetV2(3, 10, width=0.125, rngs=nnx.Rngs(0))
        >>> model(jax.numpy.zeros((2, 32, 32, 3))).shape
        (2, 10)
        >>> model.last.kernel.shape
        (1, 1, 40, 1280)
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        stages: Sequence[tuple[int, int, int, int]] = _STAGES,
        first: int = 32,
        last: int = 1280,
        stride: int = 2,
        width: float = 1.0,
        rngs: nnx.Rngs,
    ):
        for row in stages:
            if min(row) < 1:
                raise ValueError(
                    "a stage is (expansion, channels, blocks, stride), each one or more, got "
                    f"{tuple(row)}"
                )
        channels = scale_width(first, width)
        self.stem = conv(inputs, channels, 3, stride=stride, padding=1, bias=False, rngs=rngs)
        self.stem_norm = normalisation("batch", channels, rngs=rngs)
        blocks = []
        for expansion, features, repeats, step in stages:
            outputs = scale_width(features, width)
            for index in range(repeats):
                blocks.append(
                    InvertedResidual(
                        channels,
                        outputs,
                        expansion=expansion,
                        stride=1 if index else step,
                        rngs=rngs,
                    )
                )
                channels = outputs
        self.blocks = nnx.List(blocks)
        last = scale_width(last, max(1.0, width))
        self.last = conv(channels, last, 1, padding=0, bias=False, rngs=rngs)
        self.last_norm = normalisation("batch", last, rngs=rngs)
        self.classifier = dense(last, classes, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits.

        Args:
            x: images `[n, h, w, c]`.

        Returns:
            Logits `[n, classes]`.
        """
        x = nnx.relu6(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        x = nnx.relu6(self.last_norm(self.last(x)))
        return self.classifier(x.mean(axis=(1, 2)))
