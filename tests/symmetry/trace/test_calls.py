"""Branches, compiled functions, custom derivatives, vmap and grad."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.symmetry.trace.cases import Case, check, table

silu = jax.nn.silu


X = ((5, 3),)

BRANCHES = (
    Case(
        "two",
        lambda p, x: (
            lax.cond(x[0, 0] > 0, lambda h: silu(h @ p["u"]), lambda h: jnp.tanh(h @ p["v"]), x)
            @ p["o"]
        ),
        {"u": (3, 6), "v": (3, 6), "o": (6, 2)},
        X,
        None,
    ),
    Case(
        "by-a-unit",
        lambda p, x: (
            lax.cond((x @ p["u"])[0, 0] > 0, lambda h: h, lambda h: -h, x @ p["u"]) @ p["o"]
        ),
        {"u": (3, 6), "o": (6, 2)},
        X,
        {"u": 5},
    ),
    Case(
        "one-turns-the-units-round",
        lambda p, x: lax.cond(x[0, 0] > 0, lambda h: h[:, ::-1], lambda h: h, x @ p["u"]) @ p["o"],
        {"u": (3, 6), "o": (6, 2)},
        X,
        None,
    ),
    Case(
        "switch",
        lambda p, x, i: (
            lax.switch(
                i, [lambda h: h, jnp.tanh, lambda h: h[:, :1] + jnp.zeros_like(h)], x @ p["u"]
            )
            @ p["o"]
        ),
        {"u": (3, 6), "o": (6, 2)},
        (*X, np.array(1)),
        {"u": 5},
        complete=False,
    ),
)


@jax.jit
def block(h, up, down):
    return h + silu(h @ up) @ down


@jax.custom_jvp
def leaky(x):
    return jnp.where(x > 0, x, 0.1 * x)


leaky.defjvp(lambda primals, tangents: (leaky(*primals), tangents[0]))


@jax.custom_vjp
def scaled(x, scale):
    return x * scale


scaled.defvjp(lambda x, scale: (scaled(x, scale), None), lambda _, g: (g, g))

CALLS = (
    Case(
        "one-function-of-two-widths",
        lambda p, x: block(block(x, p["u"], p["d"]), p["v"], p["e"]),
        {"u": (3, 6), "d": (6, 3), "v": (3, 5), "e": (5, 3)},
        X,
        {"u": 6, "v": 5},
    ),
    Case(
        "one-function-of-one-width",
        lambda p, x: block(block(x, p["u"], p["d"]), p["v"], p["e"]),
        {"u": (3, 6), "d": (6, 3), "v": (3, 6), "e": (6, 3)},
        X,
        {"u": 6, "v": 6},
    ),
    Case(
        "checkpoint",
        lambda p, x: jax.checkpoint(block)(x, p["u"], p["d"]),
        {"u": (3, 6), "d": (6, 3)},
        X,
        {"u": 6},
    ),
    Case(
        "custom-derivatives",
        lambda p, x: scaled(leaky(x @ p["u"]), jnp.broadcast_to(p["s"], (5, 6))) @ p["d"],
        {"u": (3, 6), "s": (1, 6), "d": (6, 3)},
        X,
        {"u": 6},
    ),
    Case(
        "vmap-over-parameters",
        lambda p, x: jax.vmap(lambda u, d: silu(x @ u) @ d)(p["u"], p["d"]),
        {"u": (3, 3, 6), "d": (3, 6, 2)},
        X,
        {"u": 6},
        {"u": ("u[0]",)},
    ),
    Case(
        "mean-of-an-ensemble",
        lambda p, x: jax.vmap(lambda u, d: silu(x @ u) @ d)(p["u"], p["d"]).mean(0),
        {"u": (3, 3, 6), "d": (3, 6, 2)},
        X,
        {"u.blocks": 3, "u": 6},
        {"u": ("u.blocks",)},
    ),
    Case(
        "vmap-over-the-batch",
        lambda p, x: jax.vmap(lambda row: silu(row @ p["u"]) @ p["d"])(x),
        {"u": (3, 6), "d": (6, 2)},
        X,
        {"u": 6},
    ),
    Case(
        "mean-over-a-named-axis",
        lambda p, x: (
            jax.vmap(lambda row: row - lax.pmean(row, "batch"), axis_name="batch")(silu(x @ p["u"]))
            @ p["d"]
        ),
        {"u": (3, 6), "d": (6, 2)},
        X,
        {"u": 6},
    ),
    Case(
        "gradient-of-an-energy",
        lambda p, x: jax.grad(lambda y: (jnp.tanh(y @ p["u"]) @ p["d"]).sum())(x),
        {"u": (3, 6), "d": (6, 2)},
        X,
        {"u.blocks": 6, "d": 2},
        {"d": ("u.blocks",)},
    ),
    Case(
        "norms-of-gradients",
        lambda p, x: jax.tree.map(
            jnp.linalg.norm, jax.grad(lambda q: (jnp.tanh(x @ q["u"]) @ q["d"]).sum())(p)
        ),
        {"u": (3, 6), "d": (6, 2)},
        X,
        {"u.blocks": 6, "d": 2},
        {"d": ("u.blocks",)},
    ),
    Case(
        "tangent",
        lambda p, x: jax.jvp(lambda y: jnp.tanh(y @ p["u"]) @ p["d"], (x,), (jnp.cos(x),))[1],
        {"u": (3, 6), "d": (6, 2)},
        X,
        {"u": 6},
    ),
    Case(
        "results-that-nobody-uses",
        lambda p, x: (lambda h: {"": h @ p["d"], "unused": jnp.cumsum(h, -1)}[""])(
            silu(x @ p["u"])
        ),
        {"u": (3, 6), "d": (6, 2)},
        X,
        {"u": 6},
    ),
)


@pytest.mark.parametrize(**table(*BRANCHES))
def test_branches(case):
    check(case)


@pytest.mark.parametrize(**table(*CALLS))
def test_calls(case):
    check(case)
