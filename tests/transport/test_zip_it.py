import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.status import Status
from jaxfuse.transport.greedy import zip_units
from jaxfuse.transport.zip_it import ZipIt
from tests.oracles.zip_it import likeness, merge_matrices, zip_groups
from tests.transport.planted import (
    batch,
    draw,
    fuse,
    hidden,
    matrix,
    mlp,
    networks_of,
    planted,
    stack,
)

together = jax.jit(jax.vmap(ZipIt().align))


def groups_of(unit):
    """Return the merged groups as sorted tuples of units."""
    unit = np.asarray(unit)
    return [tuple(np.flatnonzero(unit == merged).tolist()) for merged in range(unit.max() + 1)]


@pytest.mark.parametrize(
    ("widths", "units", "alpha", "beta"),
    [
        ((6, 6), 5, 0.3, 0.4),
        ((5, 7, 4), 6, 0.0, 0.5),
        ((4, 4, 4), 3, 0.9, 0.0),
    ],
)
def test_merging_is_greedy(widths, units, alpha, beta):
    rng = np.random.default_rng(0)
    total = sum(widths)
    similarity = np.stack([np.corrcoef(rng.normal(size=(total, 8))) for _ in range(4)])
    run = jax.jit(jax.vmap(lambda s: zip_units(s, widths, units, alpha, beta)))
    found = run(jnp.float32(similarity))
    for index, each in enumerate(similarity):
        expected = zip_groups(np.float64(np.float32(each)), widths, units, alpha, beta)
        assert groups_of(found.unit[index]) == expected
    assert found.similarities.shape == (4, total - units)


@pytest.fixture(scope="module")
def three():
    """Three copies of a network, and their correspondence."""
    networks, orders = planted(3)
    return networks, orders, ZipIt().align(networks)


def test_copies_are_merged_with_one_another(three):
    networks, orders, found = three
    for node in ("w0", "w1"):
        np.testing.assert_array_equal(found.maps.mass[node], 1)
        for k, copy in enumerate(orders, start=1):
            np.testing.assert_array_equal(found.maps.to[node][k], matrix(copy[node]))
            np.testing.assert_array_equal(found.maps.back[node][k], matrix(copy[node]).T)
    x = batch(30, seed=5)
    fused = fuse(networks, found.maps)
    np.testing.assert_allclose(mlp(fused, x), mlp(networks.params[0], x), atol=1e-4)
    assert int(found.status) == Status.CONVERGED
    assert found.trace.shape == (3,)


@pytest.mark.parametrize(
    "method",
    [ZipIt(), ZipIt(compare="correlation", alpha=0.3, beta=0.3, keep=1.3, role="input")],
    ids=lambda method: method.compare,
)
def test_networks_of_other_widths_are_merged_as_published(method):
    networks = networks_of(draw(1), draw(2, (14, 6)), draw(3))
    found = method.align(networks)
    done = [hidden(p, batch())[method.role] for p in networks.params]
    for node, widths in (("w0", (7, 14, 7)), ("w1", (6, 6, 6))):
        joint = np.hstack([each[node] for each in done])
        units = round(method.keep * widths[0])
        groups = zip_groups(
            likeness(joint, method.compare), widths, units, method.alpha, method.beta
        )
        to, back, mass = merge_matrices(groups, widths)
        for k in range(3):
            np.testing.assert_allclose(found.maps.to[node][k], to[k], atol=1e-6)
            np.testing.assert_array_equal(found.maps.back[node][k], back[k])
        np.testing.assert_array_equal(found.maps.mass[node], mass)
    fused = fuse(networks, found.maps)
    assert fused["w1"].shape == tuple(round(method.keep * n) for n in (7, 6))


def test_two_networks_are_merged_as_published():
    networks = networks_of(draw(1), draw(2))
    method = ZipIt(compare="correlation", alpha=0.5, beta=0.0)
    found = method.align(networks)
    done = [hidden(p, batch())["output"] for p in networks.params]
    for node, n in (("w0", 7), ("w1", 6)):
        joint = np.hstack([each[node] for each in done])
        groups = zip_groups(likeness(joint, "correlation"), (n, n), n, 0.5, 0.0)
        to, _, _ = merge_matrices(groups, (n, n))
        for k in range(2):
            np.testing.assert_allclose(found.maps.to[node][k], to[k], atol=1e-6)


