import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse.assignment import Potentials, hungarian, permutation_matrix, sinkhorn
from jaxfuse.status import Status
from tests.oracles.assignment import marginals, sinkhorn_plan

METHODS = ["stabilised", "log"]
SHAPES = [(1, 1), (1, 3), (5, 5), (7, 4)]


def first(result, index=0):
    return jax.tree.map(lambda a: a[index], result)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tau", [1.0, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_oracle(key, shape, tau, method):
    scores = jax.random.normal(key, shape)
    result = sinkhorn(scores, tau, tolerance=1e-5, max_iterations=20_000, method=method)
    assert result.status == Status.CONVERGED
    assert result.marginal_error <= 1e-5
    np.testing.assert_allclose(result.plan, sinkhorn_plan(scores, tau), atol=2e-4)
    rows, columns = marginals(*shape)
    np.testing.assert_allclose(result.plan.sum(1), rows, atol=2e-5)
    np.testing.assert_allclose(result.plan.sum(0), columns, atol=2e-5)
    row, column = result.potentials
    np.testing.assert_allclose(
        jnp.exp((scores + row[:, None] + column[None, :]) / tau), result.plan, atol=1e-4
    )


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**31 - 1),
    shape=st.sampled_from([(4, 4), (3, 5), (6, 2)]),
    tau=st.floats(0.05, 10.0),
    scale=st.floats(0.0, 5.0),
    offset=st.floats(-100.0, 100.0),
)
def test_fixed_iterations_follow_the_oracle(seed, shape, tau, scale, offset):
    scores = scale * jax.random.normal(jax.random.key(seed), shape) + offset
    result = sinkhorn(scores, tau, iterations=23)
    atol = 1e-4 + 1e-6 * float(jnp.abs(scores).max()) / tau
    np.testing.assert_allclose(result.plan, sinkhorn_plan(scores, tau, 23), atol=atol)
    assert result.iterations == 23


@pytest.mark.parametrize("iterations", [1, 10, 37])
@pytest.mark.parametrize("tau", [1e-1, 1e-2, 1e-3])
def test_kernel_scaling_makes_the_iterates_of_the_log_domain(key, tau, iterations):
    scores = jax.random.normal(key, (20, 20))
    expected = sinkhorn_plan(scores, tau, iterations)
    for method in METHODS:
        result = sinkhorn(scores, tau, iterations=iterations, method=method)
        np.testing.assert_allclose(result.plan, expected, atol=1e-6 / tau)


@pytest.mark.parametrize(("size", "tau"), [(1e4, 1.0), (1e2, 1e-2)])
@pytest.mark.parametrize("method", METHODS)
def test_rows_and_columns_that_underflow(key, size, tau, method):
    scores = tau * jax.random.normal(key, (8, 8))
    for index, factor in [((2,), -1), ((..., 3), 1), ((..., 5), -2), ((1, 6), -1)]:
        scores = scores.at[index].add(factor * size)
    result = sinkhorn(scores, tau, iterations=30, method=method)
    assert result.status == Status.CONVERGED
    # Scores of 10,000 temperatures are known to a thousandth of one in float32.
    np.testing.assert_allclose(result.plan, sinkhorn_plan(scores, tau, 30), atol=1e-2)


def test_small_temperature_gives_the_assignment(key):
    scores = jax.random.normal(key, (16, 16))
    best = hungarian(scores)
    result = sinkhorn(scores, 1e-3, tolerance=1e-3, max_iterations=20_000)
    assert result.status == Status.CONVERGED
    np.testing.assert_allclose(result.plan, permutation_matrix(best.columns), atol=5e-3)


def test_annealing_with_warm_starts_converges_sooner(key):
    scores = jax.random.normal(key, (24, 24))
    cold = sinkhorn(scores, 0.02, tolerance=1e-3)
    potentials, spent = None, 0
    for tau in (0.5, 0.2, 0.1, 0.05, 0.02):
        result = sinkhorn(scores, tau, tolerance=1e-3, initial=potentials)
        potentials, last = result.potentials, int(result.iterations)
        spent += last
    assert last < int(cold.iterations)
    np.testing.assert_allclose(result.plan, cold.plan, atol=1e-2)
    again = sinkhorn(scores, 0.02, tolerance=1.1e-3, initial=potentials)
    assert int(again.iterations) == 11


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("stabilised", {"iterations": 30}),
        ("stabilised", {"tolerance": 1e-4}),
        ("log", {"tolerance": 1e-4}),
    ],
)
def test_batches_vmap_and_jit_agree(key, method, options):
    scores = jax.random.normal(key, (2, 3, 6, 5))
    tau = jnp.array([[0.1, 0.5, 1.0], [0.2, 0.4, 2.0]])

    def solve(s, t):
        return sinkhorn(s, t, method=method, **options)

    whole = solve(scores, tau)
    nested = jax.jit(jax.vmap(jax.vmap(solve)))(scores, tau)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, nested)
    for index in np.ndindex(2, 3):
        one = solve(scores[index], tau[index])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), first(whole, index), one
        )


