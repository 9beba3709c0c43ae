"""Llama."""

import jax
from flax import nnx

from jaxfuse.models.attention import (
    attention,
    check_heads,
    embedding,
    grouped_attention,
    repeat_heads,
    rotary,
    run_layers,
    stack_layers,
)

_EPSILON = 1e-5


class LlamaBlock(nnx.Module):
    """One pre-norm decoder block: rotary grouped-query attention, then SwiGLU (Shazeer, 2020).

    Parameter paths: `attention_norm`, `query`, `key`, `value`, `out`, `mlp_norm`, `gate`, `up`,
    `down`.

    Args:
        width: units of the residual stream.
        heads: number of query heads.
        kv_heads: number of heads of keys and values; it divides the query heads.
        head_dim: units of one head, even.
        hidden: hidden units of the MLP.
        theta: base of the rotary wavelengths.
        interleaved: whether rotary pairs are neighbours (`rotary`).
        repeat_kv: whether keys and values are repeated for the query heads, instead of the query
            heads grouped. The function is the same.
        rngs: source of the initial weights.

    Raises:
        ValueError: The heads of keys and values do not divide the query heads.

    Examples:
        >>> sizes = {"kv_heads": 2, "head_dim": 2, "hidden": 12}
        >>> block = LlamaBlock(8, 4, **sizes, rngs=nnx.Rngs(0))
        >>> jax.eval_shape(block, jax.numpy.ones((2, 5, 8))).shape
        (2, 5, 8)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int,
        head_dim: int,
        hidden: int,
        theta: float = 10_000.0,
        interleaved: bool = False,
        repeat_kv: bool = False,
        rngs: nnx.Rngs,
    ):
        self.group = check_heads(heads, kv_heads)
        self.head_dim, self.theta = head_dim, theta
        self.interleaved, self.repeat_kv = interleaved, repeat_kv
        self.attention_norm = nnx.RMSNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.query = nnx.Linear(width, heads * head_dim, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(width, kv_heads * head_dim, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(width, kv_heads * head_dim, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(heads * head_dim, width, use_bias=False, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.gate = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, width, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attend to earlier tokens, then transform each token.

        Args:
            x: tokens `[n, t, width]`.

        Returns:
            Tokens `[n, t, width]`.
        """
        x = x + self._attend(self.attention_norm(x))
        y = self.mlp_norm(x)
        return x + self.down(nnx.silu(self.gate(y)) * self.up(y))

    def _attend(self, x: jax.Array) -> jax.Array:
        n, t, _ = x.shape
        q, k, v = (
            layer(x).reshape(n, t, -1, self.head_dim)
            for layer in (self.query, self.key, self.value)
        )
        q, k = (rotary(y, theta=self.theta, interleaved=self.interleaved) for y in (q, k))
        if self.repeat_kv:
            k, v = (repeat_heads(y, self.group) for y in (k, v))
            mixed = attention(q, k, v, causal=True)
        else:
            mixed = grouped_attention(q, k, v, causal=True)
        return self.out(mixed.reshape(n, t, -1))


class Llama(nnx.Module):
    """Llama (Touvron et al., 2023): RMSNorm, rotary embeddings, SwiGLU, no biases, untied head.

    The defaults are Llama 3 8B with grouped-query attention: 8.03 billion weights.

    Parameter paths: `token/embedding`, `blocks/0/query/kernel` ..., `norm/scale`, `head/kernel`;
    with `scan_layers` `blocks/query/kernel` ... of shape `[layers, ...]`.

    Args:
        vocabulary: number of tokens.
        width: units of the residual stream.
        layers: number of blocks.
        heads: number of query heads.
        kv_heads: number of heads of keys and values; it divides the query heads.
        head_dim: units of one head, even; None for the width divided by the heads.
        hidden: hidden units of the MLPs.
        theta: base of the rotary wavelengths; 10,000 before Llama 3.
        interleaved: whether rotary pairs are neighbours (`rotary`).
        repeat_kv: whether keys and values are repeated for the query heads. The function is the
            same.
        scan_layers: whether blocks are stacked and run by `lax.scan`. The function is the same.
        rngs: source of the initial weights.

    Raises:
        ValueError: Heads do not divide what they should.

    Examples:
        >>> sizes = {"width": 8, "layers": 1, "heads": 4, "kv_heads": 2, "hidden": 12}
        >>> model = Llama(11, **sizes, rngs=nnx.Rngs(0))
        >>> jax.jit(model)(jax.numpy.zeros((3, 6), int)).shape
        (3, 6, 11)
        >>> model.blocks[0].key.kernel.shape
        (8, 4)
    """

    def __init__(
        self,
        vocabulary: int = 128_256,
        *,
        width: int = 4096,
        layers: int = 32,
        heads: int = 32,
        kv_heads: int = 8,
        head_dim: int | None = None,
        hidden: int = 14_336,
        theta: float = 500_000.0,
        interleaved: bool = False,
        repeat_kv: bool = False,
        scan_layers: bool = False,
        rngs: nnx.Rngs,
    ):
        head_dim = check_heads(width, heads) if head_dim is None else head_dim
        self.token = embedding(vocabulary, width, rngs=rngs)
        blocks = [
            LlamaBlock(
                width,
                heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                hidden=hidden,
                theta=theta,
                interleaved=interleaved,
                repeat_kv=repeat_kv,
                rngs=rngs,
            )
            for _ in range(layers)
        ]
        self.blocks = stack_layers(blocks) if scan_layers else nnx.List(blocks)
        self.norm = nnx.RMSNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Compute the logits of every next token.

        Args:
            tokens: integers `[n, t]`.

        Returns:
            Logits `[n, t, vocabulary]`.
        """
        return self.head(self.norm(run_layers(self.blocks, self.token(tokens))))
