"""Attention: whole heads, units inside heads, and the ways to fuse the projections."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.symmetry.trace.cases import Case, check, table

HEADS = {"q": ("q.blocks",), "v": ("q.blocks",)}
FUSED = {"w": ("w.blocks",), "w#2": ("w.blocks",)}


def project(p, x, memory):
    return (
        jnp.einsum("bti,ihd->bthd", x, p["q"]),
        jnp.einsum("bti,ihd->bthd", memory, p["k"]),
        jnp.einsum("bti,ihd->bthd", memory, p["v"]),
    )


def attend(q, k, v, bias=None):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    scores = scores if bias is None else scores + bias
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)


def attention(p, x, memory=None, change=lambda q, k: (q, k), bias=None):
    q, k, v = project(p, x, x if memory is None else memory)
    q, k = change(q, k)
    if "scale" in p:
        q = q * p["scale"]
    return jnp.einsum("bqhd,hdo->bqo", attend(q, k, v, bias), p["o"])


def rotate_halves(y, cos, sin):
    left, right = jnp.split(y, 2, -1)
    return jnp.concatenate([left * cos - right * sin, left * sin + right * cos], -1)


def rotate_pairs(y, cos, sin):
    even, odd = y[..., ::2], y[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(y.shape)


def rotary(rotate):
    def change(q, k):
        steps, units = q.shape[1], q.shape[-1]
        frequency = 10.0 ** (-jnp.arange(units // 2) / (units // 2))
        angle = (jnp.arange(steps)[:, None] * frequency[None])[None, :, None]
        return tuple(rotate(y, jnp.cos(angle), jnp.sin(angle)) for y in (q, k))

    return functools.partial(attention, change=change)


def linear_bias(p, x):
    steps, heads = x.shape[1], p["q"].shape[1]
    distance = jnp.abs(jnp.arange(steps)[:, None] - jnp.arange(steps)[None])
    slope = 2.0 ** -jnp.arange(1, heads + 1)
    return attention(p, x, bias=-(slope[:, None, None] * distance[None])[None])


def causal(p, x):
    steps = x.shape[1]
    mask = jnp.arange(steps)[:, None] >= jnp.arange(steps)[None]
    return attention(p, x, bias=jnp.where(mask, 0.0, -1e9)[None, None])


def grouped_repeated(p, x):
    q, k, v = project(p, x, x)
    return jnp.einsum("bqhd,hdo->bqo", attend(q, jnp.repeat(k, 2, 2), jnp.repeat(v, 2, 2)), p["o"])


def grouped_reshaped(p, x):
    q, k, v = project(p, x, x)
    q = q.reshape(2, 3, 2, 2, 4)
    scores = jax.nn.softmax(jnp.einsum("bqghd,bkgd->bghqk", q, k))
    mixed = jnp.einsum("bghqk,bkgd->bqghd", scores, v)
    return mixed.reshape(2, 3, 12) @ p["o"].reshape(12, 2)


def multi_query(p, x):
    q = jnp.einsum("bti,ihd->bthd", x, p["q"])
    scores = jax.nn.softmax(jnp.einsum("bqhd,bkd->bhqk", q, x @ p["k"]))
    return jnp.einsum("bhqk,bkd,hdo->bqo", scores, x @ p["v"], p["o"])


def library(p, x):
    return jnp.einsum("bqhd,hdo->bqo", jax.nn.dot_product_attention(*project(p, x, x)), p["o"])


def fused(style):
    def network(p, x):
        h = x @ p["w"] + p.get("bias", 0.0)
        q, k, v = SPLITS[style](h)
        return attend(q, k, v).reshape(2, 3, 8) @ p["o"]

    return network


SPLITS = {
    "split": lambda h: [y.reshape(2, 3, 2, 4) for y in jnp.split(h, 3, -1)],
    "kind-first": lambda h: [h.reshape(2, 3, 3, 2, 4)[:, :, i] for i in range(3)],
    "head-first": lambda h: [h.reshape(2, 3, 2, 3, 4)[:, :, :, i] for i in range(3)],
    "unstacked": lambda h: jnp.unstack(h.reshape(2, 3, 3, 2, 4), axis=2),
    "split-in-heads": lambda h: jnp.split(h.reshape(2, 3, 2, 12), 3, -1),
    "moved-to-the-front": lambda h: jnp.moveaxis(h.reshape(2, 3, 3, 2, 4), 2, 0),
}


def fused_with(scale_shape):
    def network(p, x):
        h = (x @ p["w"]).reshape(2, 3, 3, 2, 4) * p["s"].reshape(1, 1, 1, *scale_shape)
        return attend(h[:, :, 0], h[:, :, 1], h[:, :, 2]).reshape(2, 3, 8) @ p["o"]

    return network


def fused_keys_and_values(p, x):
    pair = jnp.einsum("bti,ichd->btchd", x, p["kv"])
    q = jnp.einsum("bti,ihd->bthd", x, p["q"])
    return jnp.einsum("bqhd,hdo->bqo", attend(q, pair[:, :, 0], pair[:, :, 1]), p["o"])


def fused_with_biases_apart(p, x):
    h = jnp.einsum("bti,ichd->btchd", x, p["w"]) + p["bias"][None, None]
    return jnp.einsum("bqhd,hdo->bqo", attend(h[:, :, 0], h[:, :, 1], h[:, :, 2]), p["o"])


def grouped_fused(p, x):
    q, k, v = jnp.split(x @ p["w"], [16, 24], -1)
    q, k, v = q.reshape(2, 3, 2, 2, 4), k.reshape(2, 3, 2, 4), v.reshape(2, 3, 2, 4)
    scores = jax.nn.softmax(jnp.einsum("bqghd,bkgd->bghqk", q, k))
    return jnp.einsum("bghqk,bkgd->bqghd", scores, v).reshape(2, 3, 16) @ p["o"]


def talking_heads(p, x):
    q, k, v = project(p, x, x)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    scores = jnp.einsum("hg,bhqk->bgqk", p["mix"], jax.nn.softmax(scores))
    return jnp.einsum("bgqk,bkgd,gdo->bqo", scores, v, p["o"])


PLAIN = {"q": (5, 2, 4), "k": (5, 2, 4), "v": (5, 2, 3), "o": (2, 3, 2)}
GROUPED = {"q": (5, 4, 4), "k": (5, 2, 4), "v": (5, 2, 3), "o": (4, 3, 2)}
QKV = {"w": (5, 24), "o": (8, 2)}
ONE = {"q.blocks": 2, "q": 4, "v": 3}
OF_GROUPED = {"q.blocks": 2, "q": 2, "q#2": 4, "v": 3}
OVER_GROUPED: dict[str, tuple[str, ...]] = dict.fromkeys(("q", "q#2", "v"), ("q.blocks",))
X = ((2, 3, 5),)

CASES = (
    Case("plain", attention, PLAIN, X, ONE, HEADS),
    Case("scale-per-head", attention, {**PLAIN, "scale": (1, 1, 2, 1)}, X, ONE, HEADS),
    Case("cross", attention, PLAIN, ((2, 3, 5), (2, 4, 5)), ONE, HEADS),
    Case("causal", causal, PLAIN, X, ONE, HEADS),
    Case(
        "of-the-library",
        library,
        {**PLAIN, "v": (5, 2, 4), "o": (2, 4, 2)},
        X,
        {"q.blocks": 2, "q": 4, "v": 4},
        HEADS,
    ),
    Case(
        "linear-biases",
        linear_bias,
        PLAIN,
        X,
        {"q": 4, "v": 3},
        {"q": ("q[1]",), "v": ("q[1]",)},
    ),
    Case("grouped-repeated", grouped_repeated, GROUPED, X, OF_GROUPED, OVER_GROUPED),
    Case("grouped-reshaped", grouped_reshaped, GROUPED, X, OF_GROUPED, OVER_GROUPED),
    Case(
        "multi-query",
        multi_query,
        {"q": (5, 2, 4), "k": (5, 4), "v": (5, 3), "o": (2, 3, 2)},
        X,
        {"q": 2, "q#2": 4, "v": 3},
    ),
    Case(
        "rotary-halves",
        rotary(rotate_halves),
        PLAIN,
        X,
        {"q.blocks": 2, "v": 3},
        {"v": ("q.blocks",)},
    ),
    Case(
        "rotary-pairs",
        rotary(rotate_pairs),
        PLAIN,
        X,
        {"q.blocks": 2, "v": 3},
        {"v": ("q.blocks",)},
    ),
    Case(
        "talking-heads",
        talking_heads,
        {**PLAIN, "mix": (2, 2)},
        X,
        {"q.blocks": 2, "q": 4, "v.blocks": 2, "v": 3},
        {"q": ("q.blocks",), "v": ("v.blocks",)},
    ),
    *(
        Case(f"fused-{style}", fused(style), QKV, X, {"w.blocks": 2, "w": 4, "w#2": 4}, FUSED)
        for style in SPLITS
    ),
    Case(
        "fused-with-bias",
        fused("kind-first"),
        {**QKV, "bias": (1, 1, 24)},
        X,
        {"w.blocks": 2, "w": 4, "w#2": 4},
        FUSED,
    ),
    Case(
        "fused-with-biases-apart",
        fused_with_biases_apart,
        {"w": (5, 3, 2, 4), "bias": (3, 2, 4), "o": (2, 4, 2)},
        X,
        {"w.blocks": 2, "w": 4, "w#2": 4},
        FUSED,
    ),
    Case(
        "fused-one-scale-per-unit",
        fused_with((1, 4)),
        {**QKV, "s": (4,)},
        X,
        {"w": 2, "w#2": 4},
    ),
    Case(
        "fused-one-scale-per-head-and-unit",
        fused_with((2, 4)),
        {**QKV, "s": (8,)},
        X,
        {"w.blocks": 2, "w": 4},
        {"w": ("w.blocks",)},
    ),
    Case(
        "keys-and-values-fused",
        fused_keys_and_values,
        {"kv": (5, 2, 2, 4), "q": (5, 2, 4), "o": (2, 4, 2)},
        X,
        {"kv.blocks": 2, "kv": 4, "kv#2": 4},
        {"kv": ("kv.blocks",), "kv#2": ("kv.blocks",)},
    ),
    Case(
        "grouped-fused",
        grouped_fused,
        {"w": (5, 32), "o": (16, 2)},
        X,
        {"w.blocks": 2, "w": 2, "w#2": 4, "w#3": 4},
        dict.fromkeys(("w", "w#2", "w#3"), ("w.blocks",)),
    ),
)


@pytest.mark.parametrize(**table(*CASES))
def test_attention(case):
    check(case)


def test_pairs_of_rotary_embeddings_are_pinned_by_their_frequencies():
    case = next(case for case in CASES if case.name == "rotary-halves")
    symmetry = check(case)
    pins = {tensor.pins for tensor in symmetry.tensors if tensor.path in "qk"}
    assert all(pin is not None for of_leaf in pins for pin in of_leaf[2:])
    assert np.all([not any(t.groups[2:]) for t in symmetry.tensors if t.path in "qk"])
