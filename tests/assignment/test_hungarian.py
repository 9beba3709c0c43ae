import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from jaxfuse.assignment import hungarian
from jaxfuse.status import Status
from tests.oracles.assignment import brute_force

module = importlib.import_module("jaxfuse.assignment.hungarian")

BACKENDS = ["host", "callback", "jax", "auction"]
TRACEABLE = ["callback", "jax", "auction"]
SHAPES = [(1, 1), (1, 4), (4, 1), (17, 23), (23, 17), (40, 40)]


def check_optimal(scores, result):
    """The columns are a complete matching, and reach SciPy's objective."""
    scores = np.asarray(scores, np.float64)
    n, m = scores.shape
    columns = np.asarray(result.columns)
    matched = columns[columns >= 0]
    assert columns.dtype == np.int32
    assert len(matched) == len(set(matched.tolist())) == min(n, m)
    assert result.status == Status.CONVERGED
    rows = np.flatnonzero(columns >= 0)
    best = scores[linear_sum_assignment(scores, maximize=True)].sum()
    np.testing.assert_allclose(scores[rows, matched].sum(), best, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result.objective, best, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_scipy(key, shape, backend):
    scores = jax.random.normal(key, shape)
    check_optimal(scores, hungarian(scores, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=20)
@given(
    scores=hnp.arrays(
        np.float32,
        st.sampled_from([(3, 3), (2, 4), (4, 2)]),
        elements=st.sampled_from([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0]),
    )
)
def test_matches_brute_force_with_ties(backend, scores):
    result = hungarian(scores, backend=backend)
    check_optimal(scores, result)
    assert result.objective == pytest.approx(brute_force(scores))


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_scores_give_a_permutation_every_time(backend):
    first = hungarian(jnp.ones((6, 6)), backend=backend)
    second = hungarian(jnp.ones((6, 6)), backend=backend)
    check_optimal(np.ones((6, 6)), first)
    np.testing.assert_array_equal(first.columns, second.columns)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_rows_with_large_offsets(key, backend, offset):
    scores = jax.random.normal(key, (30, 30)) + offset * jnp.arange(30)[:, None]
    check_optimal(scores, hungarian(scores, backend=backend))


@pytest.mark.parametrize("backend", TRACEABLE)
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_jit_batch_and_nested_vmap_agree(key, shape, backend):
    scores = jax.random.normal(key, (2, 3, *shape))

    def solve(s):
        return hungarian(s, backend=backend)

    whole = jax.jit(solve)(scores)
    nested = jax.jit(jax.vmap(jax.vmap(solve)))(scores)
    for index in np.ndindex(2, 3):
        check_optimal(scores[index], jax.tree.map(lambda a, index=index: a[index], whole))
    jax.tree.map(np.testing.assert_array_equal, whole, nested)


@pytest.mark.parametrize("backend", TRACEABLE)
def test_inside_scan_and_while_loop(key, backend):
    scores = jax.random.normal(key, (4, 7, 7))

    @jax.jit
    def scanned(s):
        return jax.lax.scan(lambda c, x: (c, hungarian(x, backend=backend)), None, s)[1]

    @jax.jit
    def looped(s):
        def body(state):
            i, total = state
            return i + 1, total + hungarian(s[i], backend=backend).objective

        return jax.lax.while_loop(lambda state: state[0] < 4, body, (0, 0.0))[1]

    result = scanned(scores)
    for i in range(4):
        check_optimal(scores[i], jax.tree.map(lambda a, i=i: a[i], result))
    np.testing.assert_allclose(looped(scores), result.objective.sum(), rtol=1e-6)


@pytest.mark.parametrize("size", [5, 160])  # one below and one above the threshold for threads
def test_a_batch_is_one_host_call(key, monkeypatch, size):
    calls = []
    solve = module._solve_batch
    monkeypatch.setattr(module, "_solve_batch", lambda s: (calls.append(s.shape), solve(s))[1])
    scores = jax.random.normal(key, (2, 4, size, size))
    result = jax.jit(jax.vmap(jax.vmap(hungarian)))(scores)
    jax.block_until_ready(result)
    assert calls == [(2, 4, size, size)]
    for index in np.ndindex(2, 4):
        check_optimal(scores[index], jax.tree.map(lambda a, index=index: a[index], result))


def test_auto_is_the_host_outside_jit_and_a_callback_inside(key):
    scores = jax.random.normal(key, (5, 5))
    check_optimal(scores, hungarian(scores))
    check_optimal(scores, jax.jit(hungarian)(scores))
    assert "pure_callback" not in str(jax.make_jaxpr(lambda: hungarian(scores))())
    assert "pure_callback" in str(jax.make_jaxpr(hungarian)(scores))


def test_compiles_once(key):
    traces = []

    @jax.jit
    def solve(s):
        traces.append(None)
        return hungarian(s)

    for k in jax.random.split(key, 3):
        solve(jax.random.normal(k, (5, 5)))
    assert len(traces) == 1


def test_export_of_the_jax_backend(key):
    scores = jax.random.normal(key, (3, 8, 10))
    solve = jax.jit(lambda s: hungarian(s, backend="jax")[:2])
    exported = jax.export.export(solve)(jax.ShapeDtypeStruct(scores.shape, scores.dtype))
    assert "callback" not in exported.mlir_module()
    columns, objective = exported.call(scores)
    expected = hungarian(scores)
    np.testing.assert_array_equal(columns, expected.columns)
    np.testing.assert_allclose(objective, expected.objective, rtol=1e-6)


@pytest.mark.parametrize("backend", TRACEABLE)
def test_derivative_is_zero(key, backend):
    scores = jax.random.normal(key, (4, 4))

    def objective(s):
        return hungarian(s, backend=backend).objective

    np.testing.assert_array_equal(jax.grad(objective)(scores), jnp.zeros((4, 4)))
    assert jax.jvp(objective, (scores,), (scores,))[1] == 0


@pytest.mark.parametrize("backend", TRACEABLE)
@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
def test_non_finite_scores(key, backend, shape):
    scores = jax.random.normal(key, (3, *shape))
    scores = scores.at[1, 1, 0].set(jnp.nan).at[2, 1, 0].set(jnp.inf)
    result = jax.jit(lambda s: hungarian(s, backend=backend))(scores)
    check_optimal(scores[0], jax.tree.map(lambda a: a[0], result))
    n, m = shape
    assert (result.status[1:] == Status.NON_FINITE).all()
    assert (result.objective[1:] == -jnp.inf).all()
    assert result.columns[1:].tolist() == 2 * [[i if i < m else -1 for i in range(n)]]
    with pytest.raises(ValueError, match=r"hungarian: scores hold NaN .* element \[1\]"):
        hungarian(scores, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_forbidden_pairs_are_avoided(key, backend):
    scores = jax.random.normal(key, (12, 12))
    allowed = jax.random.bernoulli(key, 0.4, (12, 12)) | jnp.eye(12, dtype=bool)
    scores = jnp.where(allowed, scores, -jnp.inf)
    result = hungarian(scores, backend=backend)
    check_optimal(scores, result)
    assert allowed[jnp.arange(12), result.columns].all()


@pytest.mark.parametrize("backend", TRACEABLE)
def test_infeasible_scores_use_the_fewest_forbidden_pairs(backend):
    scores = jnp.array([[3.0, 1.0, 2.0], [1.0, -jnp.inf, -jnp.inf], [2.0, -jnp.inf, -jnp.inf]])
    result = jax.jit(lambda s: hungarian(s, backend=backend))(scores)
    assert result.status == Status.NON_FINITE
    assert result.objective == -jnp.inf
    assert sorted(result.columns.tolist()) == [0, 1, 2]
    assert result.columns[0] == 2
    assert result.columns[2] == 0
    nothing = jax.jit(lambda s: hungarian(s, backend=backend))(jnp.full((3, 3), -jnp.inf))
    assert nothing.status == Status.NON_FINITE
    assert sorted(nothing.columns.tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="forbid so many pairs"):
        hungarian(scores, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 0, 4), (0, 3, 3)])
def test_empty(backend, shape):
    result = hungarian(jnp.zeros(shape), backend=backend)
    assert result.columns.shape == shape[:-1]
    assert result.objective.shape == result.status.shape == shape[:-2]
    assert (result.columns == -1).all()
    assert (result.objective == 0).all()
    assert (result.status == Status.CONVERGED).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int8, jnp.int32])
