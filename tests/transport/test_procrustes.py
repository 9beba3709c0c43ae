import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxfuse import Status
from jaxfuse.matching import FrankWolfe
from jaxfuse.networks import Networks
from jaxfuse.symmetry import Symmetry
from jaxfuse.transport.maps import map_params
from jaxfuse.transport.procrustes import Procrustes
from tests.symmetry.nested import NETWORKS, draw, on_device

STREAM, INNER, HEADS, UNITS = 6, 5, 3, 2
FLAT = HEADS * UNITS
SHAPES = {
    "in": (7, STREAM),
    "bias": (STREAM,),
    "up": (STREAM, INNER),
    "up_bias": (INNER,),
    "down": (INNER, STREAM),
    "q": (STREAM, FLAT),
    "k": (STREAM, FLAT),
    "v": (STREAM, FLAT),
    "o": (FLAT, STREAM),
    "out": (STREAM, 8),
}
AXES = {
    "in": (None, "r"),
    "bias": ("r",),
    "up": ("r", "h"),
    "up_bias": ("h",),
    "down": ("h", "r"),
    "q": ("r", ("heads", "qk")),
    "k": ("r", ("heads", "qk")),
    "v": ("r", ("heads", "vo")),
    "o": (("heads", "vo"), "r"),
    "out": ("r", None),
}
METHOD = Procrustes(groups=("r", "qk", "vo"))


def network(p, x):
    """Attend and pass an MLP on a residual stream whose norm has no scale."""
    x = x @ p["in"] + p["bias"][None, None]
    h = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
    q, k, v = ((h @ p[name]).reshape(*x.shape[:2], HEADS, UNITS) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bqhu,bkhu->bhqk", q, k), -1)
    mixed = jnp.einsum("bhqk,bkhu->bqhu", weights, v)
    x = x + mixed.reshape(*x.shape[:2], FLAT) @ p["o"]
    x = x + jax.nn.gelu(x @ p["up"] + p["up_bias"][None, None]) @ p["down"]
    return x @ p["out"]


def symmetry_of(params):
    sized = {**params, "gate": jnp.zeros((HEADS, UNITS, UNITS))}
    sizes = {"gate": ("heads", "qk", "vo")}
    spec = Symmetry.from_axes(AXES | sizes, sized)
    tensors = tuple(t for t in spec.tensors if t.path != "gate")
    return dataclasses.replace(spec, tensors=tensors, over=(("qk", ("heads",)), ("vo", ("heads",))))


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def random_maps(symmetry, seed):
    """Return orthogonal maps of the stream and of heads, and permutations, per node."""
    rng = np.random.default_rng(seed)
    heads = np.eye(HEADS)[rng.permutation(HEADS)]
    to = {"r": orthogonal(rng, STREAM), "h": np.eye(INNER)[rng.permutation(INNER)], "heads": heads}
    for name in ("qk", "vo"):
        blocks = [orthogonal(rng, UNITS) for _ in range(HEADS)]
        to[name] = scipy.linalg.block_diag(*blocks) @ np.kron(heads, np.eye(UNITS))
    to = {node: jnp.asarray(matrix, jnp.float32) for node, matrix in to.items()}
    return to, {node: matrix.T for node, matrix in to.items()}


move = jax.jit(map_params)
run = jax.jit(network)


@functools.partial(jax.jit, static_argnums=0)
def align(method, networks):
    return method.align(networks)


@pytest.fixture(scope="module")
def planted():
    """A network and two that compute the same in rotated and permuted units."""
    a = on_device(draw(SHAPES, 0))
    symmetry = symmetry_of(a)
    others = [move(a, symmetry, *random_maps(symmetry, seed)) for seed in (1, 2)]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 7)), jnp.float32)
    networks = Networks((a, *others), (symmetry,) * 3, (x,), None, network)
    return networks, METHOD.align(networks)


def test_planted_rotations_are_found(planted):
    networks, found = planted
    a, *others = networks.params
    (x,) = networks.inputs
    np.testing.assert_allclose(run(others[0], x), run(a, x), rtol=1e-3, atol=1e-3)
    assert found.status == Status.CONVERGED
    for k, other in enumerate(others, start=1):
        to, back = found.maps.of(k)
        for node, matrix in to.items():
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-5)
            np.testing.assert_array_equal(back[node], matrix.T)
        moved = move(other, networks.symmetry, to, back)
        for path, leaf in moved.items():
            np.testing.assert_allclose(leaf, a[path], atol=1e-3, err_msg=path)
    assert np.all(np.diff(found.trace) >= -1e-3)
    squares = sum(float(jnp.sum(leaf**2)) for leaf in a.values())
    np.testing.assert_allclose(found.objective, 2 * squares, rtol=1e-4)


