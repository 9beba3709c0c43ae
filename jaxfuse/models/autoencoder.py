"""Convolutional autoencoder."""

import itertools
import math
from collections.abc import Sequence

import jax
from flax import nnx

from jaxfuse.models.layers import conv, dense, scale_width, transposed_conv


class Autoencoder(nnx.Module):
    """Convolutional autoencoder: images to a short code and back.

    The encoder halves the images with strided 3x3 convolutions and ReLU and flattens them to a
    linear code; the decoder is its mirror, with transposed convolutions and a linear output. The
    layout is that of Guo et al. (2017, "Deep clustering with convolutional autoencoders") with
    their 32, 64 and 128 channels and code of 10, but windows of 3x3 and padding throughout.

    Parameter paths: `encoder/0/kernel` ..., `to_code/kernel`, `from_code/kernel`,
    `decoder/0/kernel` ...; each with its `bias`.

    Args:
        input_shape: `(h, w, c)` of one image; `2 ** len(channels)` divides its sides.
        channels: widths of the encoder's convolutions.
        code: length of the code.
        width: multiplier of the channels, and not of the code.
        rngs: source of the initial weights.

    Raises:
        ValueError: There are no channels, the code is shorter than one, or the sides of the image
            cannot be halved once a convolution.

    Examples:
        >>> model = Autoencoder((8, 8, 3), channels=(4, 8), code=5, rngs=nnx.Rngs(0))
        >>> images = jax.numpy.zeros((2, 8, 8, 3))
        >>> model.encode(images).shape
        (2, 5)
        >>> model(images).shape
        (2, 8, 8, 3)
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        *,
        channels: Sequence[int] = (32, 64, 128),
        code: int = 10,
        width: float = 1.0,
        rngs: nnx.Rngs,
    ):
        height, breadth, inputs = input_shape
        step = 2 ** len(channels)
        if not channels or code < 1:
            raise ValueError(
                "an autoencoder needs one convolution and one value of its code or more, got "
                f"channels={tuple(channels)} and code={code}"
            )
        if height % step or breadth % step:
            raise ValueError(
                f"this autoencoder halves the sides of images {len(channels)} times, which needs "
                f"multiples of {step}, got {input_shape}: pad the images or give fewer channels"
            )
        sizes = [inputs, *(scale_width(features, width) for features in channels)]
        self.encoder = nnx.List(
            [
                conv(n, m, 3, stride=2, padding=1, bias=True, rngs=rngs)
                for n, m in itertools.pairwise(sizes)
            ]
        )
        self.smallest = (height // step, breadth // step, sizes[-1])
        flat = math.prod(self.smallest)
        self.to_code = dense(flat, code, bias=True, rngs=rngs)
        self.from_code = dense(code, flat, bias=True, rngs=rngs)
        self.decoder = nnx.List(
            [
                transposed_conv(n, m, 3, padding="SAME", rngs=rngs)
                for n, m in itertools.pairwise(reversed(sizes))
            ]
        )

    def encode(self, x: jax.Array) -> jax.Array:
        """Compute codes.

        Args:
            x: images `[n, h, w, c]`.

        Returns:
            Codes `[n, code]`.
        """
        for layer in self.encoder:
            x = nnx.relu(layer(x))
        return self.to_code(x.reshape(x.shape[0], -1))

    def decode(self, code: jax.Array) -> jax.Array:
        """Compute images from codes.

        Args:
            code: codes `[n, code]`.

        Returns:
            Images `[n, h, w, c]`.
        """
        x = nnx.relu(self.from_code(code))
        x = x.reshape(x.shape[0], *self.smallest)
        *layers, last = self.decoder
        for layer in layers:
            x = nnx.relu(layer(x))
        return last(x)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute reconstructions.

        Args:
            x: images `[n, h, w, c]`.

        Returns:
            Images `[n, h, w, c]`.
        """
        return self.decode(self.encode(x))
