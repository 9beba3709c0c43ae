"""Modules of Flax NNX, Flax Linen and Equinox, called as they are."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

from jaxfuse.symmetry import infer_symmetry
from tests.symmetry.trace.cases import normal, prove

X = normal(4, 3)
KEY = jax.random.key(0)


class NnxNetwork(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(3, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.b = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.b(self.dropout(nnx.relu(self.norm(self.a(x)))))


class LinenNetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Dense(6)(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=True)(nn.relu(x)))


@pytest.fixture(autouse=True)
def _allow_rank_promotion():
    """The libraries add biases to batches."""
    with jax.numpy_rank_promotion("allow"):
        yield


def test_nnx_module():
    symmetry = infer_symmetry(NnxNetwork(nnx.Rngs(0)), X)
    assert symmetry.groups == {"a": 6}
    paths = {tensor.path for tensor in symmetry.tensors if "a" in tensor.groups}
    assert paths == {
        "a/kernel",
        "a/bias",
        "b/kernel",
        *(f"norm/{leaf}" for leaf in ("scale", "bias", "mean", "var")),
    }
    assert {t.path for t in symmetry.tensors if t.statistic} == {"norm/mean", "norm/var"}


def test_nnx_attention():
    module = nnx.MultiHeadAttention(4, 6, 8, decode=False, rngs=nnx.Rngs(0))
    symmetry = infer_symmetry(module, normal(2, 3, 6))
    assert symmetry.groups == {"query.blocks": 4, "query": 2, "value": 2}
    assert dict(symmetry.over) == {"query": ("query.blocks",), "value": ("query.blocks",)}


def test_linen_module():
    variables = LinenNetwork().init(KEY, X)
    symmetry = infer_symmetry(LinenNetwork().apply, variables, X)
    assert list(symmetry.groups.values()) == [6]
    prove(symmetry, LinenNetwork().apply, variables, (X,), complete=True)


def test_linen_attention():
    module, x = nn.MultiHeadDotProductAttention(2, qkv_features=8), normal(2, 3, 6)
    variables = module.init(KEY, x)
    symmetry = infer_symmetry(module.apply, variables, x)
    assert sorted(symmetry.groups.values()) == [2, 4, 4]
    prove(symmetry, module.apply, variables, (x,), complete=True)


def test_linen_scan():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.Dense(3)(nn.tanh(nn.Dense(6)(x))), None

    stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)()
    variables = stack.init(KEY, X)
    symmetry = infer_symmetry(lambda v, x: stack.apply(v, x)[0], variables, X)
    ((group, size),) = symmetry.sizes
    assert size == 6
    assert symmetry.shape(group) == (4, 6)
    prove(symmetry, lambda v, x: stack.apply(v, x)[0], variables, (X,))


def test_linen_lstm():
    module, x = nn.RNN(nn.LSTMCell(4)), normal(2, 3, 6)
    variables = module.init(KEY, x)
    symmetry = infer_symmetry(lambda v, x: jnp.sum(module.apply(v, x), -1), variables, x)  # pyright: ignore
    assert list(symmetry.groups.values()) == [4]


def test_equinox_network():
    module = eqx.nn.MLP(3, 2, 6, 2, key=KEY)
    symmetry = infer_symmetry(module, X[0])
    assert symmetry.groups == {"layers/0": 6, "layers/1": 6}
    assert symmetry == infer_symmetry(lambda module, x: module(x), module, X[0])
    assert symmetry == infer_symmetry(lambda module, x: jax.vmap(module)(x), module, X)


def test_equinox_attention():
    module = eqx.nn.MultiheadAttention(2, 8, key=KEY)
    symmetry = infer_symmetry(lambda m, x: m(x, x, x), module, normal(3, 8))
    assert sorted(symmetry.groups.values()) == [2, 4, 4]


def test_equinox_gru():
    params = (eqx.nn.GRUCell(3, 4, key=KEY), normal(4, 2))

    def tagger(params, x):
        cell, readout = params
        return lax.scan(lambda h, row: (cell(row, h), None), jnp.zeros(4), x)[0] @ readout

    assert list(infer_symmetry(tagger, params, normal(5, 3)).groups.values()) == [4]
