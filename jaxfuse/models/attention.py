"""What sequence models share: embeddings, attention by einsums, rotations, stacked layers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

_NORMAL = nnx.initializers.normal(0.02)


def check_heads(width: int, heads: int) -> int:
    """Divide a width among heads.

    Args:
        width: length of the axis that holds all heads.
        heads: number of heads.

    Returns:
        The units of one head.

    Raises:
        ValueError: The heads do not divide the width.

    Examples:
        >>> check_heads(768, 12)
        64
    """
    if width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}: change one of the two")
    return width // heads


def embedding(
    tokens: int,
    width: int,
    *,
    init: nnx.Initializer = _NORMAL,
    rngs: nnx.Rngs,
) -> nnx.Embed:
    """Make a table of embedded tokens, `embedding` `[tokens, width]`.

    It computes in the dtype of its table, whatever the dtype it was made with, as other layers do.

    Args:
        tokens: number of tokens.
        width: units of an embedded token.
        init: initialiser of the table; normal numbers of standard deviation 0.02, as in GPT-2, by
            default.
        rngs: source of the initial weights.

    Returns:
        The layer; its `attend` is the product with the transposed table.

    Examples:
        >>> embedding(5, 3, rngs=nnx.Rngs(0))(jnp.zeros((2, 4), int)).shape
        (2, 4, 3)
    """
    return nnx.Embed(tokens, width, embedding_init=init, promote_dtype=_as_they_are, rngs=rngs)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    bias: jax.Array | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> jax.Array:
    """Attend from queries to keys and values: `softmax(scale * q k^T + bias) v` for every head.

    Equation 1 of Vaswani et al. (2017), for all heads at once.

    Args:
        q: queries `[b, t, h, d]`.
        k: keys `[b, s, h, d]`.
        v: values `[b, s, h, d]`.
        bias: added to the scores, `[h, t, s]`; None for nothing.
        causal: whether query `t` sees only keys `s <= t`.
        scale: multiplier of the scores; None for `1 / sqrt(d)`.

    Returns:
        Values `[b, t, h, d]`. Differentiable.

    Raises:
        ValueError: Queries and keys differ in their number of heads.

    Examples:
        >>> x = jnp.ones((1, 3, 2, 4))
        >>> attention(x, x, x, causal=True).shape
        (1, 3, 2, 4)
    """
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"{q.shape[2]} heads of queries meet {k.shape[2]} of keys: use grouped_attention, or "
            "repeat_heads on keys and values"
        )
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    scores = factor * jnp.einsum("bthd,bshd->bhts", q, k)
    if bias is not None:
        scores = scores + bias[None]
    return jnp.einsum("bhts,bshd->bthd", _weights(scores, causal), v)


def grouped_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool = False
) -> jax.Array:
    """Attend with fewer heads of keys and values than of queries.

    Grouped-query attention (Ainslie et al., 2023): query head `i` of `h` reads the head
    `i // (h / kv)` of keys and values. Queries are reshaped to groups, so nothing is repeated.

    Args:
        q: queries `[b, t, h, d]`.
        k: keys `[b, s, kv, d]`.
        v: values `[b, s, kv, d]`.
        causal: whether query `t` sees only keys `s <= t`.

    Returns:
        Values `[b, t, h, d]`. Differentiable.

    Raises:
        ValueError: The heads of keys do not divide those of queries.

    Examples:
        >>> q, kv = jnp.ones((1, 3, 6, 4)), jnp.ones((1, 3, 2, 4))
        >>> grouped_attention(q, kv, kv).shape
        (1, 3, 6, 4)
    """
    b, t, heads, d = q.shape
    kv = k.shape[2]
    q = q.reshape(b, t, kv, check_heads(heads, kv), d)
    scores = d**-0.5 * jnp.einsum("btkgd,bskd->bkgts", q, k)
    mixed = jnp.einsum("bkgts,bskd->btkgd", _weights(scores, causal), v)
    return mixed.reshape(b, t, heads, d)


def repeat_heads(x: jax.Array, times: int) -> jax.Array:
    """Repeat every head, so that grouped-query attention becomes plain attention.

    Args:
        x: keys or values `[b, s, kv, d]`.
        times: query heads of one group.

    Returns:
        `[b, s, kv * times, d]`, copies of one head next to each other.

    Examples:
        >>> repeat_heads(jnp.arange(2.0).reshape(1, 1, 2, 1), 2).ravel().tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    b, s, kv, d = x.shape
    copies = jnp.broadcast_to(x[:, :, :, None], (b, s, kv, times, d))
    return copies.reshape(b, s, kv * times, d)


