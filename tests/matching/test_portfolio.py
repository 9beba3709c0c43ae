from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.matching import Matching, Portfolio, Problem
from jaxfuse.status import Status

FIRST, SECOND = (1, 2, 0), (2, 0, 1)


@dataclass(frozen=True)
class Fixed:
    """Return a given permutation, at its true objective."""

    columns: tuple[int, ...]
    steps: int = 1

    def solve(self, problem, start=None, key=None):
        permutations = {"g": jnp.array(self.columns, jnp.int32)}
        objective = problem.objective_at(permutations)
        return Matching(
            permutations,
            objective,
            Status.CONVERGED.array(),
            jnp.full(self.steps, objective),
            jnp.int32(self.steps),
        )


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
    portfolio = Portfolio((Fixed(FIRST, 3), Fixed(SECOND, 5)), polish=None)
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
