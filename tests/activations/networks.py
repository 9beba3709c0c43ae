"""Small networks whose activations the tests know, and copies of them in another order."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.networks import Networks
from jaxfuse.symmetry import infer_symmetry, permute

SAMPLES, INPUTS, OUTPUTS = 23, 3, 2


def chain(params, x):
    """Apply dense layers `w0, b0, w1, b1, ...` with ReLU in between."""
    depth = sum(name.startswith("w") for name in params)
    for layer in range(depth):
        x = x @ params[f"w{layer}"]
        if layer < depth - 1:
            x = jax.nn.relu(x + params[f"b{layer}"][None])
    return x


def chain_params(seed, hidden, inputs=INPUTS, outputs=OUTPUTS, dead=()):
    """Draw a chain whose first hidden layer has dead units where asked."""
    rng, sizes = np.random.default_rng(seed), (inputs, *hidden, outputs)
    params = {}
    for layer, (n, m) in enumerate(itertools.pairwise(sizes)):
        params[f"w{layer}"] = rng.standard_normal((n, m)) / np.sqrt(n)
        if layer < len(hidden):
            params[f"b{layer}"] = 0.3 * rng.standard_normal(m)
    for unit in dead:
        params["b0"][unit] = -100.0
    return {path: jnp.asarray(leaf, jnp.float32) for path, leaf in params.items()}


def chain_networks(params, x, targets=None):
    """Bundle chains, each with its own symmetry."""
    symmetries = tuple(infer_symmetry(chain, each, x) for each in params)
    return Networks(tuple(params), symmetries, (x,), targets, chain)


def planted(params, symmetry, permutations, noise, seed):
    """Return a noisy copy in another order, and per group where each unit of the first went.

    The noise is a share of the median size of the numbers of every leaf.
    """
    rng = np.random.default_rng(seed)

    def blur(leaf):
        drawn = rng.standard_normal(leaf.shape)
        return jnp.asarray(leaf + noise * np.median(np.abs(leaf)) * drawn, leaf.dtype)

    moved = permute(jax.tree.map(blur, params), symmetry, permutations)
    return moved, {group: np.argsort(each, axis=-1) for group, each in permutations.items()}


def images(seed, count, size=INPUTS):
    """Draw inputs."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal((count, size)), jnp.float32)
