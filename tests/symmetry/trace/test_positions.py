"""Positions that are used as numbers pin what they point at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.symmetry.trace.cases import Case, check, table

silu = jax.nn.silu

NUMBERS = (
    Case(
        "output",
        lambda p, x: jnp.argmax(x @ p["a"], -1),
        {"a": (3, 6)},
        ((4, 3),),
        {},
        complete=False,
    ),
    Case(
        "output-of-a-branch",
        lambda p, x: lax.cond(
            x[0, 0] > 0, lambda h: jnp.argmax(h, -1), lambda h: jnp.argmin(h, -1), x @ p["a"]
        ),
        {"a": (3, 6)},
        ((4, 3),),
        {},
        complete=False,
    ),
    Case(
        "output-of-each-step",
        lambda p, x: lax.scan(lambda c, row: (c, jnp.argmax(row @ p["a"])), 0.0, x)[1],
        {"a": (3, 6)},
        ((4, 3),),
        {},
        complete=False,
    ),
    Case(
        "carried-round",
        lambda p, x: lax.while_loop(
            lambda c: jnp.sum(c) < 0,
            lambda c: jnp.argmax(x @ p["a"], -1) + 0 * c,
            -jnp.ones(4, int),
        ),
        {"a": (3, 6)},
        ((4, 3),),
        {},
        complete=False,
    ),
    Case(
        "carried-round-as-it-is",
        lambda p, x: lax.while_loop(
            lambda c: jnp.sum(c) < 0,
            lambda c: lax.argmax(x @ p["a"], 1, c.dtype),
            -jnp.ones(4, int),
        ),
        {"a": (3, 6)},
        ((4, 3),),
        {},
        complete=False,
    ),
    Case(
        "some-of-the-ranks",
        lambda p, x, i: jnp.take(jnp.argsort(x @ p["a"], -1), i, axis=1) * 1.0,
        {"a": (3, 6)},
        ((4, 3), np.array([1, 3])),
        {},
        complete=False,
    ),
    Case(
        "next-one",
        lambda p, x: jax.nn.one_hot(jnp.argmax(x @ p["a"], -1) + 1, 6) @ p["t"],
        {"a": (3, 6), "t": (6, 2)},
        ((9, 3),),
        {},
        complete=False,
    ),
    Case(
        "the-one-or-the-next",
        lambda p, x: (
            jax.nn.one_hot(
                jnp.where(x[:, 0] > 0, jnp.argmax(x @ p["a"], -1), jnp.argmax(x @ p["a"], -1) + 1),
                6,
            )
            @ p["t"]
        ),
        {"a": (3, 6), "t": (6, 2)},
        ((9, 3),),
        {},
        complete=False,
    ),
    Case(
        "one-name-for-the-one-or-the-next",
        lambda p, x: (lambda i: jax.nn.one_hot(jnp.where(x[:, 0] > 0, i, i + 1), 6) @ p["t"])(
            jnp.argmax(x @ p["a"], -1)
        ),
        {"a": (3, 6), "t": (6, 2)},
        ((9, 3),),
        {},
        complete=False,
    ),
    Case(
        "first-of-the-positive",
        lambda p, x: p["t"][jnp.argmax(x @ p["a"] > 0, -1)],
        {"a": (3, 6), "t": (6, 2)},
        ((9, 3),),
        {},
        complete=False,
    ),
    Case(
        "order-of-the-signs",
        lambda p, x: (
            jnp.take_along_axis(x @ p["g"], jnp.argsort(jnp.sign(x @ p["a"]).astype(int), -1), -1)
            @ p["b"]
        ),
        {"a": (3, 6), "g": (3, 6), "b": (6, 2)},
        ((9, 3),),
        {},
        complete=False,
    ),
    Case(
        "largest-of-equals",
        lambda p, x: (
            jax.nn.one_hot(jnp.argmax(jnp.zeros((4, 6)), -1), 6) * jnp.tanh(x @ p["a"])
        ).sum(-1),
        {"a": (3, 6)},
        ((4, 3),),
        {},
        complete=False,
    ),
    Case(
        "order-of-equals",
        lambda p, x: p["t"][jnp.argsort(jnp.zeros(6))] * x,
        {"t": (6, 3)},
        ((6, 3),),
        {},
        complete=False,
    ),
    Case(
        "chosen-by-a-number",
        lambda p, x: (
            lax.cond(jnp.argmax(x[0] @ p["a"]) > 2, lambda h: h, lambda h: -h, jnp.tanh(x @ p["a"]))
            @ p["b"]
        ),
        {"a": (3, 6), "b": (6, 2)},
        ((4, 3),),
        {},
        complete=False,
    ),
    Case(
        "one-hot-of-more",
        lambda p, x: jax.nn.one_hot(jnp.argmax(x @ p["a"], -1), 8) @ p["t"],
        {"a": (3, 4), "t": (8, 2)},
        ((12, 3),),
        None,
    ),
    Case(
        "one-hot-of-fewer",
        lambda p, x: jax.nn.one_hot(jnp.argmax(x @ p["a"], -1), 4) @ p["t"],
        {"a": (3, 8), "t": (4, 2)},
        ((12, 3),),
        None,
    ),
    Case(
        "one-hot-of-one",
        lambda p, x: jax.nn.one_hot(jnp.argmax(x @ p["a"], -1), 1) @ p["t"],
        {"a": (3, 8), "t": (1, 2)},
        ((12, 3),),
        None,
    ),
    Case(
        "row-of-a-longer-table",
        lambda p, x: p["t"][jnp.argmax(x @ p["a"], -1)],
        {"a": (3, 4), "t": (8, 2)},
        ((12, 3),),
        None,
    ),
    Case(
        "row-by-the-largest-of-some",
        lambda p, x: p["t"][jnp.argmax((x @ p["a"])[:, :4], -1)],
        {"a": (3, 8), "t": (8, 2)},
        ((12, 3),),
        None,
    ),
)


@pytest.mark.parametrize(**table(*NUMBERS))
def test_positions_that_are_used_as_numbers(case):
    check(case)
