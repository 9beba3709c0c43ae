"""LeNet-5."""

import itertools
from collections.abc import Sequence

import jax
from flax import nnx

from jaxfuse.models.layers import (
    Norm,
    conv,
    dense,
    hidden,
    max_pool,
    normalisations,
    scale_width,
)

# Two valid 5x5 convolutions with pooling leave one pixel of sixteen.
_SMALLEST_VALID_SIDE = 16
_SMALLEST_SIDE = 4


class LeNet(nnx.Module):
    """LeNet-5 with ReLU and max pooling: two 5x5 convolutions, three dense layers.

    The defaults are the LeNet of GAMF (Liu et al., 2022): 6 and 16 channels, dense 120 and 84, no
    biases; 61,770 weights for 32x32x3 and ten classes. The convolutions do not pad where both
    sides of the image have 16 pixels or more (32x32 is flattened to 5x5x16, 28x28 to 4x4x16).
    Smaller images are padded ("SAME"; 8x8 is flattened to 2x2x16).

    Parameter paths: `conv/0/kernel`, `conv/1/kernel`, `dense/0/kernel` ... `dense/2/kernel` (and
    `bias`); with a norm `conv_norm/0/scale` ..., `dense_norm/0/scale` ... (and `bias`, and with
    batch normalisation `mean` and `var`).

    Args:
        input_shape: `(h, w, c)` of one image.
        classes: Number of outputs.
        channels: Widths of the two convolutions.
        hidden: Widths of the hidden dense layers.
        width: Multiplier of the hidden widths.
        bias: Whether convolutions and dense layers have biases.
        norm: Normalisation between each hidden linear map and its ReLU.
        rngs: Source of the initial weights.

    Raises:
        ValueError: A side of the image has fewer than four pixels.

    Examples:
        >>> import jax
        >>> model = LeNet((32, 32, 3), 10, rngs=nnx.Rngs(jax.random.key(0)))
        >>> model(jax.numpy.zeros((2, 32, 32, 3))).shape
        (2, 10)
        >>> model.dense[0].kernel.shape
        (400, 120)
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        classes: int,
        *,
        channels: tuple[int, int] = (6, 16),
        hidden: Sequence[int] = (120, 84),
        width: float = 1.0,
        bias: bool = False,
        norm: Norm | None = None,
        rngs: nnx.Rngs,
    ):
        height, breadth, inputs = input_shape
        if min(height, breadth) < _SMALLEST_SIDE:
            raise ValueError(
                f"LeNet pools twice and needs images of {_SMALLEST_SIDE}x{_SMALLEST_SIDE} pixels "
                f"or more, got {input_shape}: enlarge the images or use an MLP"
            )
        valid = min(height, breadth) >= _SMALLEST_VALID_SIDE
        sides = [((n - 4) // 2 - 4) // 2 if valid else n // 4 for n in (height, breadth)]
        convs = [scale_width(features, width) for features in channels]
        hidden = [scale_width(features, width) for features in hidden]
        flat = sides[0] * sides[1] * convs[-1]
        self.conv = nnx.List(
            [
                conv(n, m, 5, padding="VALID" if valid else "SAME", bias=bias, rngs=rngs)
                for n, m in itertools.pairwise([inputs, *convs])
            ]
        )
        self.dense = nnx.List(
            [
                dense(n, m, bias=bias, rngs=rngs)
                for n, m in itertools.pairwise([flat, *hidden, classes])
            ]
        )
        self.conv_norm = normalisations(norm, convs, rngs=rngs)
        self.dense_norm = normalisations(norm, hidden, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits.

        Args:
            x: Images `[n, h, w, c]`.

        Returns:
            Logits `[n, classes]`.
        """
        for index, layer in enumerate(self.conv):
            x = max_pool(hidden(layer, self.conv_norm, index, x))
        x = x.reshape(x.shape[0], -1)
        *layers, head = self.dense
        for index, layer in enumerate(layers):
            x = hidden(layer, self.dense_norm, index, x)
        return head(x)
