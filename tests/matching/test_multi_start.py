from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.matching import CoordinateAscent, FrankWolfe, Matching, Problem
from jaxfuse.matching.multi_start import MultiStart
from jaxfuse.matching.projection import assign
from jaxfuse.status import Status
from tests.matching.instances import nested_problem, solve
from tests.matching.planted import check_calls, check_recovered, planted


@jax.tree_util.register_static
@dataclass(frozen=True)
class Rounding:
    """Return the rounded start, and numbers that tell its key."""

    def solve(self, problem, start=None, key=None):
        columns = assign(start, problem.backend)
        drawn = jax.random.uniform(key, (2,))
        return Matching(
            columns, problem.objective_at(columns), jnp.int32(0), drawn, jnp.int32(drawn[0] * 1000)
        )


MANY = MultiStart(Rounding(), starts=6)
draw = jax.jit(MANY.draw)


def test_the_best_of_a_loop_over_the_starts(instances, key):
    single = jax.jit(Rounding().solve)
    better = 0
    for problem, objective, _ in zip(*instances, strict=True):
        starts, keys = draw(problem, None, key)
        runs = [
            single(problem, {g: s[index] for g, s in starts.items()}, keys[index])
            for index in range(6)
        ]
        values = [objective.value_at(run.permutations) for run in runs]
        got = solve(MANY, problem, key)
        chex.assert_trees_all_close(got, runs[int(np.argmax(values))], rtol=1e-5)
        better += max(values) > values[0] + 1e-3
    assert better > 4


def test_starts_are_doubly_stochastic_and_differ(instances, key):
    problem = instances[0][0]
    starts, keys = draw(problem, None, key)
    assert keys.shape == (6,)
    for group, n in problem.sizes.items():
        assert starts[group].shape == (6, n, n)
        np.testing.assert_allclose(starts[group].sum(1), 1.0, atol=1e-3)
        np.testing.assert_allclose(starts[group].sum(2), 1.0, atol=1e-3)
        np.testing.assert_allclose(starts[group][0], 1 / n, rtol=1e-6)
        assert jnp.std(starts[group][1] - starts[group][2]) > 0.05


@dataclass(frozen=True)
class Counting:
    """Return one objective for all starts, and the number of units that stay by their start."""

    def solve(self, problem, start=None, key=None):
        stay = jnp.trace(start["g"])
        zero = jnp.float32(0)
        return Matching(problem.identity(), zero, Status.CONVERGED.array(), stay[None], stay)


def test_the_first_of_equals_is_kept(key):
    problem = Problem({"g": jnp.zeros((3, 3))}, (), ())
    matching = jax.jit(MultiStart(Counting(), starts=5).solve)(problem, {"g": jnp.eye(3)}, key)
    assert matching.iterations == 3


def test_planted_matching(key):
    problems, truths = planted((0, 1))
    for problem, truth in zip(problems, truths, strict=True):
        solver = MultiStart(FrankWolfe(polish=None), starts=2)
        check_recovered(solve(solver, problem, key), truth)


def test_loop_and_vmap(key):
    draws = np.float32(np.random.default_rng(0).standard_normal((2, 3, 3)))
    check_calls(MANY, key, [Problem({"g": jnp.asarray(nodes)}, (), ()) for nodes in draws])


def test_nested_starts_fit_together(key):
    problem, *_ = nested_problem("block_recurrent", h=2, d=3)
    starts, _ = jax.jit(MultiStart(CoordinateAscent(), starts=2).draw)(problem, None, key)
    # That solver's own start is the identity.
    np.testing.assert_array_equal(starts["d"][0], np.eye(6))
    whole = starts["d"][1].reshape(2, 3, 2, 3).sum(axis=(1, 3)) / 3
    np.testing.assert_allclose(whole, starts["h"][1], atol=1e-3)


def test_what_does_not_fit_is_refused(instances):
    with pytest.raises(ValueError, match="needs key="):
        MultiStart().solve(instances[0][0])
    with pytest.raises(ValueError, match="starts must be 1 or more"):
        MultiStart(starts=0)
