"""Direct sums: concatenate, stack, split, slice, pad, tile, and what they are used for."""

import functools

import jax
import jax.numpy as jnp
import pytest

from tests.symmetry.trace.cases import Case, check, table

silu = jax.nn.silu


def dense_block(p, x):
    h = x
    for layer in ("a", "b", "c"):
        h = jnp.concatenate([h, silu(h @ p[layer])], -1)
    return h @ p["out"]


def concatenated(p, x, combine):
    return combine(p, silu(x @ p["a"]), silu(x @ p["b"]))


def hidden(p, x, use):
    return use(p, silu(x @ p["a"]))


def joined(name, combine, shapes, groups, **options):
    function = functools.partial(concatenated, combine=combine)
    return Case(name, function, {"a": (3, 4), **shapes}, ((4, 3),), groups, **options)


def used(name, use, shapes, groups, **options):
    function = functools.partial(hidden, use=use)
    return Case(name, function, shapes, ((4, 3),), groups, **options)


CONCATENATED = (
    joined(
        "two-orders",
        lambda p, g, h: jnp.concatenate([g, h], -1) @ p["c"] + jnp.concatenate([h, g], -1) @ p["d"],
        {"b": (3, 5), "c": (9, 2), "d": (9, 2)},
        {"a": 4, "b": 5},
    ),
    joined(
        "sum-of-two-orders",
        lambda p, g, h: (jnp.concatenate([g, h], -1) + jnp.concatenate([h, g], -1)) @ p["c"],
        {"b": (3, 4), "c": (8, 2)},
        {"a": 4},
    ),
    joined(
        "sum-of-two-orders-of-other-sizes",
        lambda p, g, h: (jnp.concatenate([g, h], -1) + jnp.concatenate([h, g], -1)) @ p["c"],
        {"b": (3, 5), "c": (9, 2)},
        {},
        complete=False,
    ),
    joined(
        "twice-the-same",
        lambda p, g, h: jnp.concatenate([g, h, g], -1) @ p["c"],
        {"b": (3, 5), "c": (13, 2)},
        {"a": 4, "b": 5},
    ),
    joined(
        "stacked-and-summed",
        lambda p, g, h: jnp.stack([g, h], 1).sum(1) @ p["c"],
        {"b": (3, 4), "c": (4, 2)},
        {"a": 4},
    ),
    joined(
        "stacked-and-scaled-apart",
        lambda p, g, h: (jnp.stack([g, jnp.tanh(h)], 1) * p["s"]).sum(1) @ p["c"],
        {"b": (3, 4), "s": (1, 2, 4), "c": (4, 2)},
        {"a": 4},
    ),
    joined(
        "stacked-with-coefficients",
        lambda p, g, h: jnp.einsum("bch,c->bh", jnp.stack([g, jnp.tanh(h)], 1), p["m"]) @ p["c"],
        {"b": (3, 4), "m": (2,), "c": (4, 2)},
        {"a": 4},
    ),
    joined(
        "stacked-and-used-apart",
        lambda p, g, h: jnp.einsum("bch,cho->bo", jnp.stack([g, jnp.tanh(h)], 1), p["c"]),
        {"b": (3, 4), "c": (2, 4, 2)},
        {"a": 4, "b": 4},
    ),
    joined(
        "stacked-with-one-scale",
        lambda p, g, h: jnp.einsum("bch,cho->bo", jnp.stack([g, h], 1) * p["s"], p["c"]),
        {"b": (3, 4), "s": (1, 1, 4), "c": (2, 4, 2)},
        {"a": 4},
    ),
    joined(
        "stacked-and-mixed",
        lambda p, g, h: jnp.einsum("bch,cd,dho->bo", jnp.stack([g, h], 1), p["m"], p["c"]),
        {"b": (3, 4), "m": (2, 2), "c": (2, 4, 2)},
        {"a": 4, "c": 2},
    ),
    Case(
        "features-stacked",
        lambda p, x: (
            silu(jnp.stack([x[:, 0], x[:, 1] ** 2, jnp.sin(x[:, 2])], -1) @ p["a"]) @ p["b"]
        ),
        {"a": (3, 8), "b": (8, 2)},
        ((4, 3),),
        {"a": 8},
    ),
    Case(
        "features-concatenated-one-by-one",
        lambda p, x: (
            silu(jnp.concatenate([x[:, 2:], x[:, 1:2] ** 2, x[:, :1]], -1) @ p["a"]) @ p["b"]
        ),
        {"a": (3, 8), "b": (8, 2)},
        ((4, 3),),
        {"a": 8},
    ),
    Case(
        "scalars-stacked",
        lambda p, x: (x * jnp.stack([p["a"], p["b"], p["c"]]) * p["w"]) @ p["out"],
        {"a": (), "b": (), "c": (), "w": (3,), "out": (3, 2)},
        ((),),
        {},
    ),
    Case(
        "entries-of-a-stack-used-apart",
        lambda p, x: silu(x @ p["w"][0]) @ p["a"] + jnp.tanh(x @ p["w"][1]) @ p["b"],
        {"w": (2, 3, 6), "a": (6, 2), "b": (6, 2)},
        ((4, 3),),
        {"w": 6, "w#2": 6},
    ),
    Case(
        "entries-of-a-stack-unused",
        lambda p, x: silu(x @ p["w"][0]) @ p["a"] + jnp.tanh(x * p["w"][1].sum())[:, :2],
        {"w": (4, 3, 6), "a": (6, 2)},
        ((4, 3),),
        None,
    ),
    Case(
        "dense-block",
        dense_block,
        {"a": (3, 2), "b": (5, 2), "c": (7, 2), "out": (9, 2)},
        ((4, 3),),
        {"a": 2, "b": 2, "c": 2},
    ),
)

