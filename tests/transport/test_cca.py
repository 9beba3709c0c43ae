import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.status import Status
from jaxfuse.transport.cca import CCAMerge, canonical_map
from tests.oracles.cca import cca_map
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

PUBLISHED = CCAMerge(ridge=0.1, prior=0.0)
together = jax.jit(jax.vmap(CCAMerge().align))


@pytest.fixture(scope="module")
def three():
    """Three copies of a network, and their correspondence."""
    networks, orders = planted(3)
    return networks, orders, CCAMerge().align(networks)


@pytest.mark.parametrize("with_prior", [False, True])
def test_map_is_the_published_formula(with_prior):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))
    y = 3 * x @ rng.normal(size=(6, 6)) + rng.normal(size=(50, 6))
    prior = 0.2 * np.eye(6)[rng.permutation(6)] if with_prior else None
    joint = np.cov(np.hstack([x, y]).T, bias=True)
    parts = (joint[:6, :6], joint[:6, 6:], joint[6:, 6:])
    to, back, values = cca_map(x, y, 0.1, prior)
    blocks = [jnp.asarray(part, jnp.float32) for part in parts]
    found = jax.jit(canonical_map)(*blocks, 0.1, None if prior is None else jnp.float32(prior))
    np.testing.assert_allclose(found.to, to, atol=1e-3)
    np.testing.assert_allclose(found.back, back, atol=1e-3)
    np.testing.assert_allclose(found.correlations, values, atol=1e-4)
    np.testing.assert_allclose(found.to @ found.back, np.eye(6), atol=1e-4)


@pytest.mark.parametrize("role", ["input", "output"])
def test_networks_are_compared_by_what_they_do(role):
    networks = networks_of(draw(1), draw(2), draw(3))
    found = dataclasses.replace(PUBLISHED, role=role).align(networks)
    done = [hidden(p, batch())[role] for p in networks.params]
    for node in ("w0", "w1"):
        for k in (1, 2):
            to, back, _ = cca_map(done[0][node], done[k][node], 0.1)
            np.testing.assert_allclose(found.maps.to[node][k], to, atol=2e-3)
            np.testing.assert_allclose(found.maps.back[node][k], back, atol=2e-3)
        np.testing.assert_array_equal(found.maps.to[node][0], np.eye(len(to)))
        np.testing.assert_array_equal(found.maps.mass[node], np.ones((3, len(to))))


def test_copies_are_recovered(three):
    networks, orders, found = three
    for k, copy in enumerate(orders, start=1):
        for node, order in copy.items():
            np.testing.assert_allclose(found.maps.to[node][k], matrix(order), atol=1e-3)
            np.testing.assert_allclose(found.maps.back[node][k], matrix(order).T, atol=1e-3)
    x = batch(30, seed=5)
    fused = fuse(networks, found.maps)
    np.testing.assert_allclose(mlp(fused, x), mlp(networks.params[0], x), atol=1e-3)
    assert int(found.status) == Status.CONVERGED


def test_fewer_samples_than_units_do():
    networks, orders = planted(3)
    few = dataclasses.replace(networks, inputs=(jnp.tile(batch(5), (20, 1)),))
    truth = matrix(orders[1]["w0"])
    found = CCAMerge().align(few)
    np.testing.assert_allclose(found.maps.to["w0"][2], truth, atol=1e-3)
    assert np.max(np.abs(PUBLISHED.align(few).maps.to["w0"][2] - truth)) > 0.1


def test_a_network_and_itself():
    params = draw(3)
    found = CCAMerge().align(networks_of(params, params, params))
    for maps in found.maps.to.values():
        np.testing.assert_allclose(maps[1], np.eye(len(maps[1])), atol=1e-4)


def test_dead_units_do_no_harm():
    a, b = draw(1), draw(2)
    dead_a = {**a, "b1": a["b1"].at[2].set(-50.0)}
    dead_b = {**b, "b0": b["b0"].at[jnp.array([1, 4])].set(-50.0)}
    alive = PUBLISHED.align(networks_of(a, b, a)).maps
    dead = PUBLISHED.align(networks_of(dead_a, dead_b, a)).maps
    for maps, limits in ((dead.to, alive.to), (dead.back, alive.back)):
        for node in ("w0", "w1"):
            assert np.max(np.abs(maps[node][1])) < 3 * np.max(np.abs(limits[node][1]))


def test_without_variance_units_keep_their_order():
    a = {**draw(1), "b1": jnp.full(6, -50.0, jnp.float32)}
    found = CCAMerge().align(networks_of(a, a, a))
    np.testing.assert_allclose(found.maps.to["w1"][1], np.eye(6), atol=1e-5)


def test_jit_and_vmap_agree_with_a_loop():
    others = [networks_of(draw(k), draw(k + 1), draw(k + 2)) for k in (10, 20)]
    found = together(stack(others))
    for index, one in enumerate(others):
        alone = CCAMerge().align(one)
        for k in (1, 2):
            for node in ("w0", "w1"):
                maps, expected = found.maps.to[node][k][index], alone.maps.to[node][k]
                np.testing.assert_allclose(maps, expected, atol=1e-3)
        np.testing.assert_allclose(found.objective[index], alone.objective, atol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="pass apply_fn= and inputs="):
        CCAMerge().align(networks_of(draw(1), draw(2), data=False))
    with pytest.raises(ValueError, match="'ot_fusion', 'pfnm' and 'zip_it'"):
        CCAMerge().align(networks_of(draw(1), draw(2, (5, 6))))
    with pytest.raises(ValueError, match="not negative"):
        CCAMerge(ridge=-1.0)
    networks = networks_of(draw(1), {**draw(2), "b0": jnp.full(7, jnp.nan, jnp.float32)}, draw(3))
    with pytest.raises(ValueError, match="NaN or infinity"):
        CCAMerge().align(networks)
    found = together(stack([networks, networks]))
    np.testing.assert_array_equal(found.status, Status.NON_FINITE)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found.maps))
