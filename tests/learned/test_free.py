"""Soft matchings of free parameters against the oracle, their gradients and their rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.assignment import permutation_matrix
from jaxfuse.learned.free import round_free, soft_matchings, start_free, start_potentials
from jaxfuse.symmetry import Symmetry
from tests.oracles.learned import soft_plans
from tests.symmetry.nested import three_levels

SYMMETRY = three_levels(x=2, h=2, d=3)[1]
PARENTS = {"h": "x", "d": "h"}


@jax.jit
def project(free, weights, tau):
    """Return the plans, and the gradient of a weighted sum of their squares."""

    def value(free):
        plans, _ = soft_matchings(free, SYMMETRY, tau, 200, start_potentials(SYMMETRY))
        return sum(jnp.sum(weights[node] * plan**2) for node, plan in plans.items()), plans

    (_, plans), slope = jax.value_and_grad(value, has_aux=True)(free)
    return plans, slope


def oracle(free, tau):
    return soft_plans({node: free[node] for node in ("x", "h", "d")}, PARENTS, tau)


@pytest.fixture(scope="module")
def drawn():
    """Free parameters of units in heads in experts, and weights of the entries of their plans."""
    rng = np.random.default_rng(1)
    free = start_free(SYMMETRY, jax.random.key(0), 1.0)
    sizes = {node: len(plan) for node, plan in oracle(free, 1.0).items()}
    return free, {node: np.float32(rng.standard_normal((n, n))) for node, n in sizes.items()}


def test_plans_are_products_down_to_the_units(drawn):
    free, weights = drawn
    plans, _ = project(free, weights, 0.7)
    expected = oracle(free, 0.7)
    for node, plan in plans.items():
        np.testing.assert_allclose(plan, expected[node], atol=1e-5)
        np.testing.assert_allclose(plan.sum(0), 1, atol=1e-5)
        np.testing.assert_allclose(plan.sum(1), 1, atol=1e-5)


def test_gradients_are_those_of_finite_differences(drawn):
    free, weights = drawn
    _, slope = project(free, weights, 0.7)
    rng, step = np.random.default_rng(2), 1e-4
    for node in free:
        towards = rng.standard_normal(free[node].shape)
        values = []
        for sign in (1, -1):
            moved = {**free, node: np.float64(free[node]) + sign * step * towards}
            plans = oracle(moved, 0.7)
            values.append(sum(np.sum(weights[name] * plan**2) for name, plan in plans.items()))
        expected = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(np.vdot(slope[node], towards), expected, rtol=1e-3, atol=1e-4)


def test_rounding_is_what_the_temperature_leads_to(drawn):
    free, weights = drawn
    columns = round_free(free, SYMMETRY, "auto")
    plans, _ = project(free, weights, 0.02)
    for node, plan in plans.items():
        np.testing.assert_allclose(plan, permutation_matrix(columns[node]), atol=0.1)


def test_potentials_of_the_last_step_save_iterations():
    symmetry = Symmetry((("h", 4),), ())
    free = start_free(symmetry, jax.random.key(1), 2.0)
    plans, potentials = soft_matchings(free, symmetry, 0.5, 200, start_potentials(symmetry))
    warm, _ = soft_matchings(free, symmetry, 0.5, 1, potentials)
    cold, _ = soft_matchings(free, symmetry, 0.5, 1, start_potentials(symmetry))
    np.testing.assert_allclose(warm["h"], plans["h"], atol=1e-5)
    assert np.abs(cold["h"] - plans["h"]).max() > 1e-3


def test_the_start_is_the_identity_and_noise():
    free = start_free(SYMMETRY, jax.random.key(3), 0.01)
    assert free["x"].shape == (2, 2)
    assert free["d"].shape == (4, 4, 3, 3)
    for scores in free.values():
        noise = np.asarray(scores) - np.eye(scores.shape[-1])
        assert 0.003 < np.std(noise) < 0.03
