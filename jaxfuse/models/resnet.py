"""Residual networks for ImageNet: ResNet-18 to ResNet-152."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Literal

import jax
from flax import nnx

from jaxfuse.models.layers import Norm, conv, dense, normalisation, scale_width
from jaxfuse.models.resnet_cifar import projection

Stem = Literal["imagenet", "cifar"]
"""How a network reads an image: shrunk by four before the first block, or at full size."""

_EXPANSION = 4


def stem_conv(kind: Stem, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Conv:
    """Make the first convolution of a network.

    Args:
        kind: "imagenet" for 7x7 with stride 2, which `stem_pool` follows; "cifar" for 3x3 with
            stride 1.
        inputs: number of channels of an image.
        outputs: number of output channels.
        rngs: source of the initial weights.

    Returns:
        The layer, without bias.

    Raises:
        ValueError: The kind is unknown.
    """
    match kind:
        case "imagenet":
            return conv(inputs, outputs, 7, stride=2, padding=3, bias=False, rngs=rngs)
        case "cifar":
            return conv(inputs, outputs, 3, padding=1, bias=False, rngs=rngs)
    raise ValueError(f"stem must be 'imagenet' or 'cifar', got {kind!r}")


def stem_pool(x: jax.Array) -> jax.Array:
    """Halve height and width by the maximum of 3x3 windows, one pixel of padding, stride 2.

    Args:
        x: images `[n, h, w, c]`.

    Returns:
        Images `[n, (h + 1) // 2, (w + 1) // 2, c]`.
    """
    # The annotation of max_pool has names of paddings only; its docstring has pairs as well.
    padding: Any = ((1, 1), (1, 1))
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=padding)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut, ReLU behind their sum.

    Parameter paths: `conv1`, `bn1`, `conv2`, `bn2`; where the shape changes `downsample/0` and
    `downsample/1`. A normalisation is called `bn` whatever its kind.

    Args:
        inputs: number of input channels.
        width: number of hidden and output channels.
        stride: step of the first convolution.
        norm: kind of the normalisation.
        groups: number of groups for "group".
        rngs: source of the initial weights.

    Examples:
        >>> block = BasicBlock(4, 8, stride=2, rngs=nnx.Rngs(0))
        >>> block(jax.numpy.ones((2, 6, 6, 4))).shape
        (2, 3, 3, 8)
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int = 1,
        norm: Norm = "batch",
        groups: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv(inputs, width, 3, stride=stride, padding=1, bias=False, rngs=rngs)
        self.bn1 = normalisation(norm, width, groups=groups, rngs=rngs)
        self.conv2 = conv(width, width, 3, padding=1, bias=False, rngs=rngs)
        self.bn2 = normalisation(norm, width, groups=groups, rngs=rngs)
        self.downsample = projection(
            inputs, width, stride=stride, norm=norm, groups=groups, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block.

        Args:
            x: images `[n, h, w, inputs]`.

        Returns:
            Images `[n, ceil(h / stride), ceil(w / stride), width]`.
        """
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        for layer in self.downsample:
            x = layer(x)
        return nnx.relu(y + x)


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, ReLU behind their sum.

    The stride is that of the 3x3 convolution, as in torchvision; the paper has it in the first.

    Parameter paths: `conv1`, `bn1`, `conv2`, `bn2`, `conv3`, `bn3`; where the shape changes
    `downsample/0` and `downsample/1`. A normalisation is called `bn` whatever its kind.

    Args:
        inputs: number of input channels.
        width: number of hidden channels; there are four times as many output channels.
        stride: step of the 3x3 convolution.
        norm: kind of the normalisation.
        groups: number of groups for "group".
        rngs: source of the initial weights.

    Examples:
        >>> block = Bottleneck(4, 8, stride=2, rngs=nnx.Rngs(0))
        >>> block(jax.numpy.ones((2, 6, 6, 4))).shape
        (2, 3, 3, 32)
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int = 1,
        norm: Norm = "batch",
        groups: int | None = None,
        rngs: nnx.Rngs,
    ):
        outputs = _EXPANSION * width
        self.conv1 = conv(inputs, width, 1, padding=0, bias=False, rngs=rngs)
        self.bn1 = normalisation(norm, width, groups=groups, rngs=rngs)
        self.conv2 = conv(width, width, 3, stride=stride, padding=1, bias=False, rngs=rngs)
        self.bn2 = normalisation(norm, width, groups=groups, rngs=rngs)
        self.conv3 = conv(width, outputs, 1, padding=0, bias=False, rngs=rngs)
        self.bn3 = normalisation(norm, outputs, groups=groups, rngs=rngs)
        self.downsample = projection(
            inputs, outputs, stride=stride, norm=norm, groups=groups, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block.

        Args:
            x: images `[n, h, w, inputs]`.

        Returns:
            Images `[n, ceil(h / stride), ceil(w / stride), 4 width]`.
        """
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        for layer in self.downsample:
            x = layer(x)
        return nnx.relu(y + x)


_DEPTHS = MappingProxyType(
    {
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }
)


class ResNet(nnx.Module):
    """Residual network for ImageNet (He et al., 2016): ResNet-18, 34, 50, 101, 152.

    A stem, four stages of blocks of which all but the first halve the image, a spatial mean and a
    dense layer. With the defaults it is ResNet-18, 11,689,512 weights for RGB images and 1,000
    classes; ResNet-50 has 25,557,032. The names and strides are those of torchvision.

    Parameter paths: `conv1/kernel`, `bn1/scale` (and `bias`, and with batch normalisation `mean`
    and `var`), `layer1/0/conv1/kernel`, `layer1/0/bn1/scale` ..., `layer2/0/downsample/0/kernel`,
    `layer2/0/downsample/1/scale` ..., `fc/kernel`, `fc/bias`. A normalisation is called `bn`
    whatever its kind.

    Args:
        inputs: number of channels of an image.
        classes: number of outputs.
        depth: 18 or 34, of basic blocks, or 50, 101 or 152, of bottlenecks.
        blocks: numbers of blocks of the four stages; None takes those of the depth, which then
            chooses the kind of the blocks only.
        widths: hidden channels of the four stages; the stem has as many as the first.
        stem: "imagenet" for a 7x7 convolution and a max pooling, both with stride 2; "cifar" for a
            3x3 convolution at full size.
        norm: normalisation behind every convolution.
        groups: number of groups of each normalisation for "group"; None takes the default of
            `normalisation`, 32 groups where there are 256 channels or more.
        width: multiplier of the channels.
        rngs: source of the initial weights.

    Raises:
        ValueError: The depth or the stem is unknown, or there are not four stages.

    Examples:
        >>> model = ResNet(3, 10, depth=50, blocks=(1, 1, 1, 1), width=0.125, rngs=nnx.Rngs(0))
        >>> model(jax.numpy.zeros((2, 32, 32, 3))).shape
        (2, 10)
        >>> model.layer4[0].conv3.kernel.shape
        (1, 1, 64, 256)
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        depth: int = 18,
        blocks: Sequence[int] | None = None,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: Stem = "imagenet",
        norm: Norm = "batch",
        groups: int | None = None,
        width: float = 1.0,
        rngs: nnx.Rngs,
    ):
        if depth not in _DEPTHS:
            raise ValueError(
                f"depth must be one of {', '.join(map(str, _DEPTHS))}, got {depth}; give blocks= "
                "for other numbers of blocks"
            )
        kind, published = _DEPTHS[depth]
        blocks = published if blocks is None else blocks
        if len(blocks) != 4 or len(widths) != 4 or min(blocks) < 1:
            raise ValueError(
                "a ResNet has four stages of one block or more: give four blocks and four widths, "
                f"got blocks={tuple(blocks)} and widths={tuple(widths)}"
            )

        def stage(inputs: int, index: int) -> nnx.List[BasicBlock | Bottleneck]:
            strides = [1 if index == 0 else 2, *[1] * (blocks[index] - 1)]
            sources = [inputs, *[expansion * channels[index]] * (blocks[index] - 1)]
            return nnx.List(
                [
                    kind(n, channels[index], stride=step, norm=norm, groups=groups, rngs=rngs)
                    for n, step in zip(sources, strides, strict=True)
                ]
            )

        channels = [scale_width(features, width) for features in widths]
        expansion = _EXPANSION if kind is Bottleneck else 1
        self.conv1 = stem_conv(stem, inputs, channels[0], rngs=rngs)
        self.bn1 = normalisation(norm, channels[0], groups=groups, rngs=rngs)
        self.pools = stem == "imagenet"
        self.layer1 = stage(channels[0], 0)
        self.layer2 = stage(expansion * channels[0], 1)
        self.layer3 = stage(expansion * channels[1], 2)
        self.layer4 = stage(expansion * channels[2], 3)
        self.fc = dense(expansion * channels[3], classes, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits.

        Args:
            x: images `[n, h, w, c]`.

        Returns:
            Logits `[n, classes]`.
        """
        x = nnx.relu(self.bn1(self.conv1(x)))
        if self.pools:
            x = stem_pool(x)
        for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            x = block(x)
        return self.fc(x.mean(axis=(1, 2)))
