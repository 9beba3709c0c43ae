"""Residual networks for images of CIFAR's size."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfuse.models.layers import Norm, conv, dense, normalisation, scale_width

Shortcut = Literal["pad", "conv"]
"""How a block that changes the shape passes its input on: options A and B of He et al. (2016)."""

_WIDTHS = (16, 32, 64)


def pad_shortcut(x: jax.Array, channels: int, *, stride: int) -> jax.Array:
    """Shrink images by subsampling and widen them by channels of zeros (option A).

    Args:
        x: images `[n, h, w, c]`.
        channels: number of channels wanted, `c` or more. The new ones are split evenly between
            both sides of the old ones; an odd one goes behind them.
        stride: step between the pixels that are kept, the first one included.

    Returns:
        Images `[n, ceil(h / stride), ceil(w / stride), channels]`.

    Examples:
        >>> pad_shortcut(jnp.ones((1, 4, 4, 2)), 4, stride=2)[0, 0, 0]
        Array([0., 1., 1., 0.], dtype=float32)
    """
    extra = channels - x.shape[-1]
    sides = (extra // 2, extra - extra // 2)
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), sides))


def projection(
    inputs: int,
    outputs: int,
    *,
    stride: int,
    norm: Norm,
    groups: int | None = None,
    rngs: nnx.Rngs,
) -> nnx.List[nnx.Module]:
    """Make the shortcut of a residual block that changes the image's shape, or none at all.

    Args:
        inputs: number of channels before the block.
        outputs: number of channels behind it.
        stride: step of the block.
        norm: kind of the normalisation.
        groups: number of groups for "group".
        rngs: source of the initial weights.

    Returns:
        A 1x1 convolution without bias and a normalisation (He et al., 2016, option B); an empty
        list where the block keeps its input's shape.
    """
    if stride == 1 and inputs == outputs:
        return nnx.List([])
    return nnx.List(
        [
            conv(inputs, outputs, 1, stride=stride, padding=0, bias=False, rngs=rngs),
            normalisation(norm, outputs, groups=groups, rngs=rngs),
        ]
    )


class CifarBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut, ReLU behind their sum.

    Parameter paths: `conv1`, `bn1`, `conv2`, `bn2`; with a convolution as shortcut `shortcut/0`
    and `shortcut/1`. A normalisation is called `bn` whatever its kind.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        stride: step of the first convolution.
        shortcut: what changes the shape, where the block does.
        norm: kind of the normalisation.
        groups: number of groups for "group".
        rngs: source of the initial weights.

    Examples:
        >>> block = CifarBlock(4, 8, stride=2, rngs=nnx.Rngs(0))
        >>> block(jnp.ones((2, 6, 6, 4))).shape
        (2, 3, 3, 8)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        shortcut: Shortcut = "pad",
        norm: Norm = "batch",
        groups: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv(inputs, outputs, 3, stride=stride, padding=1, bias=False, rngs=rngs)
        self.bn1 = normalisation(norm, outputs, groups=groups, rngs=rngs)
        self.conv2 = conv(outputs, outputs, 3, padding=1, bias=False, rngs=rngs)
        self.bn2 = normalisation(norm, outputs, groups=groups, rngs=rngs)
        self.shortcut = nnx.List([])
        if shortcut == "conv":
            self.shortcut = projection(
                inputs, outputs, stride=stride, norm=norm, groups=groups, rngs=rngs
            )
        self.pads = shortcut == "pad" and (stride != 1 or inputs != outputs)
        self.outputs = outputs
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block.

        Args:
            x: images `[n, h, w, inputs]`.

        Returns:
            Images `[n, ceil(h / stride), ceil(w / stride), outputs]`.
        """
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        for layer in self.shortcut:
            x = layer(x)
        if self.pads:
            x = pad_shortcut(x, self.outputs, stride=self.stride)
        return nnx.relu(y + x)


class CifarResNet(nnx.Module):
    """Residual network for CIFAR (He et al., 2016, section 4.2): ResNet-20, 32, 44, 56, 110.

    A 3x3 convolution and three stages of `(depth - 2) / 6` blocks with 16, 32 and 64 channels at
    full, half and quarter size, a spatial mean and a dense layer. With the defaults it is the
    ResNet-20 of the paper, 269,722 weights for RGB images and ten classes. The names and the
    padding are those of the PyTorch code `akamaster/pytorch_resnet_cifar10`, so that networks
    trained with it convert name by name.

    Parameter paths: `conv1/kernel`, `bn1/scale` (and `bias`, and with batch normalisation `mean`
    and `var`), `layer1/0/conv1/kernel`, `layer1/0/bn1/scale`, `layer1/0/conv2/kernel` ...,
    `layer2/0/shortcut/0/kernel` with convolutions as shortcuts, `linear/kernel`, `linear/bias`. A
    normalisation is called `bn` whatever its kind.

    Args:
        inputs: number of channels of an image.
        classes: number of outputs.
        depth: number of convolutions and dense layers on the longest path, 6 n + 2.
        shortcut: what widens and shrinks the input of a stage: "pad" subsamples it and pads it
            with zeros (option A of the paper, its choice for CIFAR), "conv" is a 1x1 convolution
            with a normalisation (option B).
        norm: normalisation behind every convolution.
        groups: number of groups of each normalisation for "group"; None takes the default of
            `normalisation`.
        width: multiplier of the channels.
        rngs: source of the initial weights.

    Raises:
        ValueError: The depth is not 6 n + 2, or the shortcut is unknown.

    Examples:
        >>> model = CifarResNet(3, 10, depth=8, width=0.25, rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((2, 16, 16, 3))).shape
        (2, 10)
        >>> model.layer3[0].conv1.kernel.shape
        (3, 3, 8, 16)
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        depth: int = 20,
        shortcut: Shortcut = "pad",
        norm: Norm = "batch",
        groups: int | None = None,
        width: float = 1.0,
        rngs: nnx.Rngs,
    ):
        if depth < 8 or depth % 6 != 2:
            raise ValueError(
                f"depth must be 6 n + 2 with n of 1 or more (20, 32, 44, 56, 110), got {depth}"
            )
        if shortcut not in get_args(Shortcut):
            raise ValueError(f"shortcut must be 'pad' or 'conv', got {shortcut!r}")

        def stage(inputs: int, outputs: int, stride: int) -> nnx.List[CifarBlock]:
            return nnx.List(
                [
                    CifarBlock(
                        outputs if index else inputs,
                        outputs,
                        stride=1 if index else stride,
                        shortcut=shortcut,
                        norm=norm,
                        groups=groups,
                        rngs=rngs,
                    )
                    for index in range((depth - 2) // 6)
                ]
            )

        first, second, third = (scale_width(features, width) for features in _WIDTHS)
        self.conv1 = conv(inputs, first, 3, padding=1, bias=False, rngs=rngs)
        self.bn1 = normalisation(norm, first, groups=groups, rngs=rngs)
        self.layer1 = stage(first, first, 1)
        self.layer2 = stage(first, second, 2)
        self.layer3 = stage(second, third, 2)
        self.linear = dense(third, classes, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits.

        Args:
            x: images `[n, h, w, c]`.

        Returns:
            Logits `[n, classes]`.
        """
        x = nnx.relu(self.bn1(self.conv1(x)))
        for block in (*self.layer1, *self.layer2, *self.layer3):
            x = block(x)
        return self.linear(x.mean(axis=(1, 2)))
