"""FedMA's phases on a residual network, whose stream is written by layers that come later."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfuse.federated import FedMA
from jaxfuse.federated.local import Journey, Start
from jaxfuse.federated.training import Client, Outcome
from jaxfuse.models import CifarResNet, functional
from jaxfuse.models.functional import training_function
from jaxfuse.symmetry import infer_symmetry, permute
from jaxfuse.symmetry.permute import random_permutations


def test_phases_without_training_give_back_the_network_of_permuted_copies(key):
    module = CifarResNet(3, 4, depth=8, width=0.25, rngs=nnx.Rngs(0))
    infer, params = functional(module)
    network = training_function(module)
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    images = jax.random.normal(key, (4, 8, 8, 3))
    symmetry = infer_symmetry(infer, params, images)
    copies = [
        permute(params, symmetry, random_permutations(symmetry, each))
        for each in jax.random.split(key, 3)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *copies)
    weights, statistics = jax.vmap(network.split)(stacked)
    client = Client((), (), weights, statistics, key)

    def stay(start, clients, frozen=None, epochs=None):
        return Outcome(Journey(clients.weights, clients.statistics, jnp.ones(3)), (), jnp.zeros(3))

    start = Start(*network.split(params), (), ())
    shares = jnp.full(3, 1 / 3)
    outcome, kept = FedMA().train(stay, start, client, network, shares, symmetry, key)
    arrived = jax.vmap(network.merge)(outcome.journey.weights, outcome.journey.statistics)
    made = jax.tree.map(lambda leaf: leaf.mean(axis=0), arrived)
    np.testing.assert_allclose(infer(made, images), infer(params, images), rtol=1e-3, atol=1e-3)
    assert float(kept) < 0.9
