"""Reshape, transpose and broadcast."""

import jax
import jax.numpy as jnp
import pytest

from tests.symmetry.trace.cases import Case, check, table
from tests.symmetry.trace.test_contraction import convolution

silu = jax.nn.silu


def cross_product(p, x):
    h = silu(x @ p["a"])
    return (h[:, :, None] * h[:, None, :]).reshape(len(x), -1) @ p["b"]


def pixel_shuffle(p, x):
    h = silu(convolution(x, p["a"])).reshape(2, 3, 3, 2, 2, 2)
    return h.transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 6, 2).mean((1, 2)) @ p["c"]


def space_to_depth(p, x):
    h = silu(convolution(x, p["a"])).reshape(2, 2, 2, 2, 2, 4)
    return h.transpose(0, 1, 3, 2, 4, 5).reshape(2, 2, 2, 16) @ p["c"]


def hypernetwork(p, x):
    kernel = (silu(x @ p["g"]) @ p["h"]).reshape(len(x), 3, 6)
    return silu(jnp.einsum("bi,bij->bj", x, kernel)) @ p["b"]


CASES = (
    Case(
        "split-in-blocks-and-joined",
        lambda p, x: silu(x @ p["a"]).reshape(4, 3, 4).max(-1) @ p["b"],
        {"a": (3, 12), "b": (3, 2)},
        ((4, 3),),
        {"a.blocks": 3, "a": 4},
        {"a": ("a.blocks",)},
    ),
    Case(
        "maximum-over-the-outer-blocks",
        lambda p, x: silu(x @ p["a"]).reshape(4, 3, 4).max(1) @ p["b"],
        {"a": (3, 12), "b": (4, 2)},
        ((4, 3),),
        {"a.blocks": 4, "a": 3},
        {"a": ("a.blocks",)},
    ),
    Case(
        "there-and-back",
        lambda p, x: silu(x @ p["a"]).reshape(4, 3, 4).reshape(4, 12) @ p["b"],
        {"a": (3, 12), "b": (12, 2)},
        ((4, 3),),
        None,
    ),
    Case(
        "blocks-of-blocks",
        lambda p, x: (
            jnp.tanh(silu(x @ p["a"]).reshape(4, 2, 6).sum(1)).reshape(4, 3, 2).sum(2) @ p["b"]
        ),
        {"a": (3, 12), "b": (3, 2)},
        ((4, 3),),
        {"a.blocks": 3, "a.blocks#2": 2, "a": 2},
        {"a.blocks#2": ("a.blocks",), "a": ("a.blocks", "a.blocks#2")},
    ),
    Case(
        "other-blocks-there-and-back",
        lambda p, x: jnp.tanh(silu(x @ p["a"]).reshape(4, 3, 4)).reshape(4, 4, 3).sum(1) @ p["b"],
        {"a": (3, 12), "b": (3, 2)},
        ((4, 3),),
        {},
        complete=False,
    ),
    Case(
        "transposed-blocks",
        lambda p, x: silu(x @ p["a"]).reshape(4, 3, 4).swapaxes(1, 2).reshape(4, 12) @ p["b"],
        {"a": (3, 12), "b": (12, 2)},
        ((4, 3),),
        None,
    ),
    Case(
        "cross-product-with-itself",
        cross_product,
        {"a": (3, 6), "b": (36, 2)},
        ((4, 3),),
        {"a": 6},
    ),
    Case(
        "outer-product-of-two",
        lambda p, x: (
            (silu(x @ p["a"])[:, :, None] * jnp.tanh(x @ p["g"])[:, None]).reshape(4, -1) @ p["b"]
        ),
        {"a": (3, 6), "g": (3, 5), "b": (30, 2)},
        ((4, 3),),
        {"a": 6, "g": 5},
    ),
    Case(
        "pixel-shuffle",
        pixel_shuffle,
        {"a": (3, 3, 3, 8), "c": (2, 2)},
        ((2, 3, 3, 3),),
        None,
    ),
    Case(
        "space-to-depth",
        space_to_depth,
        {"a": (3, 3, 3, 4), "c": (16, 2)},
        ((2, 4, 4, 3),),
        {"a": 4},
    ),
    Case(
        "hypernetwork",
        hypernetwork,
        {"g": (3, 5), "h": (5, 18), "b": (6, 2)},
        ((4, 3),),
        {"g": 5, "h": 6},
    ),
    Case(
        "batch-and-hidden-mixed-by-reshape",
        lambda p, x: silu(x @ p["a"]).T.reshape(4, 6) @ p["b"],
        {"a": (3, 6), "b": (6, 2)},
        ((4, 3),),
        {},
    ),
    Case(
        "broadcast-over-new-axes",
        lambda p, x: (silu(x @ p["a"])[:, None] * p["s"][None]).sum(1) @ p["b"],
        {"a": (3, 6), "s": (2, 6), "b": (6, 2)},
        ((4, 3),),
        {"a.blocks": 6, "s": 2},
        {"s": ("a.blocks",)},
    ),
    Case(
        "expanded-and-squeezed",
        lambda p, x: jnp.squeeze(silu(x @ p["a"])[:, None, :, None], (1, 3)) @ p["b"],
        {"a": (3, 6), "b": (6, 2)},
        ((4, 3),),
        {"a": 6},
    ),
)


