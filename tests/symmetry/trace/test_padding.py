"""Padding: what is added may be permuted, block by block of one value."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.symmetry.trace.cases import check, table
from tests.symmetry.trace.test_blocks import used

silu = jax.nn.silu

PADDED = (
    used(
        "zeros-of-two-signs-concatenated",
        lambda p, h: (
            (
                silu(h @ p["b"])
                + jnp.arctan2(
                    jnp.concatenate([jnp.zeros((4, 3)), jnp.ones_like(h), -jnp.zeros((4, 3))], -1),
                    -1.0,
                )
            )
            @ p["c"]
        ),
        {"a": (3, 4), "b": (4, 10), "c": (10, 2)},
        None,
    ),
    used(
        "before-and-after",
        lambda p, h: (silu(h @ p["b"]) + jnp.pad(h, ((0, 0), (3, 3)))) @ p["c"],
        {"a": (3, 4), "b": (4, 10), "c": (10, 2)},
        {"a": 4, "b": 6},
    ),
    used(
        "after",
        lambda p, h: (silu(h @ p["b"]) + jnp.pad(h, ((0, 0), (0, 6)))) @ p["c"],
        {"a": (3, 4), "b": (4, 10), "c": (10, 2)},
        {"a": 4, "b": 6},
    ),
    used(
        "zeros-concatenated-on-both-sides",
        lambda p, h: (
            (silu(h @ p["b"]) + jnp.concatenate([jnp.zeros((4, 3)), h, jnp.zeros((4, 3))], -1))
            @ p["c"]
        ),
        {"a": (3, 4), "b": (4, 10), "c": (10, 2)},
        {"a": 4, "b": 6},
    ),
    used(
        "zeros-and-ones-concatenated",
        lambda p, h: (
            (silu(h @ p["b"]) + jnp.concatenate([jnp.zeros((4, 3)), h, jnp.ones((4, 3))], -1))
            @ p["c"]
        ),
        {"a": (3, 4), "b": (4, 10), "c": (10, 2)},
        {"a": 4, "b": 3, "b#2": 3},
    ),
    used(
        "two-values",
        lambda p, h: (
            (silu(h @ p["b"]) + jnp.pad(h, ((0, 0), (3, 3)), constant_values=((0, 0), (1.0, 2.0))))
            @ p["c"]
        ),
        {"a": (3, 4), "b": (4, 10), "c": (10, 2)},
        {"a": 4, "b": 3, "b#2": 3},
    ),
    used(
        "twice",
        lambda p, h: (
            (silu(h @ p["b"]) + jnp.pad(jnp.pad(h, ((0, 0), (3, 0))), ((0, 0), (0, 3)))) @ p["c"]
        ),
        {"a": (3, 4), "b": (4, 10), "c": (10, 2)},
        None,
    ),
    used(
        "negatively",
        lambda p, h: lax.pad(h, 0.0, ((0, 0, 0), (-1, 3, 0))) @ p["b"] + h @ p["c"],
        {"a": (3, 6), "b": (8, 2), "c": (6, 2)},
        {"a": 5, "b": 3},
    ),
    used(
        "negatively-on-both-sides",
        lambda p, h: lax.pad(h, 0.0, ((0, 0, 0), (-2, -1, 0))) @ p["b"] + h @ p["c"],
        {"a": (3, 7), "b": (4, 2), "c": (7, 2)},
        None,
    ),
    used(
        "between-the-entries",
        lambda p, h: lax.pad(h, 0.0, ((0, 0, 0), (0, 0, 1))) @ p["b"] + h @ p["c"],
        {"a": (3, 6), "b": (11, 2), "c": (6, 2)},
        {},
        complete=False,
    ),
    used(
        "round",
        lambda p, h: jnp.pad(h, ((0, 0), (2, 2)), mode="wrap") @ p["b"],
        {"a": (3, 6), "b": (10, 2)},
        {"a": 2, "a#2": 2, "a#3": 2},
    ),
    used(
        "tiled",
        lambda p, h: jnp.tile(h, (1, 2)) @ p["b"],
        {"a": (3, 6), "b": (12, 2)},
        {"a.blocks": 6, "b": 2},
        over={"b": ("b[1]", "a.blocks")},
    ),
    used(
        "repeated",
        lambda p, h: jnp.repeat(h, 2, -1) @ p["b"],
        {"a": (3, 6), "b": (12, 2)},
        {"a.blocks": 6, "b": 2},
        over={"b": ("b[1]", "a.blocks")},
    ),
)


@pytest.mark.parametrize(**table(*PADDED))
def test_padded(case):
    check(case)


def test_padding_is_one_block_of_the_group():
    case = next(case for case in PADDED if case.name == "before-and-after")
    tensors = [tensor for tensor in check(case).tensors if tensor.path == "c"]
    assert {tensor.groups: tensor.index[0] for tensor in tensors} == {
        ("b", None): ((0, 3, 1), (7, 3, 1)),
        ("a", None): ((3, 4, 1),),
    }