def test_dtypes(key, backend, dtype):
    scores = (10 * jax.random.normal(key, (9, 9))).astype(dtype)
    result = hungarian(scores, backend=backend)
    check_optimal(scores, result)
    assert result.objective.dtype == jnp.float32


@pytest.mark.parametrize("backend", ["host", "callback"])
def test_large_integers_are_exact_on_the_host(backend):
    scores = np.array([[2**30 + 1, 2**30], [2**30, 2**30]], np.int32)
    assert hungarian(scores, backend=backend).columns.tolist() == [0, 1]
    assert hungarian(scores[:, ::-1], backend=backend).columns.tolist() == [1, 0]


def test_host_keeps_float64():
    scores = np.array([[1 + 1e-12, 1.0], [1.0, 1.0]])
    assert hungarian(scores[:, ::-1]).columns.tolist() == [1, 0]


def test_read_only_input_is_left_alone(key):
    scores = np.array(jax.random.normal(key, (5, 5)))
    scores[0, 0] = -np.inf
    scores.flags.writeable = False
    before = scores.copy()
    check_optimal(scores, hungarian(scores, backend="host"))
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("backend", TRACEABLE)
def test_extreme_scores_end_in_a_status(backend):
    scores = np.full((3, 3), 3e38, np.float32)
    scores[0, 1] = -3e38
    result = jax.jit(lambda s: hungarian(s, backend=backend))(scores)
    assert int(result.status) in (Status.CONVERGED, Status.NON_FINITE)
    assert sorted(result.columns.tolist()) == [0, 1, 2]


def test_bad_arguments(key):
    with pytest.raises(ValueError, match="backend='gpu'"):
        hungarian(jnp.eye(2), backend="gpu")
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        hungarian(jnp.zeros(2))
    with pytest.raises(ValueError, match="needs concrete scores"):
        jax.jit(lambda s: hungarian(s, backend="host"))(jnp.eye(2))
