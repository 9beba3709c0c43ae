from dataclasses import dataclass

import jax.numpy as jnp
import pytest

from jaxfuse.matching import Matching, Portfolio, Problem
from jaxfuse.status import Status


@dataclass(frozen=True)
class Fixed:
    """Return a given answer."""

    columns: tuple[int, ...]
    objective: float
    steps: int = 1

    def solve(self, problem, start=None, key=None):
        return Matching(
            {"g": jnp.array(self.columns, jnp.int32)},
            jnp.float32(self.objective),
            Status.CONVERGED.array(),
            jnp.full(self.steps, self.objective, jnp.float32),
            jnp.int32(self.steps),
        )


@pytest.mark.parametrize(
    ("second", "winner"), [(1.0, (0, 1)), (1.005, (0, 1)), (1.05, (1, 0)), (-1.0, (0, 1))]
)
def test_later_solver_must_be_clearly_better(second, winner):
    portfolio = Portfolio((Fixed((0, 1), 1.0, 3), Fixed((1, 0), second, 5)))
    matching = portfolio.solve(Problem({"g": jnp.zeros((2, 2))}, (), ()))
    assert tuple(matching.permutations["g"].tolist()) == winner
    assert matching.trace.shape == (5,)
    assert (matching.trace == matching.objective).all()
    assert matching.iterations == (3 if winner == (0, 1) else 5)


def test_negative_objectives_are_compared_by_size():
    portfolio = Portfolio((Fixed((0, 1), -1.0), Fixed((1, 0), -0.5)))
    matching = portfolio.solve(Problem({"g": jnp.zeros((2, 2))}, (), ()))
    assert matching.objective == -0.5
