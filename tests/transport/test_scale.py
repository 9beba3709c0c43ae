import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import Status
from jaxfuse.matching import CoordinateAscent
from jaxfuse.networks import Networks
from jaxfuse.symmetry import Symmetry, infer_symmetry
from jaxfuse.transport.maps import map_params
from jaxfuse.transport.scale import ScaleAlignment, balance_scales
from tests.symmetry.nested import draw, on_device

SHAPES = {
    "conv/kernel": (3, 3, 2, 4),
    "conv/bias": (4,),
    "stem/kernel": (16, 5),
    "stem/bias": (5,),
    "up/kernel": (5, 6),
    "up/bias": (6,),
    "down/kernel": (6, 5),
    "head/kernel": (5, 3),
    "head/bias": (3,),
}
AXES = {
    "conv/kernel": (None, None, None, "c"),
    "conv/bias": ("c",),
    "stem/kernel": ((4, "c"), "r"),
    "stem/bias": ("r",),
    "up/kernel": ("r", "h"),
    "up/bias": ("h",),
    "down/kernel": ("h", "r"),
    "head/kernel": ("r", None),
}
METHOD = ScaleAlignment(solver=CoordinateAscent())


def network(p, x, activation=jax.nn.relu):
    """Convolve, pool, flatten and pass a residual block, all with ReLU and biases."""
    x = jax.lax.conv_general_dilated(
        x, p["conv/kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = activation(x + p["conv/bias"][None, None, None])
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = activation(x.reshape(len(x), -1) @ p["stem/kernel"] + p["stem/bias"][None])
    x = x + activation(x @ p["up/kernel"] + p["up/bias"][None]) @ p["down/kernel"]
    return activation(x) @ p["head/kernel"] + p["head/bias"][None]


move = jax.jit(map_params)
run = jax.jit(network)
balance = jax.jit(functools.partial(balance_scales))


def random_maps(symmetry, seed):
    """Return scaled permutations."""
    rng = np.random.default_rng(seed)
    to, back = {}, {}
    for group, n in symmetry.sizes:
        permutation = np.eye(n, dtype=np.float32)[rng.permutation(n)]
        scales = np.float32(np.exp(rng.standard_normal(n)))
        to[group] = permutation * scales[:, None]
        back[group] = (permutation / scales[:, None]).T
    return to, back


@pytest.fixture(scope="module")
def planted():
    """A network, and two that are scaled and permuted."""
    a = on_device(draw(SHAPES, 0))
    symmetry = Symmetry.from_axes(AXES, a)
    others = [move(a, symmetry, *random_maps(symmetry, seed)) for seed in (1, 2)]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 4, 4, 2)), jnp.float32)
    networks = Networks((a, *others), (symmetry,) * 3, (x,), None, network)
    return networks, METHOD.align(networks)


def test_planted_scales_and_orders_are_found(planted):
    networks, found = planted
    a, *others = networks.params
    (x,) = networks.inputs
    np.testing.assert_allclose(run(others[0], x), run(a, x), rtol=1e-3, atol=1e-3)
    for k, other in enumerate(others, start=1):
        moved = move(other, networks.symmetry, *found.maps.of(k))
        for path, leaf in moved.items():
            np.testing.assert_allclose(leaf, a[path], rtol=1e-3, atol=1e-4, err_msg=path)
        for node, (to, back) in {
            node: (found.maps.to[node][k], found.maps.back[node][k]) for node in found.maps.to
        }.items():
            np.testing.assert_allclose(to @ back, np.eye(len(to)), atol=1e-5, err_msg=node)
    np.testing.assert_array_equal(found.maps.to["r"][0], np.eye(5))


def test_equal_networks_stay(planted):
    networks, _ = planted
    found = METHOD.align(dataclasses.replace(networks, params=(networks.params[0],) * 3))
    assert found.status == Status.ALREADY_ALIGNED
    for node, maps in found.maps.to.items():
        for matrix in maps:
            np.testing.assert_allclose(matrix, np.eye(len(matrix)), atol=1e-6, err_msg=node)


def norms(params):
    """Return per group the norms of what computes and of what takes each unit."""
    p = {path: np.float64(leaf) ** 2 for path, leaf in params.items()}
    taken = p["stem/kernel"].reshape(4, 4, 5).sum((0, 2))
    incoming = {
        "c": p["conv/kernel"].sum((0, 1, 2)) + p["conv/bias"],
        "r": p["stem/kernel"].sum(0) + p["stem/bias"] + p["down/kernel"].sum(0),
        "h": p["up/kernel"].sum(0) + p["up/bias"],
    }
    outgoing = {
        "c": taken,
        "r": p["up/kernel"].sum(1) + p["head/kernel"].sum(1),
        "h": p["down/kernel"].sum(1),
    }
    return incoming, outgoing