def test_units_of_one_network_that_do_the_same_are_merged():
    small = draw(1)
    first = small["w0"].repeat(2, axis=1)
    wide = {**small, "w0": first, "b0": small["b0"].repeat(2)}
    wide["w1"] = small["w1"].repeat(2, axis=0) / 2
    networks = networks_of(small, wide, small)
    found = ZipIt().align(networks)
    np.testing.assert_array_equal(found.maps.to["w0"][1], np.eye(7).repeat(2, axis=1) / 2)
    np.testing.assert_array_equal(found.maps.mass["w0"], [[1] * 7, [2] * 7, [1] * 7])
    x = batch(30, seed=5)
    np.testing.assert_allclose(mlp(fuse(networks, found.maps), x), mlp(small, x), atol=1e-4)


def test_after_until_networks_stand_side_by_side():
    networks = networks_of(draw(1), draw(2))
    a, b = networks.params
    x = batch(30, seed=5)
    apart = fuse(networks, ZipIt(until=0.0).align(networks).maps)
    np.testing.assert_array_equal(apart["w1"][:7, :6], a["w1"])
    np.testing.assert_array_equal(apart["w1"][7:, 6:], b["w1"])
    np.testing.assert_array_equal(apart["w1"][:7, 6:], 0)
    np.testing.assert_array_equal(apart["w1"][7:, :6], 0)
    np.testing.assert_allclose(mlp(apart, x), (mlp(a, x) + mlp(b, x)) / 2, atol=1e-5)
    found = ZipIt(until="w0").align(networks)
    assert found.maps.to["w0"][0].shape == (7, 7)
    partly = fuse(networks, found.maps)
    shared = jax.nn.relu(x @ partly["w0"] + partly["b0"][None])
    heads = []
    for k, p in enumerate(networks.params):
        own = shared @ found.maps.back["w0"][k].T
        heads.append(jax.nn.relu(own @ p["w1"] + p["b1"][None]) @ p["w2"] + p["b2"][None])
    np.testing.assert_allclose(mlp(partly, x), (heads[0] + heads[1]) / 2, atol=1e-5)


def test_a_network_and_itself_with_dead_units():
    params = draw(3)
    params = {**params, "b0": params["b0"].at[jnp.array([1, 4])].set(-1e4)}
    params["w0"] = params["w0"].at[:, jnp.array([1, 4])].set(0.0)
    found = ZipIt().align(networks_of(params, params, params))
    for node, n in (("w0", 7), ("w1", 6)):
        for to in found.maps.to[node]:
            np.testing.assert_array_equal(to, np.eye(n))


def test_jit_and_vmap_agree_with_a_loop(three):
    others = [three[0], networks_of(draw(20), draw(21), draw(22))]
    found = together(stack(others))
    for index, one in enumerate(others):
        alone = ZipIt().align(one)
        picked = functools.partial(jax.tree.map, lambda leaf, i=index: leaf[i])
        jax.tree.map(np.testing.assert_array_equal, picked(found.maps), alone.maps)


def test_what_is_refused():
    with pytest.raises(ValueError, match="pass apply_fn= and inputs="):
        ZipIt().align(networks_of(draw(1), draw(2), data=False))
    with pytest.raises(ValueError, match="until='w7' is none of the groups"):
        ZipIt(until="w7").align(networks_of(draw(1), draw(2)))
    for settings in ({"alpha": 2.0}, {"keep": 0.0}, {"role": "both"}, {"until": 1.5}):
        with pytest.raises(ValueError, match="got"):
            ZipIt(**settings)
    networks = networks_of(draw(1), {**draw(2), "b0": jnp.full(7, jnp.nan, jnp.float32)}, draw(3))
    with pytest.raises(ValueError, match="NaN or infinity"):
        ZipIt().align(networks)
    found = together(stack([networks, networks]))
    np.testing.assert_array_equal(found.status, Status.NON_FINITE)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found.maps))