@pytest.mark.parametrize("method", METHODS)
def test_masked_rows_and_columns_do_not_count(key, method):
    sizes = [(5, 5), (3, 4), (5, 2), (1, 1), (0, 3)]
    scores = jax.random.normal(key, (len(sizes), 5, 5))
    rows = jnp.stack([jnp.arange(5) < n for n, _ in sizes])
    columns = jnp.stack([jnp.arange(5) < m for _, m in sizes])
    present = rows[:, :, None] & columns[:, None, :]
    scores = jnp.where(present, scores, jnp.nan)
    result = sinkhorn(
        scores, 0.3, tolerance=1e-5, row_mask=rows, column_mask=columns, method=method
    )
    assert (result.status == Status.CONVERGED).all()
    assert (jnp.where(present, 0.0, result.plan) == 0).all()
    for i, (n, m) in enumerate(sizes):
        expected = sinkhorn_plan(scores[i, :n, :m], 0.3) if n else np.zeros((n, m))
        np.testing.assert_allclose(result.plan[i, :n, :m], expected, atol=1e-4)
        assert (result.potentials.row[i, n:] == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_forbidden_pairs(key, method):
    scores = jax.random.normal(key, (6, 6))
    scores = jnp.where(
        jax.random.bernoulli(key, 0.3, (6, 6)) & ~jnp.eye(6, dtype=bool), -jnp.inf, scores
    )
    assert jnp.isneginf(scores).any()
    result = sinkhorn(scores, 0.5, iterations=40, method=method)
    np.testing.assert_allclose(result.plan, sinkhorn_plan(scores, 0.5, 40), atol=1e-4)
    assert (result.plan[jnp.isneginf(scores)] == 0).all()


def test_forbidden_pairs_without_a_matching_do_not_converge():
    scores = jnp.array([[1.0, 0.0, 0.0], [0.0, -jnp.inf, -jnp.inf], [0.0, -jnp.inf, -jnp.inf]])
    result = jax.jit(lambda s: sinkhorn(s, 0.5, max_iterations=200))(scores)
    assert result.status == Status.NOT_CONVERGED
    assert jnp.isfinite(result.plan).all()


@pytest.mark.parametrize("max_iterations", [1, 2, 11, 25])
def test_iteration_limit(key, max_iterations):
    scores = jax.random.normal(key, (6, 6))
    result = sinkhorn(scores, 1e-2, tolerance=1e-6, max_iterations=max_iterations)
    assert 1 <= result.iterations <= max_iterations
    assert result.status == Status.NOT_CONVERGED
    assert result.marginal_error > 1e-6


def test_tolerance_beside_fixed_iterations_only_sets_the_status(key):
    scores = jax.random.normal(key, (6, 6))
    short = sinkhorn(scores, 0.1, iterations=2, tolerance=1e-6)
    assert short.status == Status.NOT_CONVERGED
    np.testing.assert_array_equal(short.plan, sinkhorn(scores, 0.1, iterations=2).plan)
    assert sinkhorn(scores, 5.0, iterations=50, tolerance=1e-4).status == Status.CONVERGED


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{"iterations": 60}, {"tolerance": 1e-4}])
def test_non_finite_scores(key, options, method):
    fine = jax.random.normal(key, (4, 3))
    bad = [
        fine.at[2, 0].set(jnp.nan),
        fine.at[2, 0].set(jnp.inf),
        fine.at[2].set(-jnp.inf),
        fine.at[:, 2].set(-jnp.inf),
        fine.at[2, 0].set(3e38),
    ]
    scores = jnp.stack([fine, *bad])

    def solve(s):
        return sinkhorn(s, 0.5, method=method, **options)

    def loss(s):
        result = solve(s)
        return result.plan[:, 0, 0].sum(), result

    gradient, result = jax.jit(jax.grad(loss, has_aux=True))(scores)
    assert result.status.tolist() == [Status.CONVERGED] + [Status.NON_FINITE] * 5
    np.testing.assert_allclose(result.plan[0], sinkhorn_plan(fine, 0.5), atol=2e-3)
    np.testing.assert_allclose(result.plan[1:], 1 / 4, atol=1e-6)
    assert (result.marginal_error[1:] == jnp.inf).all()
    assert (result.potentials.column[1:] == 0).all()
    assert (gradient[0] != 0).any()
    assert (gradient[1:] == 0).all()
    with pytest.raises(ValueError, match=r"sinkhorn: scores hold NaN .* element \[1\]"):
        solve(scores)


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_temperatures(tau):
    with pytest.raises(ValueError, match="want a finite temperature > 0"):
        sinkhorn(jnp.eye(3), tau)
    with pytest.raises(ValueError, match="want a finite temperature > 0"):
        jax.jit(lambda s: sinkhorn(s, tau))(jnp.eye(3))
    result = jax.jit(lambda t: sinkhorn(jnp.eye(3), t))(tau)
    assert result.status == Status.NON_FINITE
    np.testing.assert_allclose(result.plan, 1 / 3, rtol=1e-6)


