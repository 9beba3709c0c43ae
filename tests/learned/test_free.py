"""Soft matchings of free parameters against the oracle, their gradients and their rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.assignment import permutation_matrix
from jaxfuse.learned.free import round_free, soft_matchings, start_free, start_potentials
from tests.oracles.learned import soft_plans
from tests.symmetry.nested import attention, three_levels

PARENTS = {"attention": {"qk": "h", "vo": "h"}, "three_levels": {"h": "x", "d": "h"}}
SYMMETRIES = {
    "attention": attention(e=4, h=2, qk=3, vo=2, f=3)[1],
    "three_levels": three_levels(x=2, h=2, d=3)[1],
}


@pytest.fixture(scope="module", params=list(SYMMETRIES))
def nested(request):
    """A symmetry whose groups are indexed by others, its parents, and free parameters."""
    symmetry = SYMMETRIES[request.param]
    return symmetry, PARENTS[request.param], start_free(symmetry, jax.random.key(0), 1.0)


def project(free, symmetry, tau, iterations):
    return soft_matchings(free, symmetry, tau, iterations, start_potentials(symmetry))


def test_plans_are_products_down_to_the_units(nested):
    symmetry, parents, free = nested
    plans, potentials = project(free, symmetry, 0.7, 100)
    order = sorted(free, key=lambda node: free[node].ndim + (parents.get(node) in parents))
    expected = soft_plans({node: free[node] for node in order}, parents, 0.7)
    for node, plan in plans.items():
        np.testing.assert_allclose(plan, expected[node], atol=1e-5)
        np.testing.assert_allclose(plan.sum(0), 1, atol=1e-5)
        np.testing.assert_allclose(plan.sum(1), 1, atol=1e-5)
    warm, _ = soft_matchings(free, symmetry, 0.7, 1, potentials)
    for node, plan in plans.items():
        np.testing.assert_allclose(warm[node], plan, atol=1e-5)


def test_gradients_are_those_of_finite_differences(nested):
    symmetry, parents, free = nested
    rng = np.random.default_rng(1)
    weights = {
        node: rng.standard_normal(p.shape) for node, p in project(free, symmetry, 1, 1)[0].items()
    }

    @jax.jit
    def slope(free):
        def value(free):
            plans, _ = project(free, symmetry, 0.7, 100)
            return sum(jnp.sum(weights[node] * plan**2) for node, plan in plans.items())

        return jax.grad(value)(free)

    def oracle(free):
        order = sorted(free, key=lambda node: free[node].ndim + (parents.get(node) in parents))
        plans = soft_plans({node: free[node] for node in order}, parents, 0.7)
        return sum(np.sum(weights[node] * plan**2) for node, plan in plans.items())

    found = slope(free)
    for node in free:
        towards = rng.standard_normal(free[node].shape)
        step = 1e-4
        values = [
            oracle({**free, node: np.float64(free[node]) + sign * step * towards})
            for sign in (1, -1)
        ]
        expected = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(np.vdot(found[node], towards), expected, rtol=1e-3, atol=1e-4)


def test_rounding_is_what_the_temperature_leads_to(nested):
    symmetry, _, free = nested
    columns = round_free(free, symmetry, "auto")
    plans, _ = project(free, symmetry, 0.02, 500)
    for node, plan in plans.items():
        np.testing.assert_allclose(plan, permutation_matrix(columns[node]), atol=0.1)


def test_the_start_is_the_identity_and_noise():
    symmetry = SYMMETRIES["attention"]
    free = start_free(symmetry, jax.random.key(3), 0.01)
    assert free["e"].shape == (4, 4)
    assert free["qk"].shape == (2, 2, 3, 3)
    for scores in free.values():
        n = scores.shape[-1]
        np.testing.assert_allclose(scores, np.broadcast_to(np.eye(n), scores.shape), atol=0.05)
        assert np.std(scores - np.eye(n)) > 0.003