def in_blocks(h, scale, blocks):
    return (h.reshape(len(h), blocks, -1) * scale).reshape(h.shape)


def square_after_blocks(p, x):
    h = jnp.concatenate([x @ p["a"], jnp.tanh(x @ p["b"])], -1)
    h = in_blocks(h, p["s"], 2)
    return (h + jnp.tanh(h) @ p["w"]) @ p["out"]


def square_after_blocks_of_padding(p, x):
    h = in_blocks(jnp.pad(x @ p["a"], ((0, 0), (2, 2))), p["s"], 2)
    return (h + jnp.tanh(h) @ p["w"]) @ p["out"]


def scaled_inside_blocks(p, x):
    h = x @ p["a"]
    h = jnp.concatenate([h[:, 4:], jnp.tanh(h[:, :4])], -1)
    return in_blocks(h, p["s"], 4) @ p["out"]


def normalised_in_other_blocks(p, x):
    h = x @ p["a"]
    h = jnp.concatenate([h[:, 4:], jnp.tanh(h[:, :4])], -1)
    h = in_blocks(h, p["s"], 4).reshape(len(x), 2, -1)
    return jax.nn.softmax(h).reshape(len(x), -1) @ p["out"]


def first_apart_in_blocks(p, x):
    h = x @ p["a"]
    return in_blocks(h * jnp.tanh(h[:, :1]), p["s"], 4) @ p["out"]


SUMS_IN_BLOCKS = (
    Case(
        "square-kernel",
        square_after_blocks,
        {"a": (5, 4), "b": (5, 4), "s": (1, 2, 1), "w": (8, 8), "out": (8, 2)},
        ((3, 5),),
        {"a": 4, "b": 4},
    ),
    Case(
        "square-kernel-and-padding",
        square_after_blocks_of_padding,
        {"a": (5, 8), "s": (1, 2, 1), "w": (12, 12), "out": (12, 2)},
        ((3, 5),),
        None,
    ),
    Case(
        "scaled-inside",
        scaled_inside_blocks,
        {"a": (5, 8), "s": (1, 1, 2), "out": (8, 2)},
        ((3, 5),),
        None,
    ),
    Case(
        "normalised-in-other-blocks",
        normalised_in_other_blocks,
        {"a": (5, 8), "s": (1, 1, 2), "out": (8, 2)},
        ((3, 5),),
        None,
    ),
    Case(
        "first-apart",
        first_apart_in_blocks,
        {"a": (5, 8), "s": (1, 1, 2), "out": (8, 2)},
        ((3, 5),),
        None,
    ),
)


@pytest.mark.parametrize(**table(*SUMS_IN_BLOCKS))
def test_direct_sums_viewed_in_blocks(case):
    check(case)


@pytest.mark.parametrize(**table(*CASES))
def test_layout(case):
    check(case)


def test_a_cross_product_lies_twice_on_one_axis():
    case = next(case for case in CASES if case.name == "cross-product-with-itself")
    tensor = next(tensor for tensor in check(case).tensors if tensor.path == "b")
    assert tensor.shape == (6, 6, 2)
    assert tensor.groups == ("a", "a", None)
