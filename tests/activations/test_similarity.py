"""Similarities of units against NumPy, pair by pair, and against optimal transport."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.activations import compare_units
from jaxfuse.activations.moments import Moments, Site
from jaxfuse.assignment import hungarian
from tests.oracles.activations import similarity

KINDS = ("correlation", "covariance", "l2", "transport")
WIDTHS = (5, 4, 3)


def draw(seed, samples=30, offset=0.0):
    """Return the units of three networks, related, with a dead one in the first two."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((samples, 3))
    units = [
        common @ rng.standard_normal((3, n)) + 0.5 * rng.standard_normal((samples, n)) + offset
        for n in WIDTHS
    ]
    units[0][:, 1], units[1][:, 3] = 0.7 + offset, offset
    return units


def moments_of(*sites):
    """Return the moments of units seen at several places, made in float64."""
    found = []
    for units in sites:
        joint = np.concatenate(units, axis=1)
        scatter = np.cov(joint.T, bias=True) * len(joint)
        arrays = (np.float32(len(joint)), joint.mean(0), scatter)
        found.append(Site(*(jnp.asarray(array, jnp.float32) for array in arrays)))
    return Moments({"h": tuple(found)}, (("h", WIDTHS),))


@pytest.mark.parametrize("kind", KINDS)
def test_every_similarity_equals_numpy(kind):
    units = draw(0)
    for k, l in ((0, 1), (1, 0), (2, 1)):  # noqa: E741
        found = compare_units(moments_of(units), kind, k, l)["h"]
        assert found.shape == (WIDTHS[k], WIDTHS[l])
        np.testing.assert_allclose(found, similarity(kind, units[k], units[l]), atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_places_count_alike(kind):
    first, second = draw(0, samples=30), draw(1, samples=90)
    found = compare_units(moments_of(first, second), kind)["h"]
    expected = (similarity(kind, *first[:2]) + similarity(kind, *second[:2])) / 2
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_dead_units_are_like_none():
    found = {kind: compare_units(moments_of(draw(0)), kind)["h"] for kind in KINDS[:2]}
    for scores in found.values():
        np.testing.assert_allclose(scores[1], 0, atol=1e-12)
        np.testing.assert_allclose(scores[:, 3], 0, atol=1e-12)


@pytest.mark.parametrize("kind", ["l2", "transport"])
def test_small_distances_of_large_activations_are_not_lost(kind):
    units = draw(2, offset=1000.0)
    units[1][:, :3] = units[0][:, 2:] + 0.01
    found = compare_units(moments_of(units), kind)["h"]
    expected = similarity(kind, *units[:2])
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=1e-3)


def test_the_best_assignment_for_transport_is_ot_fusions_exact_plan():
    ot = pytest.importorskip("ot")
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 40, 6))
    joint = np.concatenate([a, b], axis=1)
    scatter = np.cov(joint.T, bias=True) * len(joint)
    site = Site(jnp.float32(40), *(jnp.asarray(x, jnp.float32) for x in (joint.mean(0), scatter)))
    scores = compare_units(Moments({"h": (site,)}, (("h", (6, 6)),)), "transport")["h"]
    cost = ot.dist(a.T, b.T, metric="euclidean")
    plan = 6 * ot.emd(np.full(6, 1 / 6), np.full(6, 1 / 6), cost)
    np.testing.assert_array_equal(hungarian(scores).columns, plan.argmax(axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_differentiable_where_units_agree_and_where_they_are_dead(kind):
    units = draw(0)
    units[1][:, 0] = units[0][:, 0]
    moments = moments_of(units)
    slope = jax.grad(lambda m: jnp.sum(compare_units(m, kind)["h"] ** 2))(moments)
    (site,) = slope.sites["h"]
    assert np.all(np.isfinite(site.mean))
    assert np.all(np.isfinite(site.scatter))


def test_an_unknown_similarity_is_refused():
    with pytest.raises(ValueError, match="'cosine' is none of"):
        compare_units(moments_of(draw(0)), "cosine")
