"""The function for other engines: named NumPy arrays in and out."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from jaxfuse.federated import aggregate
from jaxfuse.models import MLP, functional

APPLY, PARAMS = functional(MLP(4, 3, hidden=(8,), rngs=nnx.Rngs(0)))
ONE = {name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(PARAMS, sep="/").items()}
ORDER = np.random.default_rng(0).permutation(8)
OTHER = {
    "dense/0/kernel": ONE["dense/0/kernel"][:, ORDER],
    "dense/1/kernel": ONE["dense/1/kernel"][ORDER],
}


@pytest.mark.parametrize("method", ["matched", "ot_fusion", "gamf_many"])
def test_permuted_copies_give_the_network_and_their_average_does_not(method):
    made = aggregate([ONE, OTHER], method=method, apply_fn=APPLY, inputs=jnp.zeros((1, 4)))
    assert made.refused == {}
    for name, array in made.arrays.items():
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(array, ONE[name], rtol=1e-5, atol=1e-5)
    average = aggregate([ONE, OTHER], method="average").arrays
    assert not np.allclose(average["dense/0/kernel"], ONE["dense/0/kernel"], atol=0.1)


def test_weights_of_those_that_are_left_count(caplog):
    ones, twos = ({name: np.full_like(a, v) for name, a in ONE.items()} for v in (1, 2))
    broken = {name: np.full_like(a, np.inf) for name, a in ONE.items()}
    wrong = {**ONE, "dense/0/kernel": ONE["dense/0/kernel"].T}
    missing = {"dense/0/kernel": ONE["dense/0/kernel"]}
    with caplog.at_level(logging.WARNING, logger="jaxfuse"):
        made = aggregate(
            [broken, ones, wrong, twos, missing], [9, 1, 9, 3, 9], method="average", anchor=ONE
        )
    np.testing.assert_allclose(made.arrays["dense/0/kernel"], 1.75)
    assert sorted(made.refused) == [0, 2, 4]
    assert "finite" in made.refused[0]
    assert "(8, 4)" in made.refused[2]
    assert "missing" in made.refused[4]
    assert "client 2 is left out" in caplog.text


def test_units_are_matched_to_the_anchor():
    made = aggregate([OTHER], anchor=ONE)
    np.testing.assert_allclose(made.arrays["dense/0/kernel"], ONE["dense/0/kernel"], rtol=1e-6)
    assert made.kept < 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least one client"):
        aggregate([])
    with pytest.raises(ValueError, match="got 1 weights for 2 clients"):
        aggregate([ONE, OTHER], [1.0])
    with pytest.raises(ValueError, match="no client is usable"):
        aggregate([{name: a * np.nan for name, a in ONE.items()}])
    with pytest.raises(ValueError, match="method='fedprox' is none of"):
        aggregate([ONE], method="fedprox")


def test_without_an_anchor_the_majority_decides_what_fits():
    odd = {name: np.zeros((2, 2), np.float32) for name in ONE}
    made = aggregate([odd, ONE, OTHER], apply_fn=APPLY, inputs=jnp.zeros((1, 4)))
    assert sorted(made.refused) == [0]


def test_dtypes_are_those_of_the_global_network():
    half = {name: a.astype(jnp.bfloat16) for name, a in ONE.items()}
    made = aggregate([ONE, ONE], method="average", anchor=half)
    assert all(a.dtype == jnp.bfloat16 for a in made.arrays.values())
    assert jax.tree.leaves(made.refused) == []
