"""A small network with biases, its permuted copies, and others of its kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.networks import Networks
from jaxfuse.symmetry import Symmetry, infer_symmetry
from jaxfuse.transport.maps import fuse_maps

INPUTS, OUTPUTS, WIDTHS = 8, 3, (7, 6)
SAMPLES = 100


def mlp(p, x):
    x = jax.nn.relu(x @ p["w0"] + p["b0"][None])
    x = jax.nn.relu(x @ p["w1"] + p["b1"][None])
    return x @ p["w2"] + p["b2"][None]


def hidden(p, x):
    """Return in float64 what both hidden layers compute, before and after the nonlinearity."""
    p = {name: np.float64(leaf) for name, leaf in p.items()}
    first = np.float64(x) @ p["w0"] + p["b0"]
    second = np.maximum(first, 0) @ p["w1"] + p["b1"]
    before = {"w0": first, "w1": second}
    return {"output": before, "input": {n: np.maximum(z, 0) for n, z in before.items()}}


def draw(seed, widths=WIDTHS):
    """Return random weights of sizes that keep activations near one."""
    rng = np.random.default_rng(seed)
    sizes = (INPUTS, *widths, OUTPUTS)
    params = {}
    for layer in range(3):
        n, m = sizes[layer : layer + 2]
        params[f"w{layer}"] = rng.normal(size=(n, m)) * np.sqrt(2 / n)
        params[f"b{layer}"] = 0.5 + 0.3 * rng.normal(size=m)
    return {name: jnp.asarray(leaf, jnp.float32) for name, leaf in params.items()}


def permuted(p, seed):
    """Return a copy whose unit u is the unit `orders[u]` of the network, and the orders."""
    rng = np.random.default_rng(seed)
    first, second = (rng.permutation(len(p[f"b{layer}"])) for layer in range(2))
    copy = {
        "w0": p["w0"][:, first],
        "b0": p["b0"][first],
        "w1": p["w1"][first][:, second],
        "b1": p["b1"][second],
        "w2": p["w2"][second],
        "b2": p["b2"],
    }
    return copy, {"w0": first, "w1": second}


def batch(samples=SAMPLES, seed=99):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(samples, INPUTS)), jnp.float32)


def networks_of(*params, x=None, data=True):
    """Return networks with their symmetry, and a batch."""
    x = batch() if x is None else x
    widths = [tuple(len(p[f"b{layer}"]) for layer in range(2)) for p in params]
    symmetries = tuple(_symmetry(w) for w in widths)
    return Networks(params, symmetries, (x,) if data else (), None, mlp if data else None)


def planted(count, seed=0):
    """Return a network and permuted copies, as networks, with the orders of the copies."""
    first = draw(seed)
    copies = [permuted(first, 10 + k) for k in range(count - 1)]
    return networks_of(first, *(p for p, _ in copies)), [orders for _, orders in copies]


@functools.cache
def _symmetry(widths) -> Symmetry:
    return infer_symmetry(mlp, draw(0, widths), batch(2))


@jax.jit
def fuse(networks, maps):
    """Fuse networks in equal shares."""
    shares = [1 / networks.count] * networks.count
    return fuse_maps(networks.params, networks.symmetries, maps, shares)


def stack(networks):
    """Stack networks of one kind for `vmap`."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)


def matrix(order):
    """Return the map of a copy whose unit u is unit `order[u]`: `[n, n]`, to the first network."""
    return np.eye(len(order))[:, order]
