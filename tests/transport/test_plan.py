import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import hungarian
from jaxfuse.transport.plan import transport_plan
from tests.oracles.transport import entropic_plan, exact_plan


def instance(seed, n, m, even=False):
    rng = np.random.default_rng(seed)
    mu, nu = (rng.random(size) + 0.1 for size in (n, m))
    mu, nu = (np.ones_like(x) if even else x for x in (mu, nu))
    return np.float32(mu / mu.sum()), np.float32(nu / nu.sum()), np.float32(rng.random((n, m)))


@pytest.mark.parametrize(("n", "m"), [(4, 4), (6, 3), (3, 5)])
def test_exact_plan_costs_what_the_linear_program_does(n, m):
    mu, nu, cost = instance(n + 10 * m, n, m)
    found = transport_plan(jnp.asarray(cost), jnp.asarray(mu), jnp.asarray(nu))
    assert found.solved
    np.testing.assert_allclose(found.plan.sum(1), mu, atol=1e-6)
    np.testing.assert_allclose(found.plan.sum(0), nu, atol=1e-6)
    oracle = exact_plan(np.float64(mu) / mu.sum(), np.float64(nu) / nu.sum(), cost)
    np.testing.assert_allclose(np.vdot(found.plan, cost), np.vdot(oracle, cost), rtol=1e-5)
    assert np.count_nonzero(found.plan) <= n + m - 1


@pytest.mark.parametrize("n", [1, 7, 13])
def test_equal_masses_give_the_best_permutation(n):
    mu, nu, cost = instance(n, n, n, even=True)
    plan = transport_plan(jnp.asarray(cost), jnp.asarray(mu), jnp.asarray(nu)).plan
    columns = hungarian(-jnp.asarray(cost)).columns
    np.testing.assert_array_equal(n * plan, np.eye(n)[columns])


@pytest.fixture(scope="module")
def entropic():
    def solve(cost, mu, nu):
        return transport_plan(cost, mu, nu, transport="entropic", regularisation=0.1)

    return jax.jit(solve)


@pytest.mark.parametrize("even", [True, False])
def test_entropic_plan_is_the_fixed_point(entropic, even):
    mu, nu, cost = instance(3, 6, 4, even)
    found = entropic(cost, mu, nu)
    oracle = entropic_plan(np.float64(mu), np.float64(nu), np.float64(cost), 0.1 * cost.mean())
    assert found.solved
    np.testing.assert_allclose(found.plan, oracle, atol=5e-4)


def test_too_few_iterations_are_told():
    options = {"transport": "entropic", "regularisation": 1e-3, "max_iterations": 2}
    mu, nu, cost = instance(4, 6, 4)
    assert not jax.jit(functools.partial(transport_plan, **options))(cost, mu, nu).solved


def test_vmap_is_a_loop(entropic):
    batch = [jnp.asarray(each) for each in zip(*(instance(s, 4, 3) for s in range(3)), strict=True)]
    mu, nu, cost = (jnp.stack(list(each)) for each in batch)
    for solve in (transport_plan, entropic):
        found = jax.jit(jax.vmap(solve))(cost, mu, nu)
        for index in range(3):
            one = solve(cost[index], mu[index], nu[index])
            np.testing.assert_allclose(found.plan[index], one.plan, atol=1e-6)


def test_plans_carry_no_derivative():
    mu, nu, cost = (jnp.asarray(each) for each in instance(5, 3, 3))
    slope = jax.grad(lambda c: jnp.sum(transport_plan(c, mu, nu).plan * c))(cost)
    np.testing.assert_allclose(slope, transport_plan(cost, mu, nu).plan, atol=1e-7)
