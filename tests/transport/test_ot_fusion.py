import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import Status, hungarian
from jaxfuse.networks import Networks
from jaxfuse.symmetry import Symmetry, infer_chain, infer_symmetry, permute
from jaxfuse.transport.incoming import describe_units, order_nodes
from jaxfuse.transport.maps import fuse_maps, map_params
from jaxfuse.transport.ot_fusion import OTFusion
from tests.oracles.transport import distances, entropic_plan, importance, ot_chain
from tests.symmetry.nested import NETWORKS, draw, on_device

WIDTHS = (6, 5, 4, 3)


def chain(seed, widths=WIDTHS):
    """Return kernels `[in, out]` of a chain without biases."""
    rng = np.random.default_rng(seed)
    shapes = itertools.pairwise(widths)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def networks_of(*params):
    return Networks(tuple(params), tuple(infer_chain(p) for p in params))


def transposed(params):
    return [np.float64(kernel).T for kernel in params]


@functools.partial(jax.jit, static_argnums=0)
def align(method, networks):
    return method.align(networks)


def fuse(networks, maps, *weights):
    weights = weights or (1 / networks.count,) * networks.count
    return fuse_maps(networks.params, networks.symmetries, maps, weights)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (OTFusion(marginals="importance"), {"masses": importance}),
        (
            OTFusion(marginals="importance", inputs="average"),
            {"masses": importance, "average": True},
        ),
    ],
)
@pytest.mark.parametrize("widths", [WIDTHS, (6, 3, 7, 3)])
def test_fusion_is_the_published_one(method, options, widths):
    a, b = chain(0), chain(1, widths)
    networks = networks_of(a, b)
    found = align(method, networks)
    maps, moved = ot_chain(transposed(a), transposed(b), **options)
    for node, (to, back) in zip(("0", "1"), maps, strict=True):
        np.testing.assert_allclose(found.maps.to[node][1], to, atol=1e-4)
        np.testing.assert_allclose(found.maps.back[node][1], back, atol=1e-4)
        np.testing.assert_array_equal(found.maps.to[node][0], np.eye(len(to)))
    fused = fuse(networks, found.maps, 0.25, 0.75)
    for leaf, mine, theirs in zip(fused, transposed(a), moved, strict=True):
        np.testing.assert_allclose(leaf.T, 0.25 * mine + 0.75 * theirs, rtol=1e-3, atol=1e-4)


def test_permutations_under_uniform_marginals():
    a, b = chain(0), chain(1)
    found = align(OTFusion(), networks_of(a, b))
    maps, moved = ot_chain(transposed(a), transposed(b))
    for node, (to, _) in zip(("0", "1"), maps, strict=True):
        np.testing.assert_array_equal(found.orders[node], [np.arange(len(to)), to.argmax(1)])
    assert found.maps is None
    assert found.status == Status.CONVERGED
    aligned = permute(b, infer_chain(b), {g: o[1] for g, o in found.orders.items()})
    for leaf, expected in zip(aligned, moved, strict=True):
        np.testing.assert_allclose(leaf.T, expected, atol=1e-5)
    # The first layer alone is an assignment by distance, and distances are minimised.
    cost = distances(np.float64(a[0]).T, np.float64(b[0]).T)
    np.testing.assert_array_equal(found.orders["0"][1], hungarian(-cost).columns)
    first, second = (distances(transposed(a)[i], moved[i]) for i in range(2))
    expected = -np.trace(first) / 5 - np.trace(second) / 4
    np.testing.assert_allclose(found.objective, expected, rtol=1e-5)


def test_entropic_plans_give_convex_mixes():
    a, b = chain(0), chain(1, (6, 3, 4, 3))
    method = OTFusion(transport="entropic", regularisation=0.2, max_iterations=5000)
    found = align(method, networks_of(a, b))

    def plan(mu, nu, cost):
        return entropic_plan(mu, nu, cost, 0.2 * cost.mean())

    maps, _ = ot_chain(transposed(a), transposed(b), plan)
    for node, (to, back) in zip(("0", "1"), maps, strict=True):
        np.testing.assert_allclose(found.maps.to[node][1], to, atol=3e-3)
        np.testing.assert_allclose(found.maps.to[node][1].sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(found.maps.back[node][1], back, atol=3e-3)


def relu_chain(params, x):
    for kernel in params[:-1]:
        x = jax.nn.relu(x @ kernel)
    return x @ params[-1]


def split_units(params, copies):
    """Return the network whose hidden units are split into copies, in another order."""
    wide = [params[0].repeat(copies, 1)]
    wide.append(params[1].repeat(copies, 0).repeat(copies, 1) / copies)
    wide.append(params[2].repeat(copies, 0) / copies)
    rng = np.random.default_rng(0)
    for depth in range(2):
        order = rng.permutation(wide[depth].shape[1])
        wide[depth], wide[depth + 1] = wide[depth][:, order], wide[depth + 1][order]
    return wide


def test_split_units_are_joined_and_joined_units_split():
    small = chain(0)
    wide = split_units(small, 2)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((7, 6)), jnp.float32)
    for pair in ((wide, small), (small, wide, chain(0))):
        networks = networks_of(*pair)
        found = align(OTFusion(), networks)
        for k in range(networks.count):
            moved = map_params(pair[k], networks.symmetries[k], *found.maps.of(k))
            for leaf, expected in zip(moved, pair[0], strict=True):
                np.testing.assert_allclose(leaf, expected, atol=1e-5)
        fused = fuse(networks, found.maps)
        np.testing.assert_allclose(relu_chain(fused, x), relu_chain(small, x), atol=1e-4)


