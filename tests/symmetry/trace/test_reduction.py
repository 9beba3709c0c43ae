"""Normalisation, pooling and other reductions."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.symmetry.trace.cases import Case, check, table
from tests.symmetry.trace.test_contraction import convolution

silu = jax.nn.silu
IMAGE = ((2, 4, 4, 3),)


def standardised(h, axis):
    mean, variance = h.mean(axis, keepdims=True), h.var(axis, keepdims=True)
    return (h - mean) * lax.rsqrt(variance + 1e-5)


def group_norm(p, x, groups=2):
    h = convolution(x, p["a"])
    h = standardised(h.reshape(*h.shape[:3], groups, -1), (1, 2, 4)).reshape(h.shape)
    return silu(h * p["s"] + p["t"]).mean((1, 2)) @ p["c"]


def batch_norm(p, x):
    h = (x @ p["a"] - p["mean"]) * lax.rsqrt(jnp.abs(p["var"]) + 1e-5)
    return silu(h * p["s"]) @ p["b"]


def spectral(p, x):
    left = p["u"]
    for _ in range(2):
        right = left @ p["a"]
        left = right @ p["a"].T
        left, right = (v / jnp.linalg.norm(v) for v in (left, right))
    return silu(x @ (p["a"] / (left @ p["a"] @ right.T))) @ p["b"]


def cosine(p, x):
    h = silu(x @ p["a"])
    h = h / jnp.linalg.norm(h, axis=-1, keepdims=True)
    return h @ (p["b"] / jnp.linalg.norm(p["b"], axis=0, keepdims=True))


def sinkhorn(p, x):
    scores = jnp.exp(x @ p["a"])
    for _ in range(3):
        scores = scores / scores.sum(1, keepdims=True)
        scores = scores / scores.sum(0, keepdims=True)
    return scores @ p["b"]


def pooled(pool):
    return lambda p, x: pool(silu(convolution(x, p["a"]))).reshape(2, -1) @ p["c"]


def window(h, initial, computation, shape=(1, 2, 2, 1)):
    return lax.reduce_window(h, jnp.asarray(initial, h.dtype), computation, shape, shape, "VALID")


NORMS = (
    Case(
        "layer",
        lambda p, x: silu(standardised(x @ p["a"], -1) * p["s"] + p["t"]) @ p["b"],
        {"a": (3, 6), "s": (1, 6), "t": (1, 6), "b": (6, 2)},
        ((4, 3),),
        {"a": 6},
    ),
    Case(
        "root-mean-square",
        lambda p, x: (
            (lambda h: h * lax.rsqrt((h**2).mean(-1, keepdims=True)) * p["s"])(x @ p["a"]) @ p["b"]
        ),
        {"a": (3, 6), "s": (1, 6), "b": (6, 2)},
        ((4, 3),),
        {"a": 6},
    ),
    Case(
        "group",
        group_norm,
        {"a": (3, 3, 3, 6), "s": (1, 1, 1, 6), "t": (1, 1, 1, 6), "c": (6, 2)},
        IMAGE,
        {"a.blocks": 2, "a": 3},
        {"a": ("a.blocks",)},
    ),
    Case(
        "instance",
        functools.partial(group_norm, groups=6),
        {"a": (3, 3, 3, 6), "s": (1, 1, 1, 6), "t": (1, 1, 1, 6), "c": (6, 2)},
        IMAGE,
        {"a": 6},
    ),
    Case(
        "batch-with-statistics",
        batch_norm,
        {"a": (3, 6), "mean": (1, 6), "var": (1, 6), "s": (1, 6), "b": (6, 2)},
        ((4, 3),),
        {"a": 6},
    ),
    Case(
        "batch-of-the-batch",
        lambda p, x: silu(standardised(x @ p["a"], 0)) @ p["b"],
        {"a": (3, 6), "b": (6, 2)},
        ((4, 3),),
        {"a": 6},
    ),
    Case(
        "weights-standardised",
        lambda p, x: silu(convolution(x, standardised(p["a"], (0, 1, 2)))).mean((1, 2)) @ p["c"],
        {"a": (3, 3, 3, 4), "c": (4, 2)},
        IMAGE,
        {"a": 4},
    ),
    Case("spectral", spectral, {"a": (3, 6), "u": (1, 3), "b": (6, 2)}, ((4, 3),), {"a": 6}),
    Case("cosine-classifier", cosine, {"a": (3, 6), "b": (6, 2)}, ((4, 3),), {"a": 6}),
    Case("sinkhorn", sinkhorn, {"a": (3, 6), "b": (6, 2)}, ((4, 3),), {"a": 6}),
    Case(
        "softmax-over-units",
        lambda p, x: jax.nn.softmax(x @ p["a"]) @ p["b"],
        {"a": (3, 6), "b": (6, 2)},
        ((4, 3),),
        {"a": 6},
    ),
)

POOLS = (
    Case(
        "maximum",
        pooled(lambda h: window(h, -jnp.inf, lax.max)),
        {"a": (3, 3, 3, 4), "c": (16, 2)},
        IMAGE,
        {"a": 4},
    ),
    Case(
        "average",
        pooled(lambda h: window(h, 0.0, lax.add)),
        {"a": (3, 3, 3, 4), "c": (16, 2)},
        IMAGE,
        {"a": 4},
    ),
    Case(
        "own-function",
        pooled(lambda h: window(h, 0.0, lambda a, b: a + b + a * b)),
        {"a": (3, 3, 3, 4), "c": (16, 2)},
        IMAGE,
        {"a": 4},
    ),
    Case(
        "global",
        lambda p, x: silu(convolution(x, p["a"])).max((1, 2)) @ p["c"],
        {"a": (3, 3, 3, 4), "c": (4, 2)},
        IMAGE,
        {"a": 4},
    ),
    Case(
        "over-the-channels",
        pooled(lambda h: window(h, -jnp.inf, lax.max, (1, 1, 1, 2))),
        {"a": (3, 3, 3, 4), "c": (32, 2)},
        IMAGE,
        None,
    ),
    Case(
        "resized",
        pooled(lambda h: jax.image.resize(h, (2, 2, 2, 4), "bilinear")),
        {"a": (3, 3, 3, 4), "c": (16, 2)},
        IMAGE,
        {"a": 4},
    ),
)

SETS = (
    Case(
        "deep-sets",
        lambda p, x: silu(silu(x @ p["a"]).sum(1) @ p["b"]) @ p["c"],
        {"a": (3, 6), "b": (6, 4), "c": (4, 2)},
        ((4, 5, 3),),
        {"a": 6, "b": 4},
    ),
    Case(
        "siamese",
        lambda p, x, y: ((silu(x @ p["a"]) @ p["b"]) * (silu(y @ p["a"]) @ p["b"])).sum(-1),
        {"a": (3, 6), "b": (6, 4)},
        ((4, 3), (4, 3)),
        {"a": 6, "b": 4},
    ),
    Case(
        "modulated",
        lambda p, x: (lambda g: (g[:, :6] * silu(x @ p["a"]) + g[:, 6:]) @ p["b"])(x @ p["g"]),
        {"a": (3, 6), "g": (3, 12), "b": (6, 2)},
        ((4, 3),),
        {"g": 6},
    ),
)


@pytest.mark.parametrize(**table(*NORMS))
def test_norms(case):
    check(case)


@pytest.mark.parametrize(**table(*POOLS))
def test_pools(case):
    check(case)


@pytest.mark.parametrize(**table(*SETS))
def test_sets(case):
    check(case)


def test_running_statistics_are_told_from_weights():
    case = next(case for case in NORMS if case.name == "batch-with-statistics")
    statistics = {tensor.path for tensor in check(case).tensors if tensor.statistic}
    assert statistics == {"mean", "var"}
