"""Aggregators: permuted copies of one network, weights, compiled calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfuse.federated import AGGREGATORS, Average, FedMA, Matched, MatchedJointly
from jaxfuse.models import MLP, functional
from jaxfuse.symmetry import infer_symmetry, permute
from jaxfuse.symmetry.permute import random_permutations
from jaxfuse.transport.ot_fusion import OTFusion

APPLY, PARAMS = functional(MLP(5, 3, hidden=(8, 6), bias=True, rngs=nnx.Rngs(0)))
SYMMETRY = infer_symmetry(APPLY, PARAMS, jnp.zeros((2, 5)))
MATCHING = [name for name in AGGREGATORS if name != "average"]


def permuted(count: int, scale: float = 1.0):
    """Return `count` permuted copies of one network, stacked, and the network."""
    params = jax.tree.map(lambda leaf: scale * leaf, PARAMS)
    keys = jax.random.split(jax.random.key(1), count)
    copies = [permute(params, SYMMETRY, random_permutations(SYMMETRY, key)) for key in keys]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *copies), params


def outputs(params):
    return APPLY(params, jax.random.normal(jax.random.key(2), (16, 5)))


@pytest.mark.parametrize("name", MATCHING)
def test_permuted_copies_of_one_network_give_that_network(name, key):
    # FedMA's prior wants units that are far from zero.
    clients, params = permuted(3, scale=10.0 if name == "fedma" else 1.0)
    anchor = jax.tree.map(lambda leaf: leaf[0], clients)
    shares = jnp.array([0.5, 0.2, 0.3])
    made = jax.jit(AGGREGATORS[name].aggregate, static_argnums=3)(
        clients, shares, anchor, SYMMETRY, key
    )
    assert jax.tree.structure(made.params) == jax.tree.structure(anchor)
    np.testing.assert_allclose(outputs(made.params), outputs(params), rtol=1e-3, atol=1e-3)
    assert float(made.kept) < 1 or np.isnan(float(made.kept))


def test_their_average_is_another_network(key):
    clients, params = permuted(3)
    anchor = jax.tree.map(lambda leaf: leaf[0], clients)
    made = Average().aggregate(clients, jnp.full(3, 1 / 3), anchor, SYMMETRY, key)
    assert not np.allclose(outputs(made.params), outputs(params), rtol=0.1, atol=0.1)
    assert float(made.kept) == 1


@pytest.mark.parametrize("name", MATCHING)
def test_copies_of_the_anchor_stay(name, key):
    clients = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), PARAMS)
    made = AGGREGATORS[name].aggregate(clients, jnp.array([0.5, 0.5]), PARAMS, SYMMETRY, key)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6),
        made.params,
        PARAMS,
    )
    if name != "ot_fusion":
        assert float(made.kept) == pytest.approx(1)


@pytest.mark.parametrize("name", ["average", "matched", "gamf_many", "ot_fusion"])
def test_a_share_of_zero_leaves_a_client_out(name, key):
    clients, _ = permuted(2)
    others = jax.tree.map(lambda leaf: leaf.at[1].set(7.0), clients)
    anchor = jax.tree.map(lambda leaf: leaf[0], clients)
    made = AGGREGATORS[name].aggregate(others, jnp.array([1.0, 0.0]), anchor, SYMMETRY, key)
    np.testing.assert_allclose(outputs(made.params), outputs(anchor), rtol=1e-4, atol=1e-4)


def test_the_average_is_weighted_and_keeps_dtypes(key):
    clients = {"w": jnp.array([[0.0], [1.0]], jnp.bfloat16), "n": jnp.array([3, 4])}
    made = Average().aggregate(clients, jnp.array([0.25, 0.75]), None, None, key).params
    assert made["w"].dtype == jnp.bfloat16
    assert float(made["w"][0]) == 0.75
    assert int(made["n"]) == 3


def test_layers_without_hidden_units_have_all_kept(key):
    clients = {"0": jnp.ones((2, 3, 2))}
    symmetry = infer_symmetry(lambda p, x: x @ p["0"], {"0": jnp.ones((3, 2))}, jnp.ones((1, 3)))
    made = Matched().aggregate(clients, jnp.full(2, 0.5), {"0": jnp.ones((3, 2))}, symmetry, key)
    assert float(made.kept) == 1


def test_settings_are_refused_and_instances_compare():
    with pytest.raises(ValueError, match="retrain_epochs"):
        FedMA(retrain_epochs=0)
    with pytest.raises(ValueError, match="symmetry"):
        FedMA().aggregate({"w": jnp.ones((2, 1))}, jnp.ones(2), None, None, jax.random.key(0))
    assert Matched(OTFusion()) == AGGREGATORS["ot_fusion"]
    assert hash(MatchedJointly()) == hash(AGGREGATORS["gamf_many"])