def test_non_finite_potentials():
    initial = Potentials(jnp.zeros(3), jnp.array([0.0, jnp.nan, 0.0]))
    result = jax.jit(lambda s: sinkhorn(s, 1.0, initial=initial))(jnp.eye(3))
    assert result.status == Status.NON_FINITE
    assert jnp.isfinite(result.plan).all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 0, 3), (0, 3, 3)])
def test_empty(shape):
    result = sinkhorn(jnp.zeros(shape), 1.0)
    assert result.plan.shape == shape
    assert result.potentials.row.shape == shape[:-1]
    assert result.potentials.column.shape == (*shape[:-2], shape[-1])
    assert (result.status == Status.CONVERGED).all()


@pytest.mark.parametrize("method", METHODS)
def test_equal_scores_give_the_uniform_plan(method):
    result = sinkhorn(jnp.full((4, 4), 7.0), 1e-3, method=method)
    np.testing.assert_allclose(result.plan, 0.25, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_narrow_dtypes_are_computed_in_float32(key, dtype):
    scores = (3 * jax.random.normal(key, (5, 5))).astype(dtype)
    result = sinkhorn(scores, 0.5, iterations=20)
    assert result.plan.dtype == result.marginal_error.dtype == jnp.float32
    np.testing.assert_array_equal(
        result.plan, sinkhorn(scores.astype(jnp.float32), 0.5, iterations=20).plan
    )


def test_compiles_once_for_all_temperatures(key):
    traces = []

    @jax.jit
    def solve(s, t):
        traces.append(None)
        return sinkhorn(s, t)

    for tau in (0.1, 0.5, 1.0):
        solve(jax.random.normal(key, (5, 5)), tau)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "kernel"}, "method='kernel'"),
        ({"differentiation": "auto"}, "differentiation='auto'"),
        ({"differentiation": "unrolled"}, "pass iterations="),
        ({"iterations": 0}, "iterations=0"),
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"tolerance": -1.0}, "tolerance=-1.0"),
        ({"row_mask": jnp.ones(4, bool)}, r"row_mask of shape \(4,\)"),
        ({"column_mask": jnp.ones(2, bool)}, r"column_mask of shape \(2,\)"),
        ({"initial": Potentials(jnp.zeros(3), jnp.zeros(4))}, r"initial.column of shape \(4,\)"),
        ({"initial": Potentials(jnp.zeros(4), jnp.zeros(3))}, r"initial.row of shape \(4,\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn(jnp.eye(3), 1.0, **options)


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        sinkhorn(jnp.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"tau of shape \(2,\)"):
        sinkhorn(jnp.zeros((3, 3)), jnp.ones(2))


def test_matches_ott(key):
    linear = pytest.importorskip("ott.solvers.linear")
    geometry = pytest.importorskip("ott.geometry.geometry")
    scores = jax.random.normal(key, (12, 12))
    with jax.numpy_rank_promotion("allow"):
        out = linear.solve(
            geometry.Geometry(cost_matrix=-scores, epsilon=0.2), threshold=1e-6, lse_mode=True
        )
        expected = 12 * out.matrix
    result = sinkhorn(scores, 0.2, tolerance=1e-5)
    np.testing.assert_allclose(result.plan, expected, atol=1e-4)
