"""Scans over stacked layers, counted loops and loops with a condition."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.symmetry.trace.cases import Case, check, normal, table, weights

silu = jax.nn.silu


def residual(h, layer):
    return h + silu(h @ layer["u"]) @ layer["d"], None


def stack(p, x):
    layers = {"u": p["u"], "d": p["d"]}
    return lax.scan(residual, x @ p["e"], layers)[0] @ p["o"]


def stack_of_leaves(p, x):
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *p["layers"])
    return lax.scan(residual, x, layers)[0]


def nested(p, x):
    def outer(h, layers):
        return lax.scan(residual, h, layers)[0], None

    return lax.scan(outer, x @ p["e"], {"u": p["u"], "d": p["d"]})[0] @ p["o"]


def previous_weights(p, x):
    def step(carry, kernel):
        before, total = carry
        return (kernel, total + (x @ (kernel * before)).sum(-1, keepdims=True)), None

    return lax.scan(step, (jnp.ones(p["u"].shape[1:]), jnp.zeros((len(x), 1))), p["u"])[0][1]


def sums_of_weights(p, x):
    def step(total, kernel):
        return total + kernel, silu(x @ (total + kernel)).sum(-1)

    return lax.scan(step, jnp.zeros(p["u"].shape[1:]), p["u"])[1]


LAYERS = {"e": (3, 4), "u": (3, 4, 6), "d": (3, 6, 4), "o": (4, 2)}
ONE_LAYER = {"e": (3, 4), "u": (4, 6), "d": (6, 4), "o": (4, 2)}
X = ((5, 3),)

SCANS = (
    Case("layers", stack, LAYERS, X, {"e": 4, "u": 6}, {"u": ("u[0]",)}),
    Case(
        "leaves-stacked-before",
        stack_of_leaves,
        {"layers": [weights(u=(3, 6), d=(6, 3)), {"u": normal(3, 6), "d": normal(6, 3)}]},
        X,
        {"layers/0/u": 6, "layers/1/u": 6},
    ),
    Case(
        "layers-of-layers",
        nested,
        {"e": (3, 4), "u": (2, 3, 4, 6), "d": (2, 3, 6, 4), "o": (4, 2)},
        X,
        {"e": 4, "u": 6},
        {"u": ("u[0]", "u[1]")},
    ),
    Case(
        "numbered-layers",
        lambda p, x: (
            lax.scan(
                lambda h, layer: (h + silu(h @ layer[0]) @ layer[1] * layer[2], None),
                x @ p["e"],
                (p["u"], p["d"], jnp.arange(3.0)),
            )[0]
            @ p["o"]
        ),
        LAYERS,
        X,
        {"e": 4, "u": 6},
        {"u": ("u[0]",)},
    ),
    Case(
        "results-of-every-layer",
        lambda p, x: jnp.einsum(
            "lbh,lho->bo",
            lax.scan(lambda h, u: (silu(h @ u), silu(h @ u)), x @ p["e"], p["u"])[1],
            p["o"],
        ),
        {"e": (3, 4), "u": (3, 4, 4), "o": (3, 4, 2)},
        X,
        {"e": 4},
    ),
    Case(
        "nothing-carried",
        lambda p, x: jnp.einsum("lbh,lho->bo", lax.map(lambda u: silu(x @ u), p["u"]), p["o"]),
        {"u": (3, 3, 6), "o": (3, 6, 2)},
        X,
        {"u.blocks": 3, "u": 6},
        {"u": ("u.blocks",)},
    ),
    Case(
        "previous-weights",
        previous_weights,
        {"u": (3, 3, 6)},
        X,
        {"u": 6},
    ),
    Case("sums-of-weights", sums_of_weights, {"u": (3, 3, 6)}, X, {"u": 6}),
    Case(
        "experts-one-by-one",
        lambda p, x: lax.scan(
            lambda total, leaf: (total + leaf[2][:, None] * (silu(x @ leaf[0]) @ leaf[1]), None),
            jnp.zeros((len(x), 2)),
            (p["u"], p["d"], jax.nn.softmax(x @ p["r"]).T),
        )[0],
        {"r": (3, 4), "u": (4, 3, 6), "d": (4, 6, 2)},
        X,
        {"u": 6},
        {"u": ("r[1]",)},
        complete=False,
    ),
)

LOOPS = (
    Case(
        "counted",
        lambda p, x: lax.fori_loop(0, 3, lambda i, h: residual(h, p)[0], x @ p["e"]) @ p["o"],
        ONE_LAYER,
        X,
        {"e": 4, "u": 6},
    ),
    Case(
        "layers-by-number",
        lambda p, x: (
            lax.fori_loop(0, 3, lambda i, h: h + silu(h @ p["u"][i]) @ p["d"][i], x @ p["e"])
            @ p["o"]
        ),
        LAYERS,
        X,
        {"e": 4, "d": 6},
    ),
    Case(
        "until-small",
        lambda p, x: (
            lax.while_loop(lambda h: jnp.max(jnp.abs(h)) > 1.0, lambda h: h * 0.5, x @ p["e"])
            @ p["o"]
        ),
        {"e": (3, 4), "o": (4, 2)},
        X,
        {"e": 4},
    ),
    Case(
        "until-the-first-is-small",
        lambda p, x: (
            lax.while_loop(lambda h: jnp.abs(h[0, 0]) > 0.1, lambda h: jnp.sin(h), x @ p["e"])
            @ p["o"]
        ),
        {"e": (3, 4), "o": (4, 2)},
        X,
        {"e": 3},
    ),
    Case(
        "units-shifted-every-round",
        lambda p, x: lax.fori_loop(0, 3, lambda i, h: jnp.roll(h, 1, -1), x @ p["e"]) @ p["o"],
        {"e": (3, 4), "o": (4, 2)},
        X,
        {},
        complete=False,
    ),
    Case(
        "two-states-that-change-places",
        lambda p, x: (
            lax.fori_loop(0, 3, lambda i, s: (s[1], jnp.tanh(s[0])), (x @ p["e"], x @ p["f"]))[0]
            @ p["o"]
        ),
        {"e": (3, 4), "f": (3, 4), "o": (4, 2)},
        X,
        {"e": 4},
    ),
)


@pytest.mark.parametrize(**table(*SCANS))
def test_scans(case):
    check(case)


@pytest.mark.parametrize(**table(*LOOPS))
def test_loops(case):
    check(case)


def test_scan_and_loop_written_out_agree_on_the_residual_stream():
    def written_out(p, x):
        h = x @ p["e"]
        for layer in range(3):
            h, _ = residual(h, {"u": p["u"][layer], "d": p["d"][layer]})
        return h @ p["o"]

    case = Case("", written_out, LAYERS, X, {"e": 4, "u": 6, "u#2": 6, "u#3": 6})
    check(case)
