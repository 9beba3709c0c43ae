import functools

import jax
import numpy as np
import pytest

from jaxfuse.affinity import ExactGaussian
from jaxfuse.matching.spectral import SpectralMatching
from tests.matching.instances import residual_network, residual_problem
from tests.matching.planted import check_planted
from tests.oracles import affinity as affinity_oracle
from tests.oracles import lawler as oracle
from tests.oracles.matching import Objective

PATIENT = SpectralMatching(max_iterations=2000, tolerance=1e-6, polish=None)


@functools.partial(jax.jit, static_argnums=0)
def iterate(solver, problem):
    return solver.iterate(problem, problem.barycentre())


def assert_principal(affinity, vector):
    """The vector is the one eigenvector of the largest eigenvalue."""
    values, vectors = np.linalg.eigh(affinity)
    assert values[-1] > values[-2] * 1.001
    assert abs(vectors[:, -1] @ vector) == pytest.approx(1.0, abs=1e-4)


def test_vector_is_the_principal_one_of_a_non_negative_affinity():
    # Two layers alone have eigenvalues of both signs: plain power iteration would not settle.
    (a, symmetry), (b, _) = (residual_network(seed, bias=False) for seed in (0, 1))
    problem = residual_problem(a, b, symmetry, ExactGaussian())
    k = {path: affinity_oracle.gaussian(a[path][..., None], b[path][..., None], 32.0) for path in a}
    nodes = {
        "r": np.einsum("iajb,ij->ab", k["W0"], np.eye(3))
        + np.einsum("iajb,ab->ij", k["WO"], np.eye(2)),
        "h0": np.zeros((3, 3)),
    }
    dense, where = oracle.dense(Objective(nodes, [("r", "h0", k["U0"]), ("h0", "r", k["V0"])]))
    assert (dense >= 0).all()
    power = iterate(PATIENT, problem)
    assert_principal(dense, oracle.flat(power.vector, where))
    top = np.linalg.eigvalsh(dense)[-1]
    np.testing.assert_allclose(power.trace[-1], 7 * top, rtol=1e-4)


@pytest.mark.parametrize("index", [0, 2])
def test_signed_affinity_gets_the_smallest_constant(instances, index):
    dense, where = oracle.dense(instances[1][index])
    power = iterate(PATIENT, instances[0][index])
    x = oracle.flat(power.vector, where)
    assert (x >= 0).all()
    for pairs in where.values():
        shift = -min((dense @ x)[pairs].min(), 0) / x[pairs].sum()
        assert shift > 0
        dense[pairs, pairs] += shift
        # One pair at least is left at zero: no smaller constant would do.
        assert x[pairs].min() < 1e-3
    # Hardly more than the constants are, so it need not be the eigenvector of the largest value.
    np.testing.assert_allclose(dense @ x, (x @ dense @ x) * x, atol=1e-3)


def test_planted_matching(key):
    check_planted(SpectralMatching(polish=None), key)


def test_too_many_pairs_are_refused(instances):
    with pytest.raises(ValueError, match=r"SpectralMatching holds vectors.*limit=24"):
        SpectralMatching(limit=24).solve(instances[0][0])
    with pytest.raises(ValueError, match="max_iterations"):
        SpectralMatching(max_iterations=0)
