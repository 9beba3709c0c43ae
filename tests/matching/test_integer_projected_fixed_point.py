import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.matching.integer_projected_fixed_point import IntegerProjectedFixedPoint
from tests.matching.planted import check_planted
from tests.oracles import lawler as oracle

PLAIN = IntegerProjectedFixedPoint(polish=None)


@jax.jit
def climb(problem):
    return PLAIN.climb(problem)


def test_climb_is_the_published_one(instances):
    for problem, objective, _ in zip(*instances, strict=True):
        best, value = oracle.integer_projected(*oracle.dense(objective))
        got = climb(problem)
        np.testing.assert_allclose(got.best_value, value, rtol=1e-4)
        for group, columns in best.items():
            np.testing.assert_array_equal(got.best[group], columns)
        assert not got.rising


def test_account_is_true_and_rises(instances):
    affinity, where = oracle.dense(instances[1][1])
    got = climb(instances[0][1])
    x = oracle.flat(got.point, where)
    np.testing.assert_allclose(got.value, x @ affinity @ x, rtol=1e-4)
    for group, want in oracle.matrices(affinity @ x, where).items():
        np.testing.assert_allclose(got.image[group], want, rtol=1e-3, atol=1e-3)
    assert (np.diff(got.trace) >= -1e-5).all()


def test_a_matching_to_start_from_is_never_lost(instances):
    problem, objective, _ = (part[2] for part in instances)
    _, best = objective.optimum()
    start = {g: jnp.asarray(np.eye(len(p))[p], jnp.float32) for g, p in best.items()}
    matching = jax.jit(PLAIN.solve)(problem, start)
    for group, columns in best.items():
        np.testing.assert_array_equal(matching.permutations[group], columns)


def test_planted_matching(key):
    check_planted(PLAIN, key)


def test_what_does_not_fit_is_refused(instances):
    with pytest.raises(ValueError, match=r"IntegerProjectedFixedPoint holds vectors.*limit=24"):
        IntegerProjectedFixedPoint(limit=24).solve(instances[0][0])
    with pytest.raises(ValueError, match="max_iterations"):
        IntegerProjectedFixedPoint(max_iterations=0)
