"""U-Net."""

import itertools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfuse.models.layers import conv, max_pool, scale_width, transposed_conv

Upsampling = Literal["conv", "resize"]
"""How images are doubled: by a transposed convolution, or by interpolation and a convolution."""


class Upsample(nnx.Module):
    """Double the height and width of images.

    Parameter paths: `conv/kernel`, `conv/bias`.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        kind: "conv" for a transposed 2x2 convolution with stride 2 (Ronneberger et al., 2015);
            "resize" for bilinear interpolation and a 3x3 convolution, which leaves no checkerboard
            (Odena et al., 2016).
        rngs: source of the initial weights.

    Examples:
        >>> Upsample(4, 2, kind="resize", rngs=nnx.Rngs(0))(jnp.ones((1, 3, 3, 4))).shape
        (1, 6, 6, 2)
    """

    def __init__(self, inputs: int, outputs: int, *, kind: Upsampling = "conv", rngs: nnx.Rngs):
        self.resizes = kind == "resize"
        if self.resizes:
            self.conv = conv(inputs, outputs, 3, padding=1, bias=True, rngs=rngs)
        else:
            self.conv = transposed_conv(inputs, outputs, 2, padding="SAME", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Double the sides.

        Args:
            x: images `[n, h, w, inputs]`.

        Returns:
            Images `[n, 2 h, 2 w, outputs]`.
        """
        if self.resizes:
            n, h, w, c = x.shape
            x = jax.image.resize(x, (n, 2 * h, 2 * w, c), "bilinear")
        return self.conv(x)


class UNet(nnx.Module):
    """U-Net (Ronneberger et al., 2015): a value of every class for each pixel.

    At every level two 3x3 convolutions with ReLU, then a 2x2 max pooling; on the way back the
    images are doubled, appended to those of the same size on the way in, and pass two 3x3
    convolutions. Channels double with every level down. Convolutions keep the size of the images,
    where the paper's shrink them by their margin. The weights are those of the paper: 31,030,658
    with the defaults, one input channel and two classes.

    Parameter paths: `down/0/0/kernel`, `down/0/1/kernel` ..., of which the last entry is the
    bottom, `up/0/conv/kernel`, `merge/0/0/kernel`, `merge/0/1/kernel` ..., counted from the bottom,
    `head/kernel`; each with its `bias`.

    Args:
        inputs: number of channels of an image.
        classes: number of outputs a pixel.
        levels: number of poolings; they divide the sides of the images by `2 ** levels`.
        channels: number of channels at full size.
        upsample: "conv" or "resize", as in `Upsample`.
        width: multiplier of the channels.
        rngs: source of the initial weights.

    Raises:
        ValueError: There is no level, or the upsampling is unknown.

    Examples:
        >>> model = UNet(3, 2, levels=2, width=0.0625, rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((1, 8, 8, 3))).shape
        (1, 8, 8, 2)
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        levels: int = 4,
        channels: int = 64,
        upsample: Upsampling = "conv",
        width: float = 1.0,
        rngs: nnx.Rngs,
    ):
        if levels < 1:
            raise ValueError(f"a U-Net needs one level or more (the paper has 4), got {levels}")
        if upsample not in get_args(Upsampling):
            raise ValueError(f"upsample must be 'conv' or 'resize', got {upsample!r}")
        first = scale_width(channels, width)
        sizes = [first * 2**level for level in range(levels + 1)]
        self.down = nnx.List(
            [_two_convs(n, m, rngs=rngs) for n, m in itertools.pairwise([inputs, *sizes])]
        )
        back = list(itertools.pairwise(reversed(sizes)))
        self.up = nnx.List([Upsample(n, m, kind=upsample, rngs=rngs) for n, m in back])
        self.merge = nnx.List([_two_convs(2 * m, m, rngs=rngs) for _, m in back])
        self.head = conv(first, classes, 1, padding=0, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits for every pixel.

        Args:
            x: images `[n, h, w, c]`, with sides that `2 ** levels` divides.

        Returns:
            Logits `[n, h, w, classes]`.

        Raises:
            ValueError: The sides of the images cannot be halved that often.
        """
        step = 2 ** len(self.up)
        if x.shape[1] % step or x.shape[2] % step:
            raise ValueError(
                f"this U-Net halves the sides of images {len(self.up)} times, which needs "
                f"multiples of {step}, got {x.shape}: pad the images or take fewer levels"
            )
        skips = []
        for level, pair in enumerate(self.down):
            if level:
                skips.append(x)
                x = max_pool(x)
            x = _apply(pair, x)
        for up, pair, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = _apply(pair, jnp.concatenate([skip, up(x)], axis=-1))
        return self.head(x)


def _two_convs(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.List[nnx.Conv]:
    sources = (inputs, outputs)
    return nnx.List([conv(n, outputs, 3, padding=1, bias=True, rngs=rngs) for n in sources])


def _apply(layers: nnx.List[nnx.Conv], x: jax.Array) -> jax.Array:
    for layer in layers:
        x = nnx.relu(layer(x))
    return x