def rotary(x: jax.Array, *, theta: float = 10_000.0, interleaved: bool = False) -> jax.Array:
    """Rotate pairs of units by angles proportional to the position.

    Rotary position embedding (Su et al., 2021, equation 15): pair `i` of position `t` turns by
    `t * theta^(-2i/d)`, so products of queries and keys depend on the difference of positions.

    Args:
        x: queries or keys `[b, t, h, d]`, `d` even.
        theta: base of the wavelengths; 10,000 in the paper, 500,000 in Llama 3.
        interleaved: whether pair `i` is the units `2i` and `2i + 1` (the paper) or `i` and
            `i + d/2` ("rotate half", the usual layout of Llama checkpoints).

    Returns:
        `[b, t, h, d]`. Differentiable.

    Raises:
        ValueError: The number of units is odd.

    Examples:
        >>> x = jnp.ones((1, 2, 1, 4))
        >>> bool((rotary(x)[:, 0] == x[:, 0]).all())
        True
    """
    *lead, d = x.shape
    if d % 2:
        raise ValueError(f"rotary embedding pairs the units of a head, got {d}: use an even number")
    frequency = theta ** (-jnp.arange(0, d, 2) / d)
    angle = jnp.arange(x.shape[1])[:, None] * frequency[None]
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    if interleaved:
        pairs = x.reshape(*lead, d // 2, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        return jnp.stack([first * cos - second * sin, second * cos + first * sin], -1).reshape(
            x.shape
        )
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def stack_layers(layers: Sequence[nnx.Module]) -> nnx.Module:
    """Stack layers of one structure into a module whose parameters have a leading layer axis.

    Args:
        layers: one module or more.

    Returns:
        A module of the first one's structure, for `run_layers`.

    Examples:
        >>> layers = [nnx.Linear(3, 3, rngs=nnx.Rngs(seed)) for seed in range(5)]
        >>> stack_layers(layers).kernel.shape
        (5, 3, 3)
    """
    graphdef = nnx.graphdef(layers[0])
    states = [nnx.state(layer) for layer in layers]
    return nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))


def run_layers(layers: Any, x: jax.Array) -> jax.Array:
    """Apply layers one after the other: a list by a Python loop, stacked ones by `lax.scan`.

    Args:
        layers: an `nnx.List` of modules, or one module of `stack_layers`.
        x: input of the first layer.

    Returns:
        Output of the last layer, of the shape of `x`.

    Examples:
        >>> layers = [nnx.Linear(3, 3, rngs=nnx.Rngs(seed)) for seed in range(5)]
        >>> x = jnp.ones((2, 3))
        >>> bool(jnp.allclose(run_layers(nnx.List(layers), x), run_layers(stack_layers(layers), x)))
        True
    """
    if isinstance(layers, nnx.List):
        for layer in layers:
            x = layer(x)
        return x
    graphdef, state = nnx.split(layers)

    def step(x: jax.Array, layer: nnx.State) -> tuple[jax.Array, None]:
        return nnx.merge(graphdef, layer)(x), None

    return jax.lax.scan(step, x, state)[0]


def _weights(scores: jax.Array, causal: bool) -> jax.Array:
    if causal:
        visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        visible = jnp.expand_dims(visible, tuple(range(scores.ndim - 2)))
        scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores, axis=-1)


def _as_they_are(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    return arrays
