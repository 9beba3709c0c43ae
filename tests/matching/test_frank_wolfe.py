import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.assignment import hungarian
from jaxfuse.matching import FrankWolfe, Problem
from jaxfuse.matching.frank_wolfe import maximise_polynomial
from jaxfuse.matching.packed import Packed
from tests.matching.instances import nested_problem, self_linked


@functools.partial(jax.jit, static_argnums=0)
def walk(solver, problem):
    packed = Packed.of(problem)
    last = solver.walk(packed, packed.pack(problem.barycentre()))
    each = {name: packed.unpack(getattr(last, name)) for name in ("point", "slope", "best")}
    return last._replace(**each)


@pytest.fixture(scope="module", params=["residual", "self_linked"])
def case(request, instances):
    return self_linked(1) if request.param == "self_linked" else (instances[0][1], instances[1][1])


def test_step_is_the_best_of_a_dense_grid(case):
    problem, oracle = case
    first = walk(FrankWolfe(max_iterations=1), problem)
    start = {g: np.full((n, n), 1 / n) for g, n in problem.sizes.items()}
    slope = oracle.scores(start)
    corner = {
        g: np.eye(len(s))[np.asarray(hungarian(np.float32(s)).columns)] for g, s in slope.items()
    }
    grid = [
        oracle.value({g: (1 - t) * start[g] + t * corner[g] for g in start})
        for t in np.linspace(0, 1, 1001)
    ]
    np.testing.assert_allclose(first.objective, max(grid), rtol=1e-4)
    np.testing.assert_allclose(oracle.value(first.point), max(grid), rtol=1e-4)
    np.testing.assert_allclose(first.best_objective, oracle.value(corner), rtol=1e-4)


def test_slope_and_objective_are_those_of_the_point(case):
    problem, oracle = case
    last = walk(FrankWolfe(), problem)
    assert last.iteration > 1
    np.testing.assert_allclose(last.objective, oracle.value(last.point), rtol=1e-4)
    for group, want in oracle.scores(last.point).items():
        np.testing.assert_allclose(last.slope[group], want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(jnp.sum(last.point[group], axis=0), 1.0, rtol=1e-5)
        np.testing.assert_allclose(jnp.sum(last.point[group], axis=1), 1.0, rtol=1e-5)
        assert (last.point[group] >= 0).all()


def test_trace_rises(case):
    problem, _ = case
    last = walk(FrankWolfe(), problem)
    assert (np.diff(last.trace) >= -1e-5).all()
    np.testing.assert_allclose(last.trace[-1], last.objective)


def test_best_corner_is_the_one_it_says(case):
    problem, oracle = case
    last = walk(FrankWolfe(), problem)
    np.testing.assert_allclose(last.best_objective, oracle.value_at(last.best), rtol=1e-4)


@pytest.fixture(scope="module")
def sampled():
    """A problem whose objective has degree three, and a walk on it."""
    problem, *_ = nested_problem("grouped_query")
    return problem, walk(FrankWolfe(max_iterations=6), problem)


def test_sampled_walk_keeps_its_own_account(sampled):
    problem, last = sampled
    assert last.iteration > 1
    assert (np.diff(last.trace) >= -1e-3).all()
    value, slope = jax.jit(jax.value_and_grad(Problem.objective, argnums=1))(problem, last.point)
    np.testing.assert_allclose(last.objective, value, rtol=1e-4)
    best = jax.jit(Problem.objective_at)(problem, last.best)
    np.testing.assert_allclose(last.best_objective, best, rtol=1e-4)
    for node, want in slope.items():
        np.testing.assert_allclose(last.slope[node], want, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(jnp.sum(last.point[node], axis=0), 1.0, rtol=1e-4)


def test_sampled_step_is_the_parabolas_where_there_is_one(case):
    problem, _ = case
    solver = FrankWolfe(max_iterations=1)
    packed = Packed.of(problem)
    start = jax.jit(lambda p: solver.walk(p, p.pack(problem.barycentre())))(packed)
    again = jax.jit(solver._step_sampled)(packed, start)
    exact = jax.jit(solver._step)(packed, start)
    np.testing.assert_allclose(again.objective, exact.objective, rtol=1e-3)
    for node in packed.nodes:
        np.testing.assert_allclose(again.point[node], exact.point[node], atol=2e-3)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_polynomial_is_largest_where_it_says(degree):
    rng = np.random.default_rng(degree)
    grid, knots = np.linspace(0, 1, 1001), np.linspace(0, 1, degree + 1)
    for _ in range(5):
        polynomial = np.polynomial.Polynomial(rng.standard_normal(degree + 1))
        step = maximise_polynomial(jnp.asarray(polynomial(knots), jnp.float32))
        np.testing.assert_allclose(polynomial(float(step)), polynomial(grid).max(), atol=1e-5)
