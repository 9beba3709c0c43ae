import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.assignment import sinkhorn
from tests.oracles.assignment import sinkhorn_gradient

CONVERGED = {"tolerance": 1e-6, "max_iterations": 5000}


STATIC = ("iterations", "tolerance", "max_iterations", "method", "differentiation")


@functools.partial(jax.jit, static_argnames=STATIC)
def value(scores, tau, weights, **options):
    return jnp.sum(weights * sinkhorn(scores, tau, **options).plan)


@pytest.mark.parametrize("tau", [0.2, 1.0])
@pytest.mark.parametrize("shape", [(1, 3), (4, 4), (5, 3)])
def test_gradient_matches_finite_differences(key, shape, tau):
    scores, weights = jax.random.normal(key, (2, *shape))
    expected, expected_tau = sinkhorn_gradient(scores, tau, np.asarray(weights, np.float64))
    gradient = jax.grad(value, argnums=(0, 1))
    for options in (CONVERGED, {"iterations": 500, "method": "log"}):
        got, got_tau = gradient(scores, tau, weights, **options)
        np.testing.assert_allclose(got, expected, atol=2e-4)
        np.testing.assert_allclose(got_tau, expected_tau, atol=2e-4)


@pytest.mark.parametrize("method", ["stabilised", "log"])
def test_implicit_equals_unrolled(key, method):
    scores, weights = jax.random.normal(key, (2, 4, 7))
    results = [
        jax.jit(
            jax.grad(
                lambda s, t, d=d: value(
                    s, t, weights, iterations=200, method=method, differentiation=d
                ),
                argnums=(0, 1),
            )
        )(scores, 0.3)
        for d in ("implicit", "unrolled")
    ]
    for implicit, unrolled in zip(*results, strict=True):
        np.testing.assert_allclose(implicit, unrolled, atol=1e-4)


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
@pytest.mark.parametrize("method", ["stabilised", "log"])
def test_masked_gradient_is_that_of_the_submatrix(key, method, differentiation):
    scores, weights = jax.random.normal(key, (2, 6, 6))
    rows, columns = jnp.arange(6) < 4, jnp.arange(6) < 5
    options = {"iterations": 300, "method": method, "differentiation": differentiation}
    padded = jnp.where(rows[:, None] & columns[None, :], scores, jnp.nan)
    got = jax.grad(value)(padded, 0.4, weights, row_mask=rows, column_mask=columns, **options)
    expected, _ = sinkhorn_gradient(scores[:4, :5], 0.4, np.asarray(weights[:4, :5], np.float64))
    np.testing.assert_allclose(got[:4, :5], expected, atol=2e-4)
    assert (got[4:] == 0).all()
    assert (got[:, 5:] == 0).all()


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
def test_forbidden_pairs_have_no_gradient(key, differentiation):
    scores, weights = jax.random.normal(key, (2, 4, 4))
    scores = scores.at[0, 1].set(-jnp.inf).at[2, 3].set(-jnp.inf)
    got, got_tau = jax.grad(value, argnums=(0, 1))(
        scores, 0.5, weights, iterations=400, differentiation=differentiation
    )
    expected, expected_tau = sinkhorn_gradient(scores, 0.5, np.asarray(weights, np.float64))
    np.testing.assert_allclose(got, expected, atol=2e-4)
    np.testing.assert_allclose(got_tau, expected_tau, atol=2e-4)


def test_batch_vmap_and_jit(key):
    scores, weights = jax.random.normal(key, (2, 3, 5, 5))
    tau = jnp.array([0.2, 0.5, 1.0])
    gradient = jax.grad(lambda s, t, w: value(s, t, w, **CONVERGED), argnums=(0, 1))
    whole = jax.jit(gradient)(scores, tau, weights)
    mapped = jax.jit(jax.vmap(gradient))(scores, tau, weights)
    for i in range(3):
        one = gradient(scores[i], tau[i], weights[i])
        for a, b, c in zip(whole, mapped, one, strict=True):
            np.testing.assert_allclose(a[i], c, atol=1e-5)
            np.testing.assert_allclose(b[i], c, atol=1e-5)


def test_forward_mode_agrees_with_reverse_mode(key):
    scores, weights = jax.random.normal(key, (2, 5, 4))
    loss = jax.jit(lambda s, t: value(s, t, weights, **CONVERGED))
    forward = jax.jacfwd(loss, argnums=(0, 1))(scores, 0.3)
    reverse = jax.grad(loss, argnums=(0, 1))(scores, 0.3)
    for a, b in zip(forward, reverse, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_second_derivative_equals_the_unrolled_one(key):
    scores, weights = jax.random.normal(key, (2, 3, 3))
    hessians = [
        jax.jit(
            jax.hessian(lambda s, d=d: value(s, 1.0, weights, iterations=30, differentiation=d))
        )(scores)
        for d in ("implicit", "unrolled")
    ]
    assert jnp.abs(hessians[0]).max() > 0.01
    np.testing.assert_allclose(hessians[0], hessians[1], atol=2e-3)


@pytest.mark.parametrize("tau", [1e-3, 1e-2])
def test_nearly_hard_plans_have_finite_gradients(key, tau):
    scores, weights = jax.random.normal(key, (2, 40, 40))
    scores = scores + 5 * jnp.eye(40)
    got = jax.jit(jax.grad(lambda s: value(s, tau, weights, iterations=100)))(scores)
    np.testing.assert_allclose(got, 0, atol=1e-2)


def test_adding_a_constant_to_a_row_or_column_changes_nothing(key):
    scores, weights = jax.random.normal(key, (2, 30, 30))
    got = jax.grad(value)(scores, 0.1, weights, tolerance=1e-5)
    assert jnp.abs(got).max() > 0.1
    np.testing.assert_allclose(got.sum(0), 0, atol=1e-4)
    np.testing.assert_allclose(got.sum(1), 0, atol=1e-4)


def test_half_precision_gradient_keeps_its_dtype(key):
    scores, weights = jax.random.normal(key, (2, 4, 4))
    assert jax.grad(value)(scores.astype(jnp.bfloat16), 0.5, weights).dtype == jnp.bfloat16


def test_other_fields_carry_no_derivative(key):
    scores = jax.random.normal(key, (4, 4))
    gradient = jax.grad(lambda s: sinkhorn(s, 0.5, iterations=9).potentials.row.sum())(scores)
    np.testing.assert_array_equal(gradient, jnp.zeros((4, 4)))
