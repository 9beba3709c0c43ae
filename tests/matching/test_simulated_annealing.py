import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.affinity import Linear
from jaxfuse.matching import Problem, build_problem
from jaxfuse.matching.simulated_annealing import SimulatedAnnealing, gains, sweep
from jaxfuse.symmetry import Symmetry
from tests.matching.instances import nested_problem, self_linked, solve
from tests.matching.planted import check_planted

SHORT = SimulatedAnnealing(steps=10, polish=None)


def test_gains_are_the_differences_of_the_objective(instances):
    problem, objective, _ = (part[0] for part in instances)
    rng = np.random.default_rng(0)
    columns = {g: rng.permutation(n).astype(np.int32) for g, n in problem.sizes.items()}
    before = objective.value_at(columns)
    scores = jax.jit(Problem.scores_at)(problem, columns)
    for group, n in problem.sizes.items():
        for offset in range(n):
            partners = (offset - np.arange(n)) % n
            got = gains(scores[group], columns[group], partners)
            for unit, partner in enumerate(partners):
                swapped = columns[group].copy()
                swapped[[unit, partner]] = swapped[[partner, unit]]
                after = objective.value_at({**columns, group: swapped})
                np.testing.assert_allclose(got[unit], after - before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("linked", [False, True])
def test_sweeps_draw_from_the_gibbs_distribution(linked, key):
    problem, objective = self_linked(2, n=3)
    if not linked:
        problem = Problem({"g": 3 * problem.nodes["g"]}, (), ())
    every = list(itertools.permutations(range(3)))
    temperature = 2.0

    def step(permutations, key):
        moved = sweep(problem, permutations, jnp.float32(temperature), key)
        return moved, moved["g"]

    run = jax.jit(lambda keys: jax.lax.scan(step, problem.identity(), keys)[1])
    drawn = np.asarray(run(jax.random.split(key, 4000)))
    seen = [np.mean((drawn == np.array(p)).all(axis=1)) for p in every]
    value = problem.objective_at if not linked else objective.value_at
    weights = np.exp([float(value({"g": np.array(p)})) / temperature for p in every])
    np.testing.assert_allclose(seen, weights / weights.sum(), atol=0.04)
    assert np.sum(seen) == pytest.approx(1.0)


def test_optimum_of_small_problems(instances, key):
    """Of 16 keys one finds every optimum, and most find most: one key alone may be lucky."""
    solver = SimulatedAnnealing(polish=None)
    run = jax.jit(jax.vmap(lambda problem, key: solver.solve(problem, key=key), (None, 0)))
    shares = []
    for problem, _, optimum in zip(*instances, strict=True):
        found = run(problem, jax.random.split(key, 16))
        np.testing.assert_allclose(jnp.max(found.objective), optimum, rtol=1e-4)
        assert (jnp.max(found.trace, axis=1) <= found.objective + 1e-4).all()
        shares.append(np.mean(np.isclose(found.objective, optimum, rtol=1e-4)))
    assert np.mean(shares) > 0.8


def test_optimum_of_a_group_that_meets_itself(key):
    solver = SimulatedAnnealing(polish=None)
    for seed in range(3):
        problem, objective = self_linked(seed)
        matching = solve(solver, problem, key)
        np.testing.assert_allclose(matching.objective, objective.optimum()[0], rtol=1e-4)


def test_optimum_of_a_tensor_that_joins_three_groups(key):
    rng = np.random.default_rng(0)
    a, b = (
        {k: np.float32(rng.standard_normal(s)) for k, s in (("x", (3, 3, 3)), ("y", (3, 2)))}
        for _ in range(2)
    )
    symmetry = Symmetry.from_axes({"x": ("f", "g", "h"), "y": ("h", None)}, a)
    problem = build_problem(a, b, symmetry, Linear())
    assert not problem.is_quadratic
    values = [
        np.vdot(a["x"], b["x"][np.ix_(*p)]) + np.vdot(a["y"], b["y"][p[2]])
        for p in itertools.product(map(list, itertools.permutations(range(3))), repeat=3)
    ]
    matching = solve(SimulatedAnnealing(polish=None), problem, key)
    np.testing.assert_allclose(matching.objective, max(values), rtol=1e-4)


def test_planted_matching(key):
    check_planted(SimulatedAnnealing(polish=None), key)


def test_a_start_is_rounded_and_kept_where_it_is_best(key):
    # The cycle is worth three, and every other matching one or nothing.
    cycle = jnp.eye(3)[jnp.array([1, 2, 0])]
    hot = SimulatedAnnealing(steps=1, tau_start=100.0, tau_stop=100.0, polish=None)
    run = jax.jit(hot.solve)
    found = [run(Problem({"g": cycle}, (), ()), {"g": cycle}, k) for k in jax.random.split(key, 8)]
    assert min(float(matching.trace[0]) for matching in found) <= 1
    assert all(matching.objective == 3 for matching in found)


def test_what_does_not_fit_is_refused(instances, key):
    problem = instances[0][0]
    with pytest.raises(ValueError, match="needs key="):
        SHORT.solve(problem)
    with pytest.raises(ValueError, match=r"make 110 proposals, more than limit=50: .* to 4"):
        SimulatedAnnealing(steps=10, limit=50).solve(problem, key=key)
    with pytest.raises(ValueError, match="'h' indexes 'd': use CoordinateAscent"):
        SHORT.solve(nested_problem("block_recurrent", h=2, d=2)[0], key=key)
    with pytest.raises(ValueError, match="temperature must fall"):
        SimulatedAnnealing(tau_start=0.1, tau_stop=1.0)
