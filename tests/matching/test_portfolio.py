from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.matching import CoordinateAscent, Matching, Portfolio, Problem
from jaxfuse.matching.packed import Packed
from jaxfuse.matching.sweep import Move
from jaxfuse.status import Status
from jaxfuse.symmetry import permute, random_permutations
from tests.matching.instances import residual_network, residual_problem

FIRST, SECOND = (1, 2, 0), (2, 0, 1)


@dataclass(frozen=True)
class Fixed:
    """Return a given permutation, at its true objective or more."""

    columns: tuple[int, ...]
    steps: int = 1
    boast: float = 0.0

    def solve(self, problem, start=None, key=None):
        permutations = {"g": jnp.array(self.columns, jnp.int32)}
        objective = problem.objective_at(permutations) + self.boast
        return Matching(
            permutations,
            objective,
            Status.CONVERGED.array(),
            jnp.full(self.steps, objective),
            jnp.int32(self.steps),
        )


@jax.jit
def clear_share(problem, permutations):
    """What a sweep counts in which nothing moves."""
    packed = Packed.of(problem)
    frozen = Move.start(packed.pack(permutations), frozen=True)
    done = CoordinateAscent().sweep(packed)(frozen, jnp.int32(0))
    return done.clear / sum(problem.sizes.values())


def problem_with(identity, first, second):
    """Three units whose identity and two rotations have the given objectives."""
    scores = np.zeros((3, 3), np.float32)
    for columns, objective in (((0, 1, 2), identity), (FIRST, first), (SECOND, second)):
        scores[np.arange(3), columns] = objective / 3
    return Problem({"g": jnp.asarray(scores)}, (), ())


@pytest.mark.parametrize(
    ("second", "winner"), [(1.0, FIRST), (1.005, FIRST), (1.05, SECOND), (-1.0, FIRST)]
)
def test_later_solver_must_be_clearly_better(second, winner):
    portfolio = Portfolio((Fixed(FIRST, 3), Fixed(SECOND, 5)), polish=None, opening=None)
    matching = portfolio.solve(problem_with(0.0, 1.0, second))
    assert tuple(matching.permutations["g"].tolist()) == winner
    assert matching.trace.shape == (5,)
    assert (matching.trace == matching.objective).all()
    assert matching.iterations == (3 if winner == FIRST else 5)


def test_negative_objectives_are_compared_by_size():
    portfolio = Portfolio((Fixed(FIRST), Fixed(SECOND)), polish=None)
    matching = portfolio.solve(problem_with(-2.0, -1.0, -0.5))
    assert matching.objective == pytest.approx(-0.5)


def test_the_winner_is_polished():
    matching = Portfolio((Fixed(FIRST),)).solve(problem_with(0.0, 1.0, 2.0))
    assert tuple(matching.permutations["g"].tolist()) == SECOND


def test_a_clear_matching_ends_the_search():
    clear, boaster = Fixed(FIRST, 2), Fixed(SECOND, boast=9.0)
    problem = problem_with(0.0, 1.0, 0.5)
    for portfolio in (
        Portfolio((boaster,), polish=None),
        Portfolio((clear, boaster), polish=None, opening=None),
    ):
        matching = portfolio.solve(problem)
        assert tuple(matching.permutations["g"].tolist()) == FIRST


def test_an_opening_that_is_not_clear_is_dropped():
    # Of SECOND, which has the highest sum, one unit is not the best of its row.
    scores = jnp.array([[0.0, 0.0, 2.0], [9.0, 0.0, 0.0], [6.0, 5.0, 0.0]])
    problem = Problem({"g": scores}, (), ())
    assert tuple(Portfolio().solve(problem).permutations["g"].tolist()) == SECOND
    matching = Portfolio((Fixed(FIRST),), polish=None).solve(problem)
    assert tuple(matching.permutations["g"].tolist()) == FIRST


def test_clear_are_the_units_above_their_row_and_column():
    scores = jnp.array([[3.0, 1.0, 0.0], [0.0, 2.0, 2.5], [0.0, 2.5, 2.0]])
    problem = Problem({"g": scores, "h": jnp.ones((2, 2))}, (), ())
    share = clear_share(problem, {"g": jnp.array([0, 2, 1]), "h": jnp.arange(2)})
    np.testing.assert_allclose(share, 3 / 5)
    share = clear_share(problem, {"g": jnp.arange(3), "h": jnp.arange(2)})
    np.testing.assert_allclose(share, 1 / 5)


@pytest.mark.parametrize("noise", [0.5, 1.0, 1.5])
def test_planted_matchings_are_clear_and_others_are_not(noise):
    params, symmetry = residual_network(0, stream=48, inner=48, blocks=3, bias=False)
    rng = np.random.default_rng(1)
    noisy = {
        path: leaf + noise * jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32)
        for path, leaf in params.items()
    }
    order = random_permutations(symmetry, jax.random.key(2))
    problem = residual_problem(params, permute(noisy, symmetry, order), symmetry)
    truth = {group: jnp.argsort(p) for group, p in order.items()}
    assert clear_share(problem, truth) > 0.95
    others = residual_network(3, stream=48, inner=48, blocks=3, bias=False)[0]
    unrelated = residual_problem(params, others, symmetry)
    found = jax.jit(CoordinateAscent().solve)(unrelated).permutations
    assert clear_share(unrelated, found) < 0.7
