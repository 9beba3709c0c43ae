"""GPT-2."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfuse.models.attention import attention, check_heads, embedding, run_layers, stack_layers

_NORMAL = nnx.initializers.normal(0.02)
_EPSILON = 1e-5


class GPT2Block(nnx.Module):
    """One pre-norm decoder block; queries, keys and values come from one dense layer.

    The fused output is split in thirds, queries first, as in the published checkpoints.

    Parameter paths: `attention_norm`, `qkv`, `out`, `mlp_norm`, `up`, `down`.

    Args:
        width: units of the residual stream.
        heads: number of heads; it divides the width.
        hidden: hidden units of the MLP.
        rngs: source of the initial weights.

    Raises:
        ValueError: The heads do not divide the width.

    Examples:
        >>> block = GPT2Block(8, 2, 12, rngs=nnx.Rngs(0))
        >>> jax.eval_shape(block, jnp.ones((2, 5, 8))).shape
        (2, 5, 8)
    """

    def __init__(self, width: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        self.heads, self.head_dim = heads, check_heads(width, heads)
        self.attention_norm = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, kernel_init=_NORMAL, rngs=rngs)
        self.out = nnx.Linear(width, width, kernel_init=_NORMAL, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.up = nnx.Linear(width, hidden, kernel_init=_NORMAL, rngs=rngs)
        self.down = nnx.Linear(hidden, width, kernel_init=_NORMAL, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attend to earlier tokens, then transform each token.

        Args:
            x: tokens `[n, t, width]`.

        Returns:
            Tokens `[n, t, width]`.
        """
        n, t, width = x.shape
        parts = jnp.split(self.qkv(self.attention_norm(x)), 3, axis=-1)
        q, k, v = (part.reshape(n, t, self.heads, self.head_dim) for part in parts)
        x = x + self.out(attention(q, k, v, causal=True).reshape(n, t, width))
        return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))


class GPT2(nnx.Module):
    """GPT-2 (Radford et al., 2019): a causal decoder whose head is its token embedding.

    The defaults are GPT-2 small: 124.44 million weights.

    Parameter paths: `token/embedding`, `position/embedding`, `blocks/0/qkv/kernel` ...,
    `norm/scale` (layers with their `bias`); with `scan_layers` `blocks/qkv/kernel` ... of shape
    `[layers, ...]`.

    Args:
        vocabulary: number of tokens.
        context: longest sequence.
        width: units of the residual stream.
        layers: number of blocks.
        heads: number of heads; it divides the width.
        hidden: hidden units of the MLPs; None for four times the width.
        scan_layers: whether blocks are stacked and run by `lax.scan`. The function is the same.
        rngs: source of the initial weights.

    Raises:
        ValueError: Heads do not divide the width.

    Examples:
        >>> sizes = {"context": 6, "width": 8, "layers": 2, "heads": 2, "hidden": 12}
        >>> model = GPT2(11, **sizes, scan_layers=True, rngs=nnx.Rngs(0))
        >>> jax.jit(model)(jnp.zeros((3, 6), int)).shape
        (3, 6, 11)
        >>> model.blocks.qkv.kernel.shape
        (2, 8, 24)
    """

    def __init__(
        self,
        vocabulary: int = 50_257,
        *,
        context: int = 1024,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        hidden: int | None = None,
        scan_layers: bool = False,
        rngs: nnx.Rngs,
    ):
        hidden = 4 * width if hidden is None else hidden
        self.context = context
        self.token = embedding(vocabulary, width, rngs=rngs)
        self.position = embedding(context, width, rngs=rngs)
        blocks = [GPT2Block(width, heads, hidden, rngs=rngs) for _ in range(layers)]
        self.blocks = stack_layers(blocks) if scan_layers else nnx.List(blocks)
        self.norm = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Compute the logits of every next token.

        Args:
            tokens: integers `[n, t]`, `t` at most the context.

        Returns:
            Logits `[n, t, vocabulary]`.

        Raises:
            ValueError: The sequence is longer than the context.
        """
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"{length} tokens exceed the context of {self.context}: shorten them")
        x = self.token(tokens) + self.position(jnp.arange(length))[None]
        return self.token.attend(self.norm(run_layers(self.blocks, x)))
