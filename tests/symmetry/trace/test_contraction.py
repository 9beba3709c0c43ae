"""Products of tensors and convolutions."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.symmetry.trace.cases import Case, check, table

silu = jax.nn.silu


def convolution(x, kernel, stride=1, **options):
    options = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
    padding = options.pop("padding")
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, **options)


def two_convolutions(second=convolution, **options):
    def network(p, x):
        h = silu(convolution(x, p["a"]))
        return silu(second(h, p["b"], **options)).mean((1, 2)) @ p["c"]

    return network


def channels_first(p, x):
    numbers = ("NCHW", "OIHW", "NCHW")
    h = convolution(x, p["a"], dimension_numbers=numbers) + p["bias"][None, :, None, None]
    h = silu(convolution(silu(h), p["b"], dimension_numbers=numbers))
    return h.reshape(2, -1) @ p["c"]


def squeeze_and_excite(p, x):
    h = silu(convolution(x, p["a"]))
    gate = jax.nn.sigmoid(silu(h.mean((1, 2)) @ p["s"]) @ p["t"])
    return (h * gate[:, None, None]).mean((1, 2)) @ p["c"]


def channel_shuffle(p, x):
    h = silu(convolution(x, p["a"]))
    h = h.reshape(2, 5, 5, 2, 4).swapaxes(3, 4).reshape(2, 5, 5, 8)
    return convolution(h, p["b"], feature_group_count=2).mean((1, 2)) @ p["c"]


def bilinear_with_itself(p, x):
    h = silu(x @ p["a"])
    return jnp.einsum("bi,ijk,bj->bk", h, p["w"], h)


PRODUCTS = (
    Case(
        "mlp",
        lambda p, x: silu(silu(x @ p["a"] + p["bias"]) @ p["b"]) @ p["c"],
        {"a": (3, 8), "bias": (1, 8), "b": (8, 5), "c": (5, 2)},
        ((4, 3),),
        {"a": 8, "b": 5},
    ),
    Case(
        "output-first-weights",
        lambda p, x: p["b"] @ silu(p["a"] @ x),
        {"a": (8, 3), "b": (2, 8)},
        ((3, 4),),
        {"a": 8},
    ),
    Case(
        "einsum-batch-dimension",
        lambda p, x: jnp.einsum(
            "eno->no",
            jnp.einsum("enf,efo->eno", silu(jnp.einsum("nd,edf->enf", x, p["u"])), p["d"]),
        ),
        {"u": (3, 5, 4), "d": (3, 4, 2)},
        ((6, 5),),
        {"u.blocks": 3, "u": 4},
        {"u": ("u.blocks",)},
    ),
    Case(
        "batched-by-the-input",
        lambda p, x: jnp.einsum("eno,eop->np", silu(jnp.einsum("end,edf->enf", x, p["u"])), p["d"]),
        {"u": (3, 5, 4), "d": (3, 4, 2)},
        ((3, 6, 5),),
        {"u": 4},
        {"u": ("u[0]",)},
    ),
    Case(
        "trace-of-a-product",
        lambda p, x: x * jnp.trace(p["a"] @ p["b"]),
        {"a": (4, 6), "b": (6, 4)},
        ((1, 3),),
        # Finer would be right as well: one order of the six for each of the four.
        {"a": 4, "a#2": 6},
    ),
    Case(
        "bilinear",
        lambda p, x: jnp.einsum("bi,ijk,bj->bk", silu(x @ p["a"]), p["w"], silu(x @ p["b"])),
        {"a": (3, 6), "b": (3, 5), "w": (6, 5, 2)},
        ((4, 3),),
        {"a": 6, "b": 5},
    ),
    Case(
        "bilinear-with-itself",
        bilinear_with_itself,
        {"a": (3, 6), "w": (6, 6, 2)},
        ((4, 3),),
        {"a": 6},
    ),
    Case(
        "low-rank-update",
        lambda p, x: silu(x @ (p["a"] + p["l"] @ p["m"])) @ p["b"],
        {"a": (3, 6), "l": (3, 2), "m": (2, 6), "b": (6, 2)},
        ((4, 3),),
        {"a": 6, "l": 2},
    ),
    Case(
        "tied-autoencoder",
        lambda p, x: silu(x @ p["a"]) @ p["a"].T,
        {"a": (3, 6)},
        ((4, 3),),
        {"a": 6},
    ),
    Case(
        "weight-used-twice-transposed",
        lambda p, x: silu(silu(x @ p["a"]) @ p["w"]) @ p["w"].T @ p["b"],
        {"a": (3, 6), "w": (6, 4), "b": (6, 2)},
        ((4, 3),),
        {"a": 6, "w": 4},
    ),
    Case(
        "graph-convolution",
        lambda p, x, adjacency: adjacency @ (silu(adjacency @ x @ p["a"]) @ p["b"]),
        {"a": (3, 6), "b": (6, 2)},
        ((4, 3), (4, 4)),
        {"a": 6},
    ),
)

CONVOLUTIONS = (
    Case(
        "plain",
        two_convolutions(),
        {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4), "c": (4, 2)},
        ((2, 5, 5, 3),),
        {"a": 6, "b": 4},
    ),
    Case(
        "one-by-one",
        two_convolutions(),
        {"a": (1, 1, 3, 6), "b": (1, 1, 6, 4), "c": (4, 2)},
        ((2, 5, 5, 3),),
        {"a": 6, "b": 4},
    ),
    Case(
        "strided-dilated",
        two_convolutions(stride=2, rhs_dilation=(2, 2)),
        {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4), "c": (4, 2)},
        ((2, 5, 5, 3),),
        {"a": 6, "b": 4},
    ),
    Case(
        "transposed",
        two_convolutions(lambda h, k: lax.conv_transpose(h, k, (2, 2), "SAME")),
        {"a": (3, 3, 3, 6), "b": (3, 3, 6, 4), "c": (4, 2)},
        ((2, 5, 5, 3),),
        {"a": 6, "b": 4},
    ),
    Case(
        "transposed-with-its-kernel",
        two_convolutions(
            lambda h, k: lax.conv_transpose(h, k, (2, 2), "SAME", transpose_kernel=True)
        ),
        {"a": (3, 3, 3, 6), "b": (3, 3, 4, 6), "c": (4, 2)},
        ((2, 5, 5, 3),),
        {"a": 6, "b": 4},
    ),
    Case(
        "grouped",
        two_convolutions(feature_group_count=2),
        {"a": (3, 3, 3, 6), "b": (3, 3, 3, 4), "c": (4, 2)},
        ((2, 5, 5, 3),),
        {"a.blocks": 2, "a": 3, "b": 2},
        {"a": ("a.blocks",), "b": ("a.blocks",)},
    ),
    Case(
        "depthwise",
        two_convolutions(feature_group_count=6),
        {"a": (3, 3, 3, 6), "b": (3, 3, 1, 6), "c": (6, 2)},
        ((2, 5, 5, 3),),
        {"a": 6},
    ),
    Case(
        "depthwise-with-multiplier",
        two_convolutions(feature_group_count=6),
        {"a": (3, 3, 3, 6), "b": (3, 3, 1, 12), "c": (12, 2)},
        ((2, 5, 5, 3),),
        {"a.blocks": 6, "b": 2},
        {"b": ("a.blocks",)},
    ),
    Case(
        "channel-shuffle",
        channel_shuffle,
        {"a": (3, 3, 3, 8), "b": (3, 3, 4, 4), "c": (4, 2)},
        ((2, 5, 5, 3),),
        None,
    ),
    Case(
        "channels-first-flattened",
        channels_first,
        {"a": (6, 3, 3, 3), "bias": (6,), "b": (4, 6, 3, 3), "c": (36, 2)},
        ((2, 3, 3, 3),),
        {"a": 6, "b": 4},
    ),
    Case(
        "channels-last-flattened",
        lambda p, x: silu(convolution(x, p["a"])).reshape(2, -1) @ p["c"],
        {"a": (3, 3, 3, 4), "c": (36, 2)},
        ((2, 3, 3, 3),),
        {"a": 4},
    ),
    Case(
        "squeeze-and-excite",
        squeeze_and_excite,
        {"a": (3, 3, 3, 4), "s": (4, 3), "t": (3, 4), "c": (4, 2)},
        ((2, 5, 5, 3),),
        {"a": 4, "s": 3},
    ),
    Case(
        "one-dimensional",
        lambda p, x: (
            silu(
                lax.conv_general_dilated(
                    x, p["a"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
                )
            ).sum(1)
            @ p["c"]
        ),
        {"a": (3, 3, 6), "c": (6, 2)},
        ((2, 5, 3),),
        {"a": 6},
    ),
)


@pytest.mark.parametrize(**table(*PRODUCTS))
def test_products(case):
    check(case)


@pytest.mark.parametrize(**table(*CONVOLUTIONS))
def test_convolutions(case):
    check(case)


def test_the_taps_and_the_inputs_of_a_convolution_are_pinned():
    symmetry = check(CONVOLUTIONS[0])
    reasons = {name: reason for name, _, reason in symmetry.pinned}
    assert {reasons[f"{leaf}[{axis}]"] for leaf in "ab" for axis in (0, 1)} == {
        "window of a convolution"
    }
    assert reasons["a[2]"] == "input"
    assert reasons["c[1]"] == "output"


def test_a_shuffle_that_fits_the_groups_keeps_part_of_their_order():
    case = next(case for case in CONVOLUTIONS if case.name == "channel-shuffle")
    assert check(case).groups
