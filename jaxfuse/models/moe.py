"""Mixture of experts."""

import jax
import jax.numpy as jnp
from flax import nnx

_KERNEL = nnx.initializers.lecun_normal(batch_axis=0)


class MixtureOfExperts(nnx.Module):
    """Sparsely gated experts (Shazeer et al., 2017), all kernels stacked in two tensors.

    Each example goes to the `top_k` experts that its router prefers; their outputs are weighted by
    the router's probabilities, normalised over the chosen (GShard, Lepikhin et al., 2021,
    algorithm 1, without a limit of capacity).

    Parameter paths: `router/kernel` `[width, experts]`, `up` `[experts, width, hidden]`, `down`
    `[experts, hidden, width]`.

    Args:
        width: units of an example.
        hidden: hidden units of an expert.
        experts: number of experts.
        top_k: number of experts that see an example.
        rngs: source of the initial weights.

    Raises:
        ValueError: More experts are to be chosen than there are.

    Examples:
        >>> block = MixtureOfExperts(8, 12, experts=4, rngs=nnx.Rngs(0))
        >>> jax.eval_shape(block, jnp.ones((5, 8))).shape
        (5, 8)
    """

    def __init__(self, width: int, hidden: int, *, experts: int, top_k: int = 2, rngs: nnx.Rngs):
        if not 1 <= top_k <= experts:
            raise ValueError(f"top_k must lie between 1 and {experts} experts, got {top_k}")
        self.experts, self.top_k = experts, top_k
        self.router = nnx.Linear(width, experts, use_bias=False, rngs=rngs)
        self.up = nnx.Param(_KERNEL(rngs.params(), (experts, width, hidden)))
        self.down = nnx.Param(_KERNEL(rngs.params(), (experts, hidden, width)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Send every example to its experts and add up their weighted answers.

        Args:
            x: examples `[n, width]`.

        Returns:
            `[n, width]`.
        """
        gates, chosen = jax.lax.top_k(nnx.softmax(self.router(x)), self.top_k)
        gates = gates / jnp.sum(gates, axis=-1, keepdims=True)
        choice = jax.nn.one_hot(chosen, self.experts)
        dispatched = jnp.einsum("nke,nd->end", choice, x)
        answers = nnx.relu(jnp.einsum("end,edf->enf", dispatched, self.up[...]))
        answers = jnp.einsum("enf,efd->end", answers, self.down[...])
        return jnp.einsum("nk,nke,end->nd", gates, choice, answers)


class MoENetwork(nnx.Module):
    """Mixture of experts as a residual block between an input and an output layer.

    The defaults are one layer of the GShard translation models: 1,024 units, 128 experts of 8,192
    hidden units, two of which see an example.

    Parameter paths: `inputs/kernel`, `norm/scale`, `block/router/kernel`, `block/up`, `block/down`,
    `head/kernel` (dense layers and the norm with their `bias`).

    Args:
        inputs: number of input values of one example.
        outputs: number of outputs.
        width: units of the residual stream.
        hidden: hidden units of an expert.
        experts: number of experts.
        top_k: number of experts that see an example.
        rngs: source of the initial weights.

    Examples:
        >>> model = MoENetwork(3, 2, width=8, hidden=12, experts=4, rngs=nnx.Rngs(0))
        >>> jax.jit(model)(jnp.ones((5, 3))).shape
        (5, 2)
    """

    def __init__(
        self,
        inputs: int = 1024,
        outputs: int = 1024,
        *,
        width: int = 1024,
        hidden: int = 8192,
        experts: int = 128,
        top_k: int = 2,
        rngs: nnx.Rngs,
    ):
        self.inputs = nnx.Linear(inputs, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.block = MixtureOfExperts(width, hidden, experts=experts, top_k=top_k, rngs=rngs)
        self.head = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute outputs.

        Args:
            x: examples `[n, inputs]`.

        Returns:
            Outputs `[n, outputs]`.
        """
        x = nnx.relu(self.inputs(x))
        return self.head(x + self.block(self.norm(x)))