def test_planted_orders_of_three_networks_are_found():
    a = chain(0)
    rng = np.random.default_rng(2)
    planted = {
        g: np.stack([np.arange(n), *(rng.permutation(n) for _ in range(2))])
        for g, n in (("0", 5), ("1", 4))
    }
    symmetry = infer_chain(a)
    others = [
        permute(a, symmetry, {g: jnp.argsort(orders[k]) for g, orders in planted.items()})
        for k in (1, 2)
    ]
    found = OTFusion().align(networks_of(a, *others))
    for group, orders in planted.items():
        np.testing.assert_array_equal(found.orders[group], orders)
    same = align(OTFusion(), networks_of(a, a))
    assert same.status == Status.ALREADY_ALIGNED
    np.testing.assert_array_equal(same.orders["1"], [np.arange(4)] * 2)


def test_vmap_is_a_loop():
    a = chain(0)
    others = [chain(seed) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *others)
    symmetry = infer_chain(a)

    def orders(b):
        return OTFusion().align(Networks((a, b), (symmetry, symmetry))).orders

    batch = jax.jit(jax.vmap(orders))(stacked)
    for index, other in enumerate(others):
        for group, order in align(OTFusion(), networks_of(a, other)).orders.items():
            np.testing.assert_array_equal(batch[group][index], order)


def residual(p, x):
    x = x @ p["stem"] + p["bias"][None]
    x = x + jax.nn.relu(x @ p["up"]) @ p["down"]
    return x @ p["head"]


@pytest.fixture(scope="module")
def residual_networks():
    shapes = {"stem": (6, 5), "bias": (5,), "up": (5, 4), "down": (4, 5), "head": (5, 2)}
    a = on_device(draw(shapes, 0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((60, 6)), jnp.float32)
    symmetry = infer_symmetry(residual, a, x)
    planted = {g: jnp.asarray(np.random.default_rng(n).permutation(n)) for g, n in symmetry.sizes}
    b = permute(a, symmetry, planted)
    return Networks((a, b), (symmetry, symmetry), (x,), None, residual), planted


@pytest.mark.parametrize("method", [OTFusion(sweeps=2), OTFusion(cost="activations")])
def test_residual_networks_are_matched(residual_networks, method):
    networks, planted = residual_networks
    found = align(method, networks)
    for group, permutation in planted.items():
        np.testing.assert_array_equal(found.orders[group][1], np.argsort(permutation))
    np.testing.assert_allclose(found.objective, 0, atol=1e-2)


def test_activations_are_compared_by_distance(residual_networks):
    networks, _ = residual_networks
    rng = np.random.default_rng(3)
    other = {
        path: leaf + jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32)
        for path, leaf in networks.params[0].items()
    }
    pair = dataclasses.replace(networks, params=(networks.params[0], other))
    found = align(OTFusion(cost="activations"), pair)
    (x,) = networks.inputs
    inner = list(networks.symmetry.groups)[1]
    units = [np.float64((x @ p["stem"] + p["bias"][None]) @ p["up"]) for p in pair.params]
    cost = distances(units[1].T, units[0].T)
    np.testing.assert_array_equal(np.argsort(found.orders[inner][1]), hungarian(-cost).columns)


def test_units_are_described_by_what_is_matched(residual_networks):
    networks, _ = residual_networks
    params, symmetry = networks.params[0], networks.symmetry
    stream, inner = symmetry.groups
    assert order_nodes(symmetry) == [stream, inner]
    first = describe_units(params, symmetry, stream, {})
    np.testing.assert_allclose(first.joined, jnp.vstack([params["stem"], params["bias"]]).T)
    move = np.float32(np.random.default_rng(0).standard_normal((4, 3)))
    both = describe_units(params, symmetry, stream, {inner: move})
    np.testing.assert_allclose(
        np.sort(both.weights),
        np.sort(np.hstack([params["stem"].T, params["down"].T @ move])),
        rtol=1e-5,
    )


def test_what_cannot_be_transported_is_refused(residual_networks):
    networks, _ = residual_networks
    shapes, symmetry = NETWORKS["attention"]()
    params = on_device(draw(shapes, 0))
    with pytest.raises(ValueError, match=r"'qk' .* is indexed by 'h'.*symmetry.pin\('qk'\)"):
        OTFusion().align(Networks((params, params), (symmetry, symmetry)))
    with pytest.raises(ValueError, match="looks at activations"):
        OTFusion(cost="activations").align(networks_of(chain(0), chain(1)))
    hidden = Symmetry.from_axes({"head": ("r", None)}, networks.params[0])
    with pytest.raises(ValueError, match="no leaf computes the units of 'r'"):
        OTFusion().align(Networks(networks.params, (hidden, hidden)))
    broken = [chain(0)[0].at[0, 0].set(jnp.nan), *chain(0)[1:]]
    with pytest.raises(ValueError, match="NaN or infinity"):
        OTFusion().align(networks_of(chain(0), broken))
    found = align(OTFusion(), networks_of(chain(0), broken))
    assert found.status == Status.NON_FINITE
    for options in ({"cost": "weight"}, {"regularisation": 0.0}, {"sweeps": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            OTFusion(**options)
    with pytest.raises(ValueError, match="sweeps=1"):
        OTFusion(cost="activations", sweeps=2)
