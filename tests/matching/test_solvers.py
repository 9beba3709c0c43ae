"""What every solver promises: permutations, never below the identity, never above the optimum."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxfuse.affinity import Linear
from jaxfuse.matching import CoordinateAscent, FrankWolfe, Problem, build_problem
from jaxfuse.matching.nodes import nest
from jaxfuse.status import Status
from jaxfuse.symmetry import permute, random_permutations
from tests.matching.instances import (
    SOLVERS,
    alone,
    nested_problem,
    residual_network,
    residual_problem,
    self_linked,
    solve,
)
from tests.oracles import nested as nested_oracle

BASIC = ["coordinate_ascent", "frank_wolfe", "graduated_assignment"]


@pytest.fixture(scope="module", params=SOLVERS)
def solver(request):
    return SOLVERS[request.param]


@pytest.fixture
def key():
    return jax.random.key(7)


def assert_consistent(problem, oracle, matching):
    """The result is a permutation, its objective is true, and not below the identity's."""
    for group, n in problem.sizes.items():
        assert matching.permutations[group].dtype == jnp.int32
        np.testing.assert_array_equal(np.sort(matching.permutations[group]), np.arange(n))
    value = oracle.value_at(matching.permutations)
    np.testing.assert_allclose(matching.objective, value, rtol=1e-5, atol=1e-5)
    assert value >= oracle.value_at(problem.identity()) - 1e-5
    assert np.isfinite(matching.trace).all()


def test_against_brute_force(solver, instances, key):
    shares = []
    for problem, oracle, optimum in zip(*instances, strict=True):
        matching = solve(solver, problem, key)
        assert_consistent(problem, oracle, matching)
        assert matching.objective <= optimum + 1e-4
        shares.append(float(matching.objective) / optimum)
    # Local optima are allowed; a solver that moved nothing would stay far below.
    assert np.mean(shares) > 0.85


def test_planted_permutation_is_found_and_is_the_optimum(solver, key):
    # No noise, and more inputs than the ascent can be misled by.
    rng = np.random.default_rng(0)
    params, symmetry = residual_network(0)
    params = {**params, "W0": jnp.asarray(5 * rng.standard_normal((3, 4)), jnp.float32)}
    planted = random_permutations(symmetry, jax.random.key(3))
    other = permute(params, symmetry, planted)
    matching = solve(solver, residual_problem(params, other, symmetry), key)
    assert matching.status == Status.CONVERGED
    for group, columns in matching.permutations.items():
        np.testing.assert_array_equal(planted[group][columns], np.arange(len(columns)))
    best = sum(float(jnp.sum(leaf**2)) for leaf in params.values())
    np.testing.assert_allclose(matching.objective, best, rtol=1e-5)


def test_aligned_pair_keeps_the_identity(solver, key):
    params, symmetry = residual_network(0)
    matching = solve(solver, residual_problem(params, params, symmetry), key)
    assert matching.status == Status.ALREADY_ALIGNED
    for columns in matching.permutations.values():
        np.testing.assert_array_equal(columns, np.arange(len(columns)))


def test_zero_problem_keeps_the_identity(solver, key, instances):
    problem = jax.tree.map(jnp.zeros_like, instances[0][0])
    matching = solve(solver, problem, key)
    assert matching.status == Status.ALREADY_ALIGNED
    assert matching.objective == 0
    np.testing.assert_array_equal(matching.permutations["r"], np.arange(4))


@pytest.mark.parametrize("name", BASIC)
def test_group_that_meets_itself(name, key):
    solver = SOLVERS[name]
    gaps = []
    for seed in range(5):
        problem, oracle = self_linked(seed)
        matching = solve(solver, problem, key)
        assert_consistent(problem, oracle, matching)
        optimum, _ = oracle.optimum()
        assert matching.objective <= optimum + 1e-4
        gaps.append(float(matching.objective) / optimum)
    assert np.mean(gaps) > 0.5


@pytest.mark.parametrize("name", ["coordinate_ascent_random", "frank_wolfe"])
def test_vmap_equals_the_loop(name, instances, key):
    solver, problems = SOLVERS[name], instances[0][:4]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    batched = jax.jit(jax.vmap(lambda p: solver.solve(p, key=key)))(stacked)
    for index, problem in enumerate(problems):
        single = solve(solver, problem, key)
        for got, want in zip(jax.tree.leaves(batched), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(got[index], want, rtol=1e-4, atol=1e-4)


def test_bare_equals_jit(instances, key):
    solver, problem = SOLVERS["coordinate_ascent"], instances[0][0]
    bare, compiled = solver.solve(problem, key=key), solve(solver, problem, key)
    chex.assert_trees_all_close(bare, compiled, rtol=1e-4)


def test_one_compilation_serves_all_values(instances, key):
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(lambda p: SOLVERS["coordinate_ascent"].solve(p), n=1))
    objectives = {float(traced(problem).objective) for problem in instances[0][:3]}
    assert len(objectives) == 3


