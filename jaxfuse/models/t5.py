"""T5."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfuse.models.attention import attention, embedding

_NORMAL = nnx.initializers.normal(1.0)


def relative_buckets(
    queries: int, keys: int, *, buckets: int, max_distance: int, causal: bool
) -> np.ndarray:
    """Number the distances between positions, finely near zero and logarithmically beyond.

    The relative positions of T5 (Raffel et al., 2020, section 2.1). An encoder uses half of the
    buckets for keys after the query; a causal decoder has no such keys.

    Args:
        queries: number of query positions.
        keys: number of key positions.
        buckets: number of buckets; 32 in the paper.
        max_distance: distance from which on all share the last bucket; 128 in the paper.
        causal: whether keys after the query are invisible.

    Returns:
        Buckets, int `[queries, keys]`.

    Examples:
        >>> relative_buckets(1, 5, buckets=8, max_distance=16, causal=False).tolist()
        [[0, 5, 6, 6, 6]]
        >>> relative_buckets(4, 4, buckets=8, max_distance=16, causal=True)[3].tolist()
        [3, 2, 1, 0]
    """
    ahead = np.arange(keys)[None] - np.arange(queries)[:, None]
    offset = 0
    if causal:
        distance = np.maximum(-ahead, 0)
    else:
        buckets //= 2
        offset = buckets * (ahead > 0)
        distance = np.abs(ahead)
    exact = buckets // 2
    ratio = np.log(np.maximum(distance, exact) / exact) / math.log(max_distance / exact)
    far = np.minimum(exact + (ratio * (buckets - exact)).astype(int), buckets - 1)
    return offset + np.where(distance < exact, distance, far)


class T5Attention(nnx.Module):
    """Multi-head attention with a kernel axis for the heads, without scale and biases.

    Parameter paths: `query/kernel`, `key/kernel`, `value/kernel` `[width, heads, head_dim]`,
    `out/kernel` `[heads, head_dim, width]`.

    Args:
        width: units of the residual stream.
        heads: number of heads.
        head_dim: units of one head.
        rngs: source of the initial weights.

    Examples:
        >>> layer = T5Attention(8, 2, 3, rngs=nnx.Rngs(0))
        >>> jax.eval_shape(layer, jnp.ones((2, 5, 8)), jnp.ones((2, 4, 8))).shape
        (2, 5, 8)
    """

    def __init__(self, width: int, heads: int, head_dim: int, *, rngs: nnx.Rngs):
        self.query = nnx.LinearGeneral(width, (heads, head_dim), use_bias=False, rngs=rngs)
        self.key = nnx.LinearGeneral(width, (heads, head_dim), use_bias=False, rngs=rngs)
        self.value = nnx.LinearGeneral(width, (heads, head_dim), use_bias=False, rngs=rngs)
        self.out = nnx.LinearGeneral(
            (heads, head_dim), width, axis=(-2, -1), use_bias=False, rngs=rngs
        )

    def __call__(
        self,
        x: jax.Array,
        source: jax.Array,
        *,
        bias: jax.Array | None = None,
        causal: bool = False,
    ) -> jax.Array:
        """Attend from one sequence to another, or to itself.

        Args:
            x: sequence that asks, `[n, t, width]`.
            source: sequence that answers, `[n, s, width]`.
            bias: added to the scores, `[heads, t, s]`.
            causal: whether position `t` sees only positions `s <= t`.

        Returns:
            `[n, t, width]`.
        """
        q, k, v = self.query(x), self.key(source), self.value(source)
        return self.out(attention(q, k, v, bias=bias, causal=causal, scale=1.0))


class T5Block(nnx.Module):
    """One pre-norm block of the encoder, or of the decoder, which attends to the encoder as well.

    Parameter paths: `attention_norm`, `attention`, in a decoder `cross_norm` and `cross`,
    `mlp_norm`, `gate`, `up`, `down`.

    Args:
        width: units of the residual stream.
        heads: number of heads.
        head_dim: units of one head.
        hidden: hidden units of the MLP.
        decoder: whether attention is causal and the encoder's output is attended to.
        rngs: source of the initial weights.

    Examples:
        >>> block = T5Block(8, 2, 3, 12, decoder=False, rngs=nnx.Rngs(0))
        >>> jax.eval_shape(block, jnp.ones((2, 5, 8)), jnp.zeros((2, 5, 5))).shape
        (2, 5, 8)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        hidden: int,
        *,
        decoder: bool,
        rngs: nnx.Rngs,
    ):
        self.decoder = decoder
        self.attention_norm = nnx.RMSNorm(width, rngs=rngs)
        self.attention = T5Attention(width, heads, head_dim, rngs=rngs)
        if decoder:
            self.cross_norm = nnx.RMSNorm(width, rngs=rngs)
            self.cross = T5Attention(width, heads, head_dim, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(width, rngs=rngs)
        self.gate = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, width, use_bias=False, rngs=rngs)

    def __call__(
        self, x: jax.Array, bias: jax.Array, encoded: jax.Array | None = None
    ) -> jax.Array:
        """Attend, then transform each token by a gated GELU.

        Args:
            x: tokens `[n, t, width]`.
            bias: relative position bias `[heads, t, t]`.
            encoded: output of the encoder `[n, s, width]`, for a decoder.

        Returns:
            Tokens `[n, t, width]`.
        """
        y = self.attention_norm(x)
        x = x + self.attention(y, y, bias=bias, causal=self.decoder)
        if encoded is not None:
            x = x + self.cross(self.cross_norm(x), encoded)
        y = self.mlp_norm(x)
        return x + self.down(nnx.gelu(self.gate(y)) * self.up(y))


