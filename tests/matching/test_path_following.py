import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from jaxfuse.affinity import ExactGaussian
from jaxfuse.matching.path_following import PathFollowing, curvature
from tests.matching.instances import (
    nested_problem,
    residual_network,
    residual_objective,
    residual_problem,
    self_linked,
    solve,
)
from tests.matching.planted import check_planted
from tests.oracles import lawler as oracle
from tests.oracles.affinity import double_centred
from tests.oracles.matching import Objective


@functools.partial(jax.jit, static_argnums=0)
def follow(solver, problem, lambdas):
    return solver.follow(problem, problem.barycentre(), lambdas)


@pytest.fixture(scope="module")
def residual():
    (a, symmetry), (b, _) = residual_network(3), residual_network(103)
    centred = [{k: double_centred(np.float64(p[k])) for k in ("U0", "V0")} for p in (a, b)]
    return residual_problem(a, b, symmetry), residual_objective(a, b), *centred


def bracket(a, b, p, q):
    """Return the form q of one tensor, from norms."""
    squares = [np.sum(x**2) for x in (a @ q, p @ b, p.T @ a, b @ q.T)]
    return sum(squares) / 4


def form(matching, a, b):
    r, h = matching["r"], matching["h0"]
    return bracket(a["U0"], b["U0"], r, h) + bracket(a["V0"], b["V0"], h, r)


def value(bent, matching):
    slope = bent.slope(matching)
    return sum(float(np.vdot(slope[g], matching[g])) for g in matching) / 2


def test_form_is_the_norms_and_one_number_at_permutations(residual):
    problem, _, a, b = residual
    bent = jax.jit(curvature)(problem)
    rng = np.random.default_rng(0)
    soft = {g: rng.standard_normal((n, n)) for g, n in problem.sizes.items()}
    np.testing.assert_allclose(value(bent, soft), form(soft, a, b), rtol=1e-4)
    one = form({g: np.eye(n) for g, n in problem.sizes.items()}, a, b)
    for r in itertools.permutations(range(4)):
        hard = {"r": np.eye(4)[list(r)], "h0": np.eye(3)[rng.permutation(3)]}
        np.testing.assert_allclose(value(bent, hard), one, rtol=1e-4)
        columns = {g: np.argmax(p, axis=1) for g, p in hard.items()}
        for group, want in bent.slope(hard).items():
            np.testing.assert_allclose(bent.slope_at(columns)[group], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["linear", "self_linked", "exact_gaussian"])
def test_ends_of_the_path_are_concave_and_convex(case, residual):
    if case == "self_linked":
        problem, _ = self_linked(1)
    else:
        (a, symmetry), (b, _) = residual_network(3), residual_network(103)
        affinity = ExactGaussian() if case == "exact_gaussian" else None
        problem = residual_problem(a, b, symmetry, affinity)
    bent, slope = jax.jit(curvature)(problem), jax.jit(problem.scores)
    directions = []
    for group, n in problem.sizes.items():
        zero = {g: np.zeros((m, m), np.float32) for g, m in problem.sizes.items()}
        for column in oracle.zero_sum_basis(n).T:
            directions.append({**zero, group: np.float32(column.reshape(n, n))})
    _, where = oracle.dense(Objective(problem.nodes, []))
    basis = np.array([oracle.flat(d, where) for d in directions])
    bends = np.array([oracle.flat(slope(d), where) for d in directions])
    bends = basis @ (bends - oracle.flat(problem.nodes, where)).T
    pull = basis @ np.array([oracle.flat(bent.slope(d), where) for d in directions]).T
    # Single precision is all that limits this.
    slack = 1e-5 * np.linalg.norm(pull)
    assert np.linalg.eigvalsh(bends - pull)[-1] < slack
    assert np.linalg.eigvalsh(bends + pull)[0] > -slack
    # And the form is no larger than it need be.
    assert np.linalg.eigvalsh(bends)[-1] > 0.2 * np.linalg.eigvalsh(pull)[-1]


def test_path_begins_at_the_maximum_of_the_concave_relaxation(residual):
    problem, objective, a, b = residual
    sizes = {"r": 4, "h0": 3}

    def part(x):
        return {"r": x[:16].reshape(4, 4), "h0": x[16:].reshape(3, 3)}

    def relaxed(x):
        return form(part(x), a, b) - objective.value(part(x))

    def margins(x):
        return np.concatenate([p.sum(axis) - 1 for p in part(x).values() for axis in (0, 1)])

    start = np.concatenate([np.full(n * n, 1 / n) for n in sizes.values()])
    best = minimize(
        relaxed,
        start,
        method="SLSQP",
        bounds=[(0, 1)] * 25,
        # The last sum follows from the others.
        constraints={"type": "eq", "fun": lambda x: np.delete(margins(x), [7, 13])},
    )
    assert best.success
    last, _ = follow(PathFollowing(iterations=400, tolerance=1e-5), problem, jnp.array([-1.0]))
    reached = relaxed(np.concatenate([np.ravel(last.point[g]) for g in sizes]))
    assert best.fun - 1e-6 <= reached
    assert reached - best.fun < 0.02 * abs(best.fun - relaxed(start))


def test_path_ends_at_a_permutation_near_the_optimum(instances, key):
    shares = []
    for problem, _, optimum in zip(*instances, strict=True):
        last, trace = follow(PathFollowing(), problem, jnp.linspace(-1.0, 1.0, 20))
        for point in last.point.values():
            np.testing.assert_allclose(np.sort(point, axis=1)[:, -1], 1.0, atol=1e-5)
        shares.append(float(trace[-1]) / optimum)
    assert max(shares) < 1.0001
    assert np.mean(shares) > 0.97


def test_planted_matching(key):
    check_planted(PathFollowing(steps=5, polish=None), key)


def test_nested_groups_that_share_what_indexes_them(key):
    problem, *_ = nested_problem("block_recurrent", h=2, d=3)
    matching = solve(PathFollowing(steps=5, polish=None), problem, key)
    entries = matching.permutations["d"].reshape(2, 3) // 3
    np.testing.assert_array_equal(entries, np.tile(matching.permutations["h"][:, None], 3))


def test_what_does_not_fit_is_refused(instances):
    with pytest.raises(ValueError, match=r"PathFollowing holds vectors.*limit=24"):
        PathFollowing(limit=24).solve(instances[0][0])
    with pytest.raises(ValueError, match="steps must be 2 or more"):
        PathFollowing(steps=1)
