"""Multilayer perceptron."""

import itertools
from collections.abc import Sequence

import jax
from flax import nnx

from jaxfuse.models.layers import Norm, dense, hidden, normalisations, scale_width


class MLP(nnx.Module):
    """Multilayer perceptron with ReLU; flattens its input.

    The defaults are the MLP of OTFusion (Singh and Jaggi, 2020) and GAMF (Liu et al., 2022):
    hidden layers of 400, 200 and 100 units, no biases.

    Parameter paths: `dense/0/kernel` ... `dense/3/kernel` (and `bias`); with a norm `norm/0/scale`,
    `norm/0/bias` ..., with batch normalisation also `norm/0/mean` and `norm/0/var`.

    Args:
        inputs: Number of input values of one example, all axes together.
        classes: Number of outputs.
        hidden: Widths of the hidden layers.
        width: Multiplier of the hidden widths.
        bias: Whether the dense layers have biases.
        norm: Normalisation between each hidden dense layer and its ReLU.
        rngs: Source of the initial weights.

    Examples:
        >>> import jax
        >>> model = MLP(64, 10, rngs=nnx.Rngs(jax.random.key(0)))
        >>> model(jax.numpy.zeros((2, 8, 8, 1))).shape
        (2, 10)
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        hidden: Sequence[int] = (400, 200, 100),
        width: float = 1.0,
        bias: bool = False,
        norm: Norm | None = None,
        rngs: nnx.Rngs,
    ):
        hidden = [scale_width(features, width) for features in hidden]
        pairs = itertools.pairwise([inputs, *hidden, classes])
        self.dense = nnx.List([dense(n, m, bias=bias, rngs=rngs) for n, m in pairs])
        self.norm = normalisations(norm, hidden, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits.

        Args:
            x: Examples `[n, ...]`, NHWC for images.

        Returns:
            Logits `[n, classes]`.
        """
        x = x.reshape(x.shape[0], -1)
        *layers, head = self.dense
        for index, layer in enumerate(layers):
            x = hidden(layer, self.norm, index, x)
        return head(x)