class T5Stack(nnx.Module):
    """The encoder or the decoder: blocks that share one relative position bias, then RMSNorm.

    Parameter paths: `relative/embedding` `[buckets, heads]`, `blocks/0/attention/query/kernel` ...,
    `norm/scale`.

    Args:
        width: units of the residual stream.
        layers: number of blocks.
        heads: number of heads.
        head_dim: units of one head.
        hidden: hidden units of the MLPs.
        buckets: number of buckets of relative positions.
        max_distance: distance from which on positions share a bucket.
        decoder: whether this is the decoder.
        rngs: source of the initial weights.

    Examples:
        >>> sizes = {"layers": 1, "heads": 2, "head_dim": 3, "hidden": 12}
        >>> positions = {"buckets": 8, "max_distance": 16}
        >>> encoder = T5Stack(8, **sizes, **positions, decoder=False, rngs=nnx.Rngs(0))
        >>> jax.eval_shape(encoder, jnp.ones((2, 5, 8))).shape
        (2, 5, 8)
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        hidden: int,
        buckets: int,
        max_distance: int,
        decoder: bool,
        rngs: nnx.Rngs,
    ):
        self.buckets, self.max_distance, self.decoder = buckets, max_distance, decoder
        self.relative = embedding(buckets, heads, rngs=rngs)
        self.blocks = nnx.List(
            [
                T5Block(width, heads, head_dim, hidden, decoder=decoder, rngs=rngs)
                for _ in range(layers)
            ]
        )
        self.norm = nnx.RMSNorm(width, rngs=rngs)

    def __call__(self, x: jax.Array, encoded: jax.Array | None = None) -> jax.Array:
        """Apply the blocks.

        Args:
            x: embedded tokens `[n, t, width]`.
            encoded: output of the encoder `[n, s, width]`, for a decoder.

        Returns:
            Tokens `[n, t, width]`.
        """
        length = x.shape[1]
        numbers = relative_buckets(
            length,
            length,
            buckets=self.buckets,
            max_distance=self.max_distance,
            causal=self.decoder,
        )
        bias = jnp.transpose(self.relative(jnp.asarray(numbers)), (2, 0, 1))
        for block in self.blocks:
            x = block(x, bias, encoded)
        return self.norm(x)


class T5(nnx.Module):
    """T5 1.1 (Raffel et al., 2020; gated GELU of Shazeer, 2020): an encoder and a decoder.

    The defaults are T5 1.1 base: 247.58 million weights. Encoder and decoder share the token
    embedding.

    Parameter paths: `token/embedding`, `encoder/...` and `decoder/...` as in `T5Stack`, and with an
    untied head `head/kernel`.

    Args:
        vocabulary: number of tokens.
        width: units of the residual stream.
        layers: number of blocks of the encoder, and of the decoder.
        heads: number of heads.
        head_dim: units of one head; the product with the heads need not be the width.
        hidden: hidden units of the MLPs.
        buckets: number of buckets of relative positions.
        max_distance: distance from which on positions share a bucket.
        tied: whether logits are products with the token embedding, scaled by `1 / sqrt(width)`, as
            before version 1.1.
        rngs: source of the initial weights.

    Examples:
        >>> sizes = {"layers": 1, "heads": 2, "head_dim": 3, "hidden": 12}
        >>> model = T5(11, width=8, **sizes, rngs=nnx.Rngs(0))
        >>> jax.jit(model)(jnp.zeros((2, 6), int), jnp.zeros((2, 4), int)).shape
        (2, 4, 11)
    """

    def __init__(
        self,
        vocabulary: int = 32_128,
        *,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        head_dim: int = 64,
        hidden: int = 2048,
        buckets: int = 32,
        max_distance: int = 128,
        tied: bool = False,
        rngs: nnx.Rngs,
    ):
        sizes = {
            "layers": layers,
            "heads": heads,
            "head_dim": head_dim,
            "hidden": hidden,
            "buckets": buckets,
            "max_distance": max_distance,
        }
        self.width, self.tied = width, tied
        self.token = embedding(vocabulary, width, init=_NORMAL, rngs=rngs)
        self.encoder = T5Stack(width, **sizes, decoder=False, rngs=rngs)
        self.decoder = T5Stack(width, **sizes, decoder=True, rngs=rngs)
        if not tied:
            self.head = nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, source: jax.Array, target: jax.Array) -> jax.Array:
        """Compute the logits of every next token of the target.

        Args:
            source: integers `[n, s]`.
            target: integers `[n, t]`.

        Returns:
            Logits `[n, t, vocabulary]`.
        """
        x = self.decoder(self.token(target), self.encoder(self.token(source)))
        return self.token.attend(x * self.width**-0.5) if self.tied else self.head(x)
