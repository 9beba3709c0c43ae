"""Recurrent networks, as scans over time."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.symmetry.trace.cases import Case, check, table

silu = jax.nn.silu


def recurrent(p, x, reverse=False, names=("a", "r")):
    def step(state, row):
        state = jnp.tanh(row @ p[names[0]] + state @ p[names[1]])
        return state, state

    state = jnp.zeros((x.shape[1], p[names[1]].shape[0]))
    return lax.scan(step, state, x, reverse=reverse)


def both_ways(p, x, names=("c", "s")):
    forward, backward = recurrent(p, x)[1], recurrent(p, x, True, names)[1]
    return jnp.concatenate([forward, backward], -1) @ p["b"]


def long_short(p, x, gates):
    def step(carry, row):
        state, memory = carry
        write, keep, new, read = gates(row @ p["a"] + state @ p["r"] + p["bias"])
        memory = jax.nn.sigmoid(keep) * memory + jax.nn.sigmoid(write) * jnp.tanh(new)
        return (jax.nn.sigmoid(read) * jnp.tanh(memory), memory), memory

    start = jnp.zeros((x.shape[1], p["r"].shape[0]))
    return lax.scan(step, (start, start), x)[1] @ p["b"]


def gated(p, x):
    def step(state, row):
        (r, z, n), (s, w, m) = (jnp.split(y, 3, -1) for y in (row @ p["a"], state @ p["r"]))
        update = jax.nn.sigmoid(z + w)
        state = update * state + (1 - update) * jnp.tanh(n + jax.nn.sigmoid(r + s) * m)
        return state, None

    return lax.scan(step, jnp.zeros((x.shape[1], p["r"].shape[0])), x)[0] @ p["b"]


def stacked_recurrent(p, x):
    def layer(x, leaves):
        named = dict(zip("arb", leaves, strict=True))
        return recurrent(named, x)[1] @ named["b"], None

    return lax.scan(layer, x, (p["a"], p["r"], p["b"]))[0]


SEQUENCE = ((4, 2, 3),)

RECURRENT = (
    Case(
        "forward",
        lambda p, x: recurrent(p, x)[0] @ p["b"],
        {"a": (3, 6), "r": (6, 6), "b": (6, 2)},
        SEQUENCE,
        {"a": 6},
    ),
    Case(
        "backward",
        lambda p, x: recurrent(p, x, True)[1] @ p["b"],
        {"a": (3, 6), "r": (6, 6), "b": (6, 2)},
        SEQUENCE,
        {"a": 6},
    ),
    Case(
        "both-ways",
        both_ways,
        {"a": (3, 4), "r": (4, 4), "c": (3, 4), "s": (4, 4), "b": (8, 2)},
        SEQUENCE,
        {"a": 4, "c": 4},
    ),
    Case(
        "both-ways-with-the-same-weights",
        functools.partial(both_ways, names=("a", "r")),
        {"a": (3, 4), "r": (4, 4), "b": (8, 2)},
        SEQUENCE,
        {"a": 4},
    ),
    Case(
        "lstm",
        functools.partial(long_short, gates=lambda y: jnp.split(y, 4, -1)),
        {"a": (3, 16), "r": (4, 16), "bias": (1, 16), "b": (4, 2)},
        SEQUENCE,
        {"a": 4},
    ),
    Case(
        "lstm-gates-in-an-axis",
        functools.partial(long_short, gates=lambda y: jnp.moveaxis(y.reshape(2, 4, -1), 1, 0)),
        {"a": (3, 16), "r": (4, 16), "bias": (1, 16), "b": (4, 2)},
        SEQUENCE,
        {"a": 4},
    ),
    Case(
        "lstm-gates-interleaved",
        functools.partial(long_short, gates=lambda y: jnp.moveaxis(y.reshape(2, -1, 4), 2, 0)),
        {"a": (3, 16), "r": (4, 16), "bias": (1, 16), "b": (4, 2)},
        SEQUENCE,
        {"a": 4},
    ),
    Case("gru", gated, {"a": (3, 12), "r": (4, 12), "b": (4, 2)}, SEQUENCE, {"a": 4}),
    Case(
        "scan-of-scans",
        stacked_recurrent,
        {"a": (2, 3, 4), "r": (2, 4, 4), "b": (2, 4, 3)},
        SEQUENCE,
        {"a": 4},
        {"a": ("a[0]",)},
    ),
)


@pytest.mark.parametrize(**table(*RECURRENT))
def test_recurrent_networks(case):
    check(case)
