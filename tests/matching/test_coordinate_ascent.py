from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.assignment import hungarian
from jaxfuse.matching import CoordinateAscent
from jaxfuse.matching.nodes import nest
from jaxfuse.matching.stacked import tensor_of
from tests.matching.instances import (
    SOLVERS,
    nested_problem,
    residual_network,
    residual_problem,
    self_linked,
    solve,
)
from tests.oracles import nested as nested_oracle
from tests.oracles.assignment import brute_force


def test_trace_rises_and_ends_at_the_objective(instances):
    problems, oracles, _ = instances
    for problem, oracle in zip(problems, oracles, strict=True):
        for name in ("coordinate_ascent", "coordinate_ascent_random"):
            matching = solve(SOLVERS[name], problem, jax.random.key(7))
            start = oracle.value_at(problem.identity())
            assert (np.diff([start, *matching.trace]) >= -1e-4).all()
            np.testing.assert_allclose(matching.trace[-1], matching.objective, rtol=1e-5)
            np.testing.assert_array_equal(
                matching.trace[int(matching.iterations) :], matching.trace[-1]
            )


def test_no_single_group_can_improve_the_result(instances):
    problem, oracle = instances[0][0], instances[1][0]
    matching = solve(CoordinateAscent(), problem, jax.random.key(7))
    for group, scores in oracle.scores(
        {g: np.eye(len(p))[np.asarray(p)] for g, p in matching.permutations.items()}
    ).items():
        now = scores[np.arange(len(scores)), matching.permutations[group]].sum()
        np.testing.assert_allclose(now, brute_force(scores), rtol=1e-4, atol=1e-4)


def test_trace_rises_where_a_group_meets_itself():
    for seed in range(5):
        problem, _ = self_linked(seed)
        matching = solve(CoordinateAscent(), problem, jax.random.key(7))
        assert (np.diff(matching.trace) >= -1e-5).all()


def test_sweep_limit_is_kept(instances):
    solver = CoordinateAscent(max_sweeps=1)
    matching = solve(solver, instances[0][0], jax.random.key(7))
    assert matching.trace.shape == (1,)
    assert matching.iterations == 1


@pytest.mark.parametrize("name", ["block_recurrent", "stacked_heads"])
def test_trace_rises_on_trees_and_ends_at_the_objective(name):
    problem, a, b, symmetry = nested_problem(name)
    matching = solve(CoordinateAscent(), problem, jax.random.key(7))
    assert (np.diff([problem.objective_at(problem.identity()), *matching.trace]) >= -1e-3).all()
    permutations = nest(symmetry, matching.permutations)
    value = nested_oracle.objective(a, b, symmetry, permutations)
    np.testing.assert_allclose(matching.objective, value, rtol=1e-4)


def test_no_tree_can_improve_the_result():
    # The tree meets itself in no tensor: as a whole it is an assignment.
    problem, a, b, symmetry = nested_problem("three_levels", x=2, h=2, d=2)
    matching = solve(CoordinateAscent(), problem, jax.random.key(7))
    best = max(nested_oracle.objective(a, b, symmetry, p) for p in nested_oracle.every(symmetry))
    np.testing.assert_allclose(matching.objective, best, rtol=1e-5)


@pytest.mark.parametrize("blocks", [1, 3])
def test_what_is_unknown_adds_nothing_to_the_first_sweep(blocks):
    """A group answers to those before it alone: the matching is that of a greedy pass."""
    sizes = {"stream": 6, "inner": 5, "blocks": blocks}
    (a, symmetry), (b, _) = (residual_network(seed, **sizes) for seed in (0, 1))
    problem = residual_problem(a, b, symmetry)
    solver = CoordinateAscent(max_sweeps=1, start="known")
    found = jax.jit(solver.climb)(problem)
    known, want = set(), problem.identity()
    for node in problem.sizes:
        near = [link for link in problem.joins if node in link and set(link) - {node} <= known]
        scores = problem.nodes[node]
        for links, block in zip(problem.links, problem.blocks, strict=True):
            for index, link in enumerate(links):
                if link in near:
                    p, q = (want[each] for each in link)
                    own = tensor_of(block, index)
                    scores += own.column_scores(p) if link[1] == node else own.row_scores(q)
        want[node] = jnp.asarray(hungarian(scores).columns)
        known.add(node)
    chex.assert_trees_all_equal(dict(found.permutations), dict(want))
    np.testing.assert_allclose(found.objective, problem.objective_at(want), rtol=1e-5)
    assert found.gained
    ended = jax.jit(replace(solver, max_sweeps=50).solve)(problem)
    assert (np.diff(ended.trace) >= -1e-3).all()
    start = {node: jnp.eye(size) for node, size in problem.sizes.items()}
    same, known_start = (
        jax.jit(CoordinateAscent(start=kind).solve)(problem, start)
        for kind in ("identity", "known")
    )
    chex.assert_trees_all_equal(same.permutations, known_start.permutations)