SLICED = (
    used(
        "gate-and-value-halves",
        lambda p, h: (jnp.split(h, 2, -1)[0] * jax.nn.sigmoid(jnp.split(h, 2, -1)[1])) @ p["b"],
        {"a": (3, 8), "b": (4, 2)},
        {"a": 4},
    ),
    used(
        "gate-and-value-interleaved",
        lambda p, h: (h[:, ::2] * jax.nn.sigmoid(h[:, 1::2])) @ p["b"],
        {"a": (3, 8), "b": (4, 2)},
        {"a": 4},
    ),
    used(
        "three-interleaved",
        lambda p, h: (h[:, ::3] * jnp.tanh(h[:, 1::3]) + h[:, 2::3]) @ p["b"],
        {"a": (3, 12), "b": (4, 2)},
        {"a": 4},
    ),
    used(
        "every-other-used-once-more",
        lambda p, h: h[:, ::2] @ p["b"] + h @ p["c"],
        {"a": (3, 8), "b": (4, 2), "c": (8, 2)},
        None,
    ),
    used(
        "at-intervals-from-an-offset",
        lambda p, h: h[:, 1:5:2] @ p["b"] + h @ p["c"],
        {"a": (3, 8), "b": (2, 2), "c": (8, 2)},
        {},
        complete=False,
    ),
    used(
        "overlapping",
        lambda p, h: h[:, :4] @ p["b"] + h[:, 2:] @ p["c"],
        {"a": (3, 6), "b": (4, 2), "c": (4, 2)},
        {"a": 2, "a#2": 2, "a#3": 2},
    ),
    used(
        "overlapping-and-summed",
        lambda p, h: (h[:, :4] + h[:, 2:]) @ p["b"],
        {"a": (3, 6), "b": (4, 2)},
        {"a": 2},
    ),
    used(
        "middle-used-twice",
        lambda p, h: h @ p["b"] + h[:, 2:5] @ p["c"],
        {"a": (3, 8), "b": (8, 2), "c": (3, 2)},
        {"a": 5, "a#2": 3},
    ),
    used(
        "part-of-the-units",
        lambda p, h: h[:, :5] @ p["b"],
        {"a": (3, 8), "b": (5, 2)},
        {"a": 5, "a#2": 3},
    ),
    used(
        "unstacked",
        lambda p, h: (
            functools.reduce(jnp.multiply, jnp.unstack(jnp.tanh(h.reshape(4, 3, 4)), axis=1))
            @ p["b"]
        ),
        {"a": (3, 12), "b": (4, 2)},
        {"a": 4},
    ),
    used(
        "modulated-by-halves",
        lambda p, h: (h[:, :4] * jnp.tanh(p["v"]) + h[:, 4:]) @ p["b"],
        {"a": (3, 8), "v": (1, 4), "b": (4, 2)},
        {"a": 4},
    ),
)


@pytest.mark.parametrize(**table(*CONCATENATED))
def test_concatenated(case):
    check(case)


@pytest.mark.parametrize(**table(*SLICED))
def test_sliced(case):
    check(case)
