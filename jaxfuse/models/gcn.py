"""Graph convolutional network."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

_GLOROT = nnx.initializers.glorot_uniform()


def normalise_adjacency(adjacency: jax.Array) -> jax.Array:
    """Add self-loops to a graph and normalise it symmetrically.

    `D^-1/2 (A + I) D^-1/2` with `D` the degrees of `A + I` (Kipf and Welling, 2017, equation 2).

    Args:
        adjacency: weights of the edges `[n, n]`, not negative, symmetric.

    Returns:
        The propagation matrix `[n, n]`. Differentiable.

    Raises:
        ValueError: The matrix is not square.

    Examples:
        >>> normalise_adjacency(jnp.zeros((2, 2))).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
        raise ValueError(f"adjacency must be square, [nodes, nodes], got {adjacency.shape}")
    looped = adjacency + jnp.eye(len(adjacency))
    root = jax.lax.rsqrt(jnp.sum(looped, axis=1))
    return root[:, None] * looped * root[None]


class GCN(nnx.Module):
    """Graph convolutional network (Kipf and Welling, 2017) with ReLU.

    The defaults are the two layers for the citation graph Cora: 23,063 weights.

    Parameter paths: `layers/0/kernel`, `layers/0/bias` ...

    Args:
        inputs: features of a node.
        classes: number of outputs of a node.
        hidden: widths of the hidden layers.
        rngs: source of the initial weights.

    Examples:
        >>> model = GCN(5, 3, rngs=nnx.Rngs(0))
        >>> graph = normalise_adjacency(jnp.ones((4, 4)) - jnp.eye(4))
        >>> model(jnp.ones((4, 5)), graph).shape
        (4, 3)
    """

    def __init__(
        self,
        inputs: int = 1433,
        classes: int = 7,
        *,
        hidden: Sequence[int] = (16,),
        rngs: nnx.Rngs,
    ):
        pairs = itertools.pairwise([inputs, *hidden, classes])
        self.layers = nnx.List([GraphConvolution(n, m, rngs=rngs) for n, m in pairs])

    def __call__(self, x: jax.Array, adjacency: jax.Array) -> jax.Array:
        """Compute the logits of every node.

        Args:
            x: features `[n, inputs]`.
            adjacency: propagation matrix `[n, n]` of `normalise_adjacency`.

        Returns:
            Logits `[n, classes]`.
        """
        *layers, head = self.layers
        for layer in layers:
            x = nnx.relu(layer(x, adjacency))
        return head(x, adjacency)


class GraphConvolution(nnx.Module):
    """One layer: a dense map of every node, then a weighted sum over its neighbours.

    Parameter paths: `kernel` `[inputs, outputs]`, `bias` `[outputs]`.

    Args:
        inputs: features of a node.
        outputs: features of a node after the layer.
        rngs: source of the initial weights.

    Examples:
        >>> GraphConvolution(5, 3, rngs=nnx.Rngs(0))(jnp.ones((4, 5)), jnp.eye(4)).shape
        (4, 3)
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_GLOROT(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: jax.Array, adjacency: jax.Array) -> jax.Array:
        """Transform and propagate.

        Args:
            x: features `[n, inputs]`.
            adjacency: propagation matrix `[n, n]`.

        Returns:
            Features `[n, outputs]`.
        """
        return adjacency @ (x @ self.kernel[...]) + self.bias[...][None]
