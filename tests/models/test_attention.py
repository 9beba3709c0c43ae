"""Attention by einsums, rotary embeddings and stacked layers against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfuse.models.attention import (
    attention,
    check_heads,
    grouped_attention,
    repeat_heads,
    rotary,
    stack_layers,
)
from tests.oracles import sequence

CLOSE = {"rtol": 2e-4, "atol": 2e-5}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
def test_attention_agrees_with_the_oracle(causal, biased):
    q, k, v = normal(0, 2, 5, 3, 4), normal(1, 2, 5, 3, 4), normal(2, 2, 5, 3, 4)
    bias = normal(3, 3, 5, 5) if biased else None
    expected = sequence.attention(q, k, v, bias=bias, causal=causal)
    for function in (attention, jax.jit(attention, static_argnames="causal")):
        np.testing.assert_allclose(function(q, k, v, bias=bias, causal=causal), expected, **CLOSE)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize(
    ("groups", "kv"),
    [pytest.param(1, 3, id="plain"), pytest.param(3, 1, id="one-kv"), pytest.param(2, 3, id="gqa")],
)
def test_grouped_attention_equals_attention_with_repeated_heads(groups, kv, causal):
    q = normal(0, 2, 4, groups * kv, 3)
    k, v = normal(1, 2, 4, kv, 3), normal(2, 2, 4, kv, 3)
    repeated = attention(q, repeat_heads(k, groups), repeat_heads(v, groups), causal=causal)
    np.testing.assert_allclose(grouped_attention(q, k, v, causal=causal), repeated, **CLOSE)


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
def test_rotary_products_depend_on_the_distance_alone(interleaved):
    q, k = (jnp.broadcast_to(normal(seed, 1, 1, 1, 6), (1, 9, 1, 6)) for seed in (0, 1))
    q, k = (rotary(x, theta=100.0, interleaved=interleaved) for x in (q, k))
    scores = np.einsum("btd,bsd->ts", q[:, :, 0], k[:, :, 0])
    for distance in range(-8, 9):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-3, atol=1e-4)
    assert np.ptp(scores) > 0.1


def test_both_layouts_of_rotary_agree_up_to_the_order_of_units():
    x = normal(0, 2, 5, 3, 6)
    pairs = jnp.asarray([0, 3, 1, 4, 2, 5])
    rotated = rotary(x)[..., pairs]
    np.testing.assert_allclose(rotary(x[..., pairs], interleaved=True), rotated, **CLOSE)


def test_stacked_layers_keep_their_order():
    layers = [nnx.Linear(2, 2, rngs=nnx.Rngs(seed)) for seed in range(3)]
    stacked = stack_layers(layers)
    for index, layer in enumerate(layers):
        np.testing.assert_array_equal(stacked.kernel[index], layer.kernel[...])


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        pytest.param(lambda: check_heads(10, 3), "3 heads do not divide a width of 10", id="heads"),
        pytest.param(
            lambda: attention(normal(0, 1, 2, 4, 3), *[normal(0, 1, 2, 2, 3)] * 2),
            "use grouped_attention",
            id="attention",
        ),
        pytest.param(lambda: rotary(normal(0, 1, 2, 1, 3)), "even number", id="rotary"),
    ],
)
def test_heads_that_do_not_fit_are_refused(refused, message):
    with pytest.raises(ValueError, match=message):
        refused()
