"""Siamese network."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfuse.models.layers import conv, dense, max_pool, scale_width


class Siamese(nnx.Module):
    """Siamese network (Koch et al., 2015): are two images of one class?

    One encoder sees both images: convolutions without padding, ReLU and 2x2 max pooling (none
    behind the last convolution), and a dense layer with a sigmoid. A dense layer with one output
    weighs the distances of the two encodings, unit by unit. The defaults are the paper's for the
    characters of Omniglot, 38,951,745 weights.

    Parameter paths: `conv/0/kernel` ..., `embedding/kernel`, `head/kernel`; each with its `bias`.

    Args:
        input_shape: `(h, w, c)` of one image.
        channels: widths of the convolutions.
        kernels: sides of their windows.
        embedding: length of an encoding.
        width: multiplier of the channels and of the encoding.
        rngs: source of the initial weights.

    Raises:
        ValueError: There are not as many windows as widths, or the image shrinks to nothing.

    Examples:
        >>> sizes = {"channels": (4, 8), "kernels": (3, 3), "embedding": 6}
        >>> model = Siamese((12, 12, 3), **sizes, rngs=nnx.Rngs(0))
        >>> images = jnp.ones((5, 12, 12, 3))
        >>> model(images, 2 * images).shape
        (5,)
        >>> bool((model(images, images) == model.head.bias[0]).all())
        True
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (105, 105, 1),
        *,
        channels: Sequence[int] = (64, 128, 128, 256),
        kernels: Sequence[int] = (10, 7, 4, 4),
        embedding: int = 4096,
        width: float = 1.0,
        rngs: nnx.Rngs,
    ):
        if not channels or len(channels) != len(kernels):
            raise ValueError(
                "give as many windows as widths of convolutions, got "
                f"channels={tuple(channels)} and kernels={tuple(kernels)}"
            )
        height, breadth, inputs = input_shape
        rows, columns = (_flat_side(side, kernels) for side in (height, breadth))
        if min(rows, columns) < 1:
            raise ValueError(
                f"images of shape {input_shape} shrink to nothing in windows of {tuple(kernels)}: "
                "enlarge the images, or give smaller or fewer windows"
            )
        sizes = [inputs, *(scale_width(features, width) for features in channels)]
        units = scale_width(embedding, width)
        self.conv = nnx.List(
            [
                conv(n, m, kernel, padding="VALID", bias=True, rngs=rngs)
                for (n, m), kernel in zip(itertools.pairwise(sizes), kernels, strict=True)
            ]
        )
        self.embedding = dense(rows * columns * sizes[-1], units, bias=True, rngs=rngs)
        self.head = dense(units, 1, bias=True, rngs=rngs)

    def encode(self, x: jax.Array) -> jax.Array:
        """Compute encodings.

        Args:
            x: images `[n, h, w, c]`.

        Returns:
            Encodings `[n, embedding]`, between 0 and 1.
        """
        *layers, last = self.conv
        for layer in layers:
            x = max_pool(nnx.relu(layer(x)))
        x = nnx.relu(last(x))
        return nnx.sigmoid(self.embedding(x.reshape(x.shape[0], -1)))

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Score pairs of images.

        Args:
            x: images `[n, h, w, c]`.
            y: images `[n, h, w, c]`.

        Returns:
            Scores `[n]`, symmetric in `x` and `y`; their sigmoid is the probability that both
            images are of one class.
        """
        distance = jnp.abs(self.encode(x) - self.encode(y))
        return self.head(distance)[:, 0]


def _flat_side(side: int, kernels: Sequence[int]) -> int:
    """Follow one side of an image through the convolutions and the poolings between them."""
    for index, kernel in enumerate(kernels):
        side = (side // 2 if index else side) - kernel + 1
    return side
