"""The device solvers against SciPy in float64, and what their prices claim."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxfuse.assignment import auction, hungarian, shortest_augmenting_path
from jaxfuse.status import Status

EXACT = jax.jit(shortest_augmenting_path)
AUCTION = jax.jit(functools.partial(auction, epsilon=1e-4))
SOLVERS = [EXACT, AUCTION]


def best(scores):
    scores = np.asarray(scores, np.float64)
    return scores[linear_sum_assignment(scores, maximize=True)].sum()


def check(scores, result, slack=0.0):
    """The matching is complete, its sum and gap are true, and the gap bounds the distance."""
    scores = np.asarray(scores, np.float64)
    n, m = scores.shape
    columns = np.asarray(result.columns)
    rows = np.flatnonzero(columns >= 0)
    assert len(set(columns[rows].tolist())) == len(rows) == min(n, m)
    total, optimum = scores[rows, columns[rows]].sum(), best(scores)
    rounding = 1e-6 * np.abs(scores).max() * max(n, m)
    assert optimum - total <= slack + rounding
    np.testing.assert_allclose(result.objective, total, atol=rounding)
    profits = (scores - np.asarray(result.prices, np.float64)).max(axis=1)
    if n > m:
        profits = np.maximum(profits, 0)
    if n < m:
        assert (result.prices >= 0).all()
    bound = profits.sum() + np.asarray(result.prices, np.float64).sum()
    assert bound >= optimum - rounding
    np.testing.assert_allclose(result.gap, bound - total, atol=2 * rounding)
    assert 0 <= result.gap <= slack + rounding


def instance(kind, shape, seed=0):
    rng = np.random.default_rng(seed)
    n, m = shape
    if kind == "planted":
        features = rng.standard_normal((max(n, m), 5))
        other = features[rng.permutation(len(features))] + rng.standard_normal(features.shape)
        return (features[:n] @ other[:m].T).astype(np.float32)
    return {
        "uniform": lambda: rng.random(shape),
        "integer": lambda: rng.integers(0, 4, shape),
        "constant": lambda: np.full(shape, 3.0),
        "equal rows": lambda: np.repeat(rng.random((1, m)), n, axis=0),
        "equal columns": lambda: np.repeat(rng.random((n, 1)), m, axis=1),
        "wide": lambda: 10.0 ** rng.uniform(-6, 6, shape),
        "product": lambda: -np.outer(np.arange(n) + 1.0, np.arange(m) + 1.0),
    }[kind]().astype(np.float32)


KINDS = [
    "uniform",
    "planted",
    "integer",
    "constant",
    "equal rows",
    "equal columns",
    "wide",
    "product",
]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (24, 24), (17, 31), (31, 17)])
@pytest.mark.parametrize("kind", KINDS)
def test_matches_scipy(kind, shape):
    scores = instance(kind, shape)
    check(scores, EXACT(scores))
    spread = np.ptp(scores)
    check(scores, AUCTION(scores), slack=1.01 * min(shape) * max(1e-4, 1e-6 * spread))


@pytest.mark.parametrize("kind", ["uniform", "planted", "integer"])
def test_larger_matrices(kind):
    # Above 64 columns a CPU solves the matrices of a batch one after the other.
    scores = np.stack([instance(kind, (130, 130), seed) for seed in range(2)])
    result = EXACT(scores)
    for k in range(2):
        check(scores[k], jax.tree.map(lambda a, k=k: a[k], result))


def test_integers_are_exact():
    for seed in range(10):
        scores = np.random.default_rng(seed).integers(-50, 50, (20, 26))
        for solve in (shortest_augmenting_path, auction):
            assert float(solve(scores).objective) == best(scores)
        assert float(shortest_augmenting_path(scores).gap) == 0


@pytest.mark.parametrize("solve", SOLVERS)
def test_forbidden_pairs_that_make_greedy_fail(solve):
    # Row i may take columns 0 to i, and likes 0 best: only the diagonal is left.
    scores = jnp.where(jnp.tri(12, dtype=bool), -jnp.arange(12.0)[None, :], -jnp.inf)
    result = solve(scores)
    assert result.columns.tolist() == list(range(12))
    assert result.status == Status.CONVERGED


@pytest.mark.parametrize("solve", SOLVERS)
def test_jit_eager_batch_and_nested_vmap_agree(solve):
    scores = np.stack([[instance("integer", (9, 12), 3 * a + b) for b in range(3)] for a in (0, 1)])
    eager = {id(EXACT): shortest_augmenting_path}.get(
        id(solve), functools.partial(auction, epsilon=1e-4)
    )
    whole = solve(scores)
    for other in (
        eager(scores),
        jax.vmap(jax.vmap(solve))(scores),
        jax.vmap(solve, in_axes=1, out_axes=1)(scores),
    ):
        jax.tree.map(np.testing.assert_array_equal, whole, other)
    for index in np.ndindex(2, 3):
        one = solve(scores[index])
        jax.tree.map(lambda a, b, i=index: np.testing.assert_array_equal(a[i], b), whole, one)


def test_vmap_over_prices_or_epsilon_alone():
    scores = instance("uniform", (8, 8))
    prices = jnp.stack([jnp.zeros(8), jnp.arange(8.0)])
    result = jax.vmap(EXACT, in_axes=(None, 0))(scores, prices)
    for k in range(2):
        check(scores, jax.tree.map(lambda a, k=k: a[k], result))
    widths = jnp.array([0.1, 1e-4])
    result = jax.vmap(lambda e: auction(scores, epsilon=e))(widths)
    for k in range(2):
        check(scores, jax.tree.map(lambda a, k=k: a[k], result), slack=8.1 * widths[k])


@pytest.mark.parametrize("shape", [(40, 40), (40, 42), (42, 40)])
@pytest.mark.parametrize("solve", SOLVERS)
def test_true_prices_give_the_same_result_sooner(solve, shape):
    scores = instance("planted", shape)
    cold = solve(scores)
    warm = solve(scores, cold.prices)
    check(scores, warm, slack=0.0 if solve is EXACT else 1.01e-4 * min(shape))
    np.testing.assert_array_equal(cold.columns, warm.columns)
    assert warm.iterations < cold.iterations


@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (14, 9)])
@pytest.mark.parametrize("solve", SOLVERS)
def test_wrong_prices_do_no_harm(solve, shape):
    scores = instance("uniform", shape)
    rng = np.random.default_rng(1)
    for prices in (
        rng.normal(size=shape[1]),
        1e30 * rng.normal(size=shape[1]),
        np.full(shape[1], np.nan),
        np.full(shape[1], np.inf),
    ):
        result = solve(scores, prices.astype(np.float32))
        check(scores, result, slack=0.0 if solve is EXACT else 1.01e-4 * min(shape))


def test_auction_keeps_its_bound():
    scores = instance("uniform", (30, 30))
    for epsilon in (1e-1, 1e-2, 1e-3):
        check(scores, auction(scores, epsilon=epsilon), slack=1.01 * 30 * epsilon)


def test_auction_completes_the_matching_when_the_rounds_run_out():
    scores = instance("uniform", (20, 30))
    result = auction(scores, max_iterations=3)
    assert result.status == Status.NOT_CONVERGED
    assert sorted(set(result.columns.tolist())) == sorted(result.columns.tolist())
    total = scores[np.arange(20), result.columns].astype(np.float64).sum()
    assert best(scores) - total <= result.gap + 1e-5


@pytest.mark.parametrize("solve", SOLVERS)
def test_gradients_are_zero(solve):
    scores = jnp.asarray(instance("uniform", (5, 5)))

    def loss(scores, prices):
        result = solve(scores, prices)
        return result.objective + result.prices.sum() + result.gap

    for gradient in jax.grad(loss, argnums=(0, 1))(scores, jnp.zeros(5)):
        assert (gradient == 0).all()


def test_auto_takes_the_device_for_many_small_matrices(key):
    scores = jax.random.normal(key, (4, 8, 6, 6))
    mapped = jax.vmap(jax.vmap(hungarian))
    assert "pure_callback" not in str(jax.make_jaxpr(mapped)(scores))
    assert "pure_callback" in str(jax.make_jaxpr(mapped)(scores[:1]))
    assert "pure_callback" in str(jax.make_jaxpr(mapped)(scores.astype(jnp.int32)))
    result = jax.jit(mapped)(scores)
    np.testing.assert_array_equal(result.columns, hungarian(scores).columns)


@pytest.mark.parametrize("solve", [shortest_augmenting_path, auction])
def test_bad_arguments(solve):
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        solve(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"prices of shape \(3,\)"):
        solve(jnp.eye(2), jnp.zeros(3))
    with pytest.raises(ValueError, match="scores hold NaN"):
        solve(jnp.full((2, 2), jnp.nan))
    assert solve(jnp.zeros((2, 0, 3))).prices.shape == (2, 3)


def test_bad_auction_options():
    with pytest.raises(ValueError, match=r"epsilon=0.0"):
        auction(jnp.eye(2), epsilon=0.0)
    with pytest.raises(ValueError, match="max_iterations=0"):
        auction(jnp.eye(2), max_iterations=0)
