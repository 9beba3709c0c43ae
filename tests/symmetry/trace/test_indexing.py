"""Lookups by number and by position: gather, scatter, one_hot, argmax, argsort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.symmetry.trace.cases import Case, check, table

silu = jax.nn.silu
TOKENS = np.array([[0, 3, 1], [2, 2, 4]])


def codebook(p, x):
    z = x @ p["a"]
    distance = ((z[:, None] - p["c"][None]) ** 2).sum(-1)
    return p["c"][jnp.argmin(distance, -1)] @ p["b"]


LOOKUPS = (
    Case(
        "embedding",
        lambda p, tokens: silu(p["e"][tokens] @ p["a"]) @ p["b"],
        {"e": (5, 4), "a": (4, 6), "b": (6, 2)},
        (TOKENS,),
        {"e": 4, "a": 6},
    ),
    Case(
        "embedding-tied-to-the-output",
        lambda p, tokens: silu(p["e"][tokens] @ p["a"]) @ p["b"] @ p["e"].T,
        {"e": (5, 4), "a": (4, 6), "b": (6, 4)},
        (TOKENS,),
        {"e": 4, "a": 6},
    ),
    Case(
        "one-hot-tokens",
        lambda p, tokens: silu(jax.nn.one_hot(tokens, 5) @ p["e"]) @ p["b"],
        {"e": (5, 4), "b": (4, 2)},
        (TOKENS,),
        {"e": 4},
    ),
    Case(
        "positions-by-range",
        lambda p, tokens: silu(p["e"][tokens] + p["s"][jnp.arange(3)][None]) @ p["b"],
        {"e": (5, 4), "s": (7, 4), "b": (4, 2)},
        (TOKENS,),
        {"e": 4},
        complete=False,
    ),
    Case(
        "targets",
        lambda p, x, y: (
            -jnp.take_along_axis(
                jax.nn.log_softmax(silu(x @ p["a"]) @ p["b"]), y[:, None], -1
            ).mean()
        ),
        {"a": (3, 6), "b": (6, 3)},
        ((4, 3), np.array([0, 1, 2, 1])),
        {"a": 6},
    ),
    Case(
        "row-of-the-largest",
        lambda p, x: p["t"][jnp.argmax(x @ p["a"], -1)] @ p["b"],
        {"a": (3, 6), "t": (6, 4), "b": (4, 2)},
        ((9, 3),),
        {"a": 6, "t": 4},
    ),
    Case(
        "one-hot-of-the-largest",
        lambda p, x: (jax.nn.one_hot(jnp.argmax(x @ p["a"], -1), 6) * (x @ p["g"])) @ p["b"],
        {"a": (3, 6), "g": (3, 6), "b": (6, 2)},
        ((9, 3),),
        {"a": 6},
    ),
    Case(
        "nearest-of-a-codebook",
        codebook,
        {"a": (3, 4), "c": (5, 4), "b": (4, 2)},
        ((9, 3),),
        {"a": 4, "c": 5},
        complete=False,
    ),
    Case(
        "ordered-by-another",
        lambda p, x: jnp.take_along_axis(x @ p["g"], jnp.argsort(x @ p["a"], -1), -1) @ p["b"],
        {"a": (3, 6), "g": (3, 6), "b": (6, 2)},
        ((4, 3),),
        {"g": 6},
    ),
    Case(
        "updated-in-place",
        lambda p, x: jnp.zeros((3, 4, 6)).at[1].set(silu(x @ p["a"])).sum(0) @ p["b"],
        {"a": (3, 6), "b": (6, 2)},
        ((4, 3),),
        {"a": 6},
    ),
)


@pytest.mark.parametrize(**table(*LOOKUPS))
def test_lookups(case):
    check(case)