def test_equal_networks_stay(planted):
    networks, _ = planted
    same = dataclasses.replace(networks, params=(networks.params[0],) * 3)
    found = METHOD.align(same)
    assert found.status == Status.ALREADY_ALIGNED
    for maps in found.maps.to.values():
        for matrix in maps:
            np.testing.assert_array_equal(matrix, np.eye(len(matrix)))


@pytest.fixture(scope="module")
def plain():
    """Two networks of one rotated layer, with nothing to permute."""
    pair = [on_device(draw({"in": (7, 5), "out": (5, 8)}, seed)) for seed in range(2)]
    symmetry = Symmetry.from_axes({"in": (None, "r"), "out": ("r", None)}, pair[0])
    return Networks(tuple(pair), (symmetry, symmetry))


def test_one_layer_is_procrustes_problem(plain):
    a, b = plain.params
    found = align(Procrustes(groups=("r*",)), plain)
    stacked = [np.hstack([np.float64(p["in"]).T, np.float64(p["out"])]) for p in (a, b)]
    # SciPy minimises |X R - Y|, with the units as columns.
    rotation, value = scipy.linalg.orthogonal_procrustes(stacked[1].T, stacked[0].T)
    np.testing.assert_allclose(found.maps.to["r"][1], rotation.T, atol=1e-4)
    np.testing.assert_allclose(found.objective, value, rtol=1e-5)
    eager = Procrustes(groups=("r*",)).align(plain)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, eager)


def test_vmap_is_a_loop(plain):
    method = Procrustes(groups=("r",))
    others = [on_device(draw({"in": (7, 5), "out": (5, 8)}, seed)) for seed in (2, 3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *others)

    def solve(b):
        return method.align(dataclasses.replace(plain, params=(plain.params[0], b))).maps.to["r"][1]

    batch = jax.jit(jax.vmap(solve))(stacked)
    for index, other in enumerate(others):
        np.testing.assert_allclose(batch[index], solve(other), atol=1e-4)


def test_without_groups_all_is_permuted(plain):
    found = Procrustes(permutations=FrankWolfe()).align(plain)
    matrix = np.asarray(found.maps.to["r"][1])
    np.testing.assert_array_equal(np.sort(matrix, axis=1)[:, -1], 1)
    np.testing.assert_array_equal(matrix.sum(0), 1)


def test_what_cannot_be_rotated_is_refused(planted, plain):
    networks, _ = planted
    with pytest.raises(ValueError, match="no group matches 'stream'"):
        Procrustes(groups=("stream",)).align(plain)
    with pytest.raises(ValueError, match=r"entries of 'heads' index the units of 'qk'"):
        Procrustes(groups=("heads",)).align(networks)
    params = {**plain.params[0], "scale": jnp.ones(5)}
    axes = {"in": (None, "r"), "scale": ("r",), "out": ("r", None)}
    scaled = Symmetry.from_axes(axes, params)
    with pytest.raises(ValueError, match=r"'scale' looks like a scale.*fold it"):
        Procrustes(groups=("r",)).align(Networks((params, params), (scaled, scaled)))
    shapes, symmetry = NETWORKS["recurrent"]()
    cell = on_device(draw(shapes, 0))
    with pytest.raises(ValueError, match=r"joins .* with one another"):
        Procrustes(groups=("h",)).align(Networks((cell, cell), (symmetry, symmetry)))
    wide = on_device(draw({"in": (7, 6), "out": (6, 8)}, 0))
    other = Symmetry.from_axes({"in": (None, "r"), "out": ("r", None)}, wide)
    with pytest.raises(ValueError, match="5 units in network 0 and 6 in network 1"):
        Procrustes().align(Networks((plain.params[0], wide), (plain.symmetry, other)))


def test_maps_that_change_the_function_are_refused(plain):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((9, 7)), jnp.float32)

    def relu(p, x):
        return jax.nn.relu(x @ p["in"]) @ p["out"]

    networks = dataclasses.replace(plain, inputs=(x,), apply_fn=relu)
    with pytest.raises(ValueError, match=r"Procrustes: the maps of network 1 change its outputs"):
        Procrustes(groups=("r",)).align(networks)