def test_balance_makes_the_norms_equal(planted):
    networks, _ = planted
    symmetry = networks.symmetry
    balanced = []
    for params in networks.params[:2]:
        scales = balance(params, symmetry)
        up = {node: jnp.diag(each) for node, each in scales.items()}
        down = {node: jnp.diag(1 / each) for node, each in scales.items()}
        balanced.append(move(params, symmetry, up, down))
        incoming, outgoing = norms(balanced[-1])
        for group in symmetry.groups:
            np.testing.assert_allclose(incoming[group], outgoing[group], rtol=1e-3)
    # The scaled network has the same balance, in its own order.
    first, second = (np.sort(np.abs(each["up/kernel"]).ravel()) for each in balanced)
    np.testing.assert_allclose(first, second, rtol=1e-3)


@pytest.fixture(scope="module")
def plain():
    """Two networks of one hidden layer."""
    pair = [on_device(draw({"in": (4, 3), "out": (3, 2)}, seed)) for seed in (0, 5)]
    symmetry = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, pair[0])
    return Networks(tuple(pair), (symmetry, symmetry))


def test_one_layer_has_the_closed_form(plain):
    found = METHOD.align(plain)
    matrix = np.asarray(found.maps.to["h"][1])
    order = matrix.argmax(1)
    (in_0, out_0), (in_1, out_1) = (
        (np.linalg.norm(p["in"], axis=0), np.linalg.norm(p["out"], axis=1)) for p in plain.params
    )
    expected = np.sqrt(in_0 * out_1[order] / (out_0 * in_1[order]))
    np.testing.assert_allclose(matrix[np.arange(3), order], expected, rtol=1e-4)
    again = jax.jit(METHOD.align)(plain)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, again)


def test_dead_units_keep_their_scale():
    params = {"in": jnp.zeros((2, 3)).at[:, 0].set(4.0), "out": jnp.ones((3, 2)).at[2].set(0.0)}
    symmetry = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, params)
    np.testing.assert_allclose(balance(params, symmetry)["h"], [0.5, 1, 1], rtol=1e-5)


def test_units_of_a_loop_are_balanced():
    params = on_device(draw({"x": (3, 4), "h": (4, 4), "out": (4, 2)}, 3))
    axes = {"x": (None, "h"), "h": ("h", "h"), "out": ("h", None)}
    symmetry = Symmetry.from_axes(axes, params)
    s = np.float64(balance(params, symmetry)["h"])
    x, h, out = (np.float64(params[path]) for path in ("x", "h", "out"))
    h = h / s[:, None] * s[None]
    incoming = ((x * s[None]) ** 2).sum(0) + (h**2).sum(0)
    outgoing = ((out / s[:, None]) ** 2).sum(1) + (h**2).sum(1)
    np.testing.assert_allclose(incoming, outgoing, rtol=1e-3)


def test_scales_that_change_the_function_are_refused(plain):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 4)), jnp.float32)
    data = dataclasses.replace(plain, inputs=(x,))
    relu, smooth = (
        dataclasses.replace(data, apply_fn=lambda p, x, f=f: f(x @ p["in"]) @ p["out"])
        for f in (jax.nn.relu, jax.nn.gelu)
    )
    METHOD.align(relu)
    with pytest.raises(
        ValueError, match=r"ScaleAlignment: the maps of network 1 change .* groups="
    ):
        METHOD.align(smooth)
    with pytest.raises(ValueError, match="no group matches 'x'"):
        ScaleAlignment(groups=("x",)).align(plain)


def test_linear_units_of_heads_are_scaled_and_others_left():
    def attention(p, x):
        q, k, v = ((x @ p[name]).reshape(2, 3, 2, 2) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bqhu,bkhu->bhqk", q, k), -1)
        return jnp.einsum("bhqk,bkhu->bqhu", weights, v).reshape(2, 3, 4) @ p["o"]

    shapes = {"q": (5, 4), "k": (5, 4), "v": (5, 4), "o": (4, 5)}
    params = on_device(draw(shapes, 0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5)), jnp.float32)
    symmetry = infer_symmetry(attention, params, x)
    scales = balance(params, symmetry)
    qk, vo = (next(t.groups[-1] for t in symmetry.tensors if t.path == path) for path in "qv")
    np.testing.assert_array_equal(scales[qk], 1)
    assert np.ptp(scales[vo]) > 0.1
    up = {node: jnp.diag(each) for node, each in scales.items()}
    down = {node: jnp.diag(1 / each) for node, each in scales.items()}
    moved = map_params(params, symmetry, up, down)
    np.testing.assert_allclose(attention(moved, x), attention(params, x), rtol=1e-4, atol=1e-5)
