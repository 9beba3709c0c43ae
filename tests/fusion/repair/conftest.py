"""Small networks whose averages want repair."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import average
from jaxfuse.fusion.repair import Merger
from jaxfuse.symmetry import infer_chain

SIZES = (5, 7, 6, 3)
SHARES = [0.4, 0.6]


def mlp(params, x):
    for index, layer in enumerate(params):
        x = x @ layer["kernel"] + layer["bias"][None]
        x = jax.nn.relu(x) if index < len(params) - 1 else x
    return x


def draw(seed):
    rng = np.random.default_rng(seed)
    return [
        {
            "kernel": jnp.asarray(rng.normal(size=pair) / np.sqrt(pair[0]), jnp.float32),
            "bias": jnp.asarray(0.3 * rng.normal(size=pair[1]), jnp.float32),
        }
        for pair in itertools.pairwise(SIZES)
    ]


def as_layers(params):
    return [(np.float64(layer["kernel"]), np.float64(layer["bias"])) for layer in params]


@pytest.fixture(scope="session")
def merger():
    """The average of two unrelated networks, and a batch."""
    parents = (draw(0), draw(1))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(90, SIZES[0])), jnp.float32)
    fused = average(parents, SHARES)
    return Merger(fused, parents, SHARES, infer_chain(fused), mlp, (x,))