def test_trace_has_the_same_length_for_every_problem(instances, key):
    problem = instances[0][0]
    lengths = {
        name: jax.eval_shape(lambda p, s=s: s.solve(p, key=key), problem).trace.shape
        for name, s in SOLVERS.items()
    }
    ascent, walk, cooling = (SOLVERS[name] for name in BASIC)
    steps = cooling.steps * cooling.sweeps
    first, second = SOLVERS["portfolio"].solvers
    assert lengths == {
        "coordinate_ascent": (ascent.max_sweeps,),
        "coordinate_ascent_random": (ascent.max_sweeps,),
        "frank_wolfe": (walk.max_iterations,),
        "graduated_assignment": (steps,),
        "graduated_assignment_plain": (steps,),
        "portfolio": (max(first.max_iterations, second.steps * second.sweeps),),
    }


def test_random_order_needs_a_key_and_repeats_with_it(instances, key):
    solver, problem = SOLVERS["coordinate_ascent_random"], instances[0][0]
    with pytest.raises(ValueError, match="needs key="):
        solver.solve(problem)
    chex.assert_trees_all_equal(solve(solver, problem, key), solve(solver, problem, key))


@pytest.mark.parametrize("solver", [CoordinateAscent(), FrankWolfe()])
def test_start_is_respected(solver):
    # From the identity no single group gains; the reversal of both is better.
    mirror = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    edges = (1 - 2 * mirror)[..., None]
    block = Linear().block(edges, edges)
    problem = Problem({"g": 0.1 * mirror, "h": 0.1 * mirror}, *alone(block, "g", "h"))
    start = {"g": mirror, "h": mirror}
    matching = jax.jit(solver.solve)(problem, start)
    np.testing.assert_array_equal(matching.permutations["g"], [1, 0])
    np.testing.assert_array_equal(matching.permutations["h"], [1, 0])


@pytest.mark.parametrize("name", ["frank_wolfe", "graduated_assignment"])
def test_planted_recovery_under_noise(name, key):
    recovered = 0
    for seed in range(3):
        params, symmetry = residual_network(seed, stream=16, inner=20, blocks=2, bias=False)
        shuffle = jax.jit(lambda tree, p, s=symmetry: permute(tree, s, p))
        planted = random_permutations(symmetry, jax.random.key(seed))
        rng = np.random.default_rng(50 + seed)
        noisy = {
            k: np.asarray(leaf) + 0.5 * rng.standard_normal(leaf.shape).astype(np.float32)
            for k, leaf in params.items()
        }
        other = shuffle(noisy, planted)
        matching = solve(SOLVERS[name], residual_problem(params, other, symmetry), key)
        recovered += all(
            np.array_equal(planted[g][p], np.arange(len(p)))
            for g, p in matching.permutations.items()
        )
    assert recovered == 3


@pytest.mark.parametrize("name", BASIC)
def test_problem_without_blocks_is_an_assignment(name, key):
    nodes = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    problem = Problem({"g": jnp.asarray(nodes)}, (), ())
    rows, columns = linear_sum_assignment(nodes, maximize=True)
    matching = solve(SOLVERS[name], problem, key)
    np.testing.assert_allclose(matching.objective, nodes[rows, columns].sum(), rtol=1e-5)


def test_build_problem_is_differentiable_in_the_weights():
    (a, symmetry), (b, _) = residual_network(0), residual_network(1)

    def value(b):
        problem = build_problem(a, b, symmetry, Linear())
        return problem.objective_at(problem.identity())

    gradient = jax.jit(jax.grad(value))(b)
    chex.assert_trees_all_close(gradient, a, rtol=1e-5)


TINY = {
    "grouped_query": {"e": 3, "kv": 2, "g": 2, "qk": 2, "vo": 1},
    "block_recurrent": {"h": 2, "d": 3},
}


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("coordinate_ascent", "grouped_query"),
        ("frank_wolfe", "grouped_query"),
        ("graduated_assignment", "block_recurrent"),
    ],
)
def test_nested_groups_against_brute_force(name, network, key):
    shares = []
    for seed in range(3):
        problem, a, b, symmetry = nested_problem(network, seed, **TINY[network])
        matching = solve(SOLVERS[name], problem, key)
        found = jax.tree.map(np.asarray, nest(symmetry, matching.permutations))
        values = [nested_oracle.objective(a, b, symmetry, p) for p in nested_oracle.every(symmetry)]
        value = nested_oracle.objective(a, b, symmetry, found)
        np.testing.assert_allclose(matching.objective, value, rtol=1e-4, atol=1e-4)
        assert value <= max(values) + 1e-4
        shares.append(value / max(values))
    assert np.mean(shares) > 0.6


@pytest.mark.parametrize("name", SOLVERS)
def test_values_that_are_no_numbers_end_the_search(name, instances, key):
    problem = instances[0][0]
    node = next(iter(problem.nodes))
    nodes = {**problem.nodes, node: jnp.full_like(problem.nodes[node], jnp.nan)}
    found = solve(SOLVERS[name], replace(problem, nodes=nodes), key)
    for group, size in problem.sizes.items():
        assert sorted(found.permutations[group].tolist()) == list(range(size))
