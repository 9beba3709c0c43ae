"""Matching problems that several files share."""

import pytest

from tests.matching.instances import residual_network, residual_objective, residual_problem


@pytest.fixture(scope="session")
def instances():
    """Eight random pairs of residual networks: problems, oracles and their optima."""
    problems, oracles = [], []
    for seed in range(8):
        (a, symmetry), (b, _) = residual_network(seed), residual_network(100 + seed)
        problems.append(residual_problem(a, b, symmetry))
        oracles.append(residual_objective(a, b))
    return problems, oracles, [oracle.optimum()[0] for oracle in oracles]
