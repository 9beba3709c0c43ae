"""Mutual information of units against scikit-learn on the same bins."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.activations import measure_moments, measure_mutual_information
from tests.activations.networks import SAMPLES, chain_networks, chain_params, images
from tests.oracles.activations import mutual_information, relu_network

BINS = 4


@pytest.fixture(scope="module")
def pair():
    params = [chain_params(0, (5,), dead=(2,)), chain_params(1, (4,))]
    return chain_networks(params, images(5, SAMPLES))


@jax.jit
def measure(networks):
    moments = measure_moments(networks, role="input", batch_size=10)
    return measure_mutual_information(networks, moments, role="input", bins=BINS, batch_size=10)


def test_parts_with_a_remainder_equal_scikit_learn(pair):
    (x,) = pair.inputs
    units = [relu_network(params, x)[1][1] for params in pair.params]
    found = measure(pair)["w0"]
    np.testing.assert_allclose(found, mutual_information(*units, BINS), atol=1e-5)
    assert not np.any(found[2])


def test_the_sign_does_not_count(pair):
    params = {**pair.params[0], "b0": jnp.full(5, 50.0)}
    mirrored = {**params, "w0": -params["w0"]}
    twins = dataclasses.replace(
        pair, params=(params, mirrored), symmetries=(pair.symmetries[0],) * 2
    )
    (x,) = twins.inputs
    first, second = (relu_network(each, x)[1][1] for each in twins.params)
    found = measure(twins)["w0"]
    np.testing.assert_allclose(found, mutual_information(first, second, BINS), atol=1e-5)
    # Each unit knows its mirror image best, and that as well as bins allow.
    assert np.all(np.argmax(found, axis=1) == np.arange(5))


def test_what_is_refused(pair):
    moments = measure_moments(pair, role="input", batch_size=10)
    with pytest.raises(ValueError, match="bins must be 2 or more"):
        measure_mutual_information(pair, moments, bins=1)
    one = dataclasses.replace(pair, params=pair.params[:1], symmetries=pair.symmetries[:1])
    with pytest.raises(ValueError, match="of two networks, got 1"):
        measure_mutual_information(one, moments)
