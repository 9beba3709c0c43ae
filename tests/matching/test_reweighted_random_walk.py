import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.affinity import Linear
from jaxfuse.matching import Problem
from jaxfuse.matching.reweighted_random_walk import ReweightedRandomWalk
from tests.matching.instances import alone, nested_problem, solve
from tests.matching.planted import check_planted
from tests.oracles import affinity as affinity_oracle
from tests.oracles import lawler as oracle
from tests.oracles.matching import Objective

STEPS = 12
PLAIN = ReweightedRandomWalk(
    max_iterations=STEPS, tolerance=0.0, sinkhorn_iterations=400, polish=None
)


@functools.partial(jax.jit, static_argnums=0)
def walk(solver, problem):
    return solver.walk(problem, problem.barycentre())


def test_walk_is_the_published_one_on_a_graph():
    # Graphs without loops: pairs that contradict each other have no affinity to begin with.
    rng = np.random.default_rng(0)
    a, b = np.float32(rng.random((2, 5, 5, 1)) * (1 - np.eye(5))[None, ..., None])
    block = Linear().block(jnp.asarray(a), jnp.asarray(b))
    problem = Problem({"g": jnp.zeros((5, 5))}, *alone(block, "g", "g"))
    objective = Objective({"g": np.zeros((5, 5))}, [("g", "g", affinity_oracle.linear(a, b))])
    affinity, where = oracle.dense(objective)
    assert (affinity >= 0).all()
    assert not affinity[oracle.conflicts(5)].any()
    want = oracle.random_walk(affinity, where, STEPS)
    got = walk(PLAIN, problem)
    assert got.iteration == STEPS
    np.testing.assert_allclose(oracle.flat(got.point, where), want, rtol=1e-3, atol=1e-4)


def test_walk_on_groups_with_signed_affinity(instances):
    affinity, where = oracle.dense(instances[1][0])
    want = oracle.random_walk(affinity, where, STEPS)
    got = walk(PLAIN, instances[0][0])
    np.testing.assert_allclose(oracle.flat(got.point, where), want, rtol=1e-3, atol=1e-3)
    before = oracle.random_walk(affinity, where, STEPS - 1)
    np.testing.assert_allclose(got.trace[-1], before @ affinity @ before, rtol=1e-3)


def test_planted_matching(key):
    check_planted(ReweightedRandomWalk(polish=None), key)


def test_nested_groups_stay_together(key):
    problem, *_ = nested_problem("attention", e=3, h=2, qk=2, vo=2, f=2)
    matching = solve(ReweightedRandomWalk(polish=None), problem, key)
    for child, parent in problem.parents:
        entries = matching.permutations[child].reshape(problem.sizes[parent], -1) // 2
        np.testing.assert_array_equal(entries, np.tile(matching.permutations[parent][:, None], 2))


def test_what_does_not_fit_is_refused(instances):
    with pytest.raises(ValueError, match=r"ReweightedRandomWalk holds vectors.*limit=24"):
        ReweightedRandomWalk(limit=24).solve(instances[0][0])
    with pytest.raises(ValueError, match="alpha lies between"):
        ReweightedRandomWalk(alpha=1.5)
    with pytest.raises(ValueError, match="1 or more"):
        ReweightedRandomWalk(sinkhorn_iterations=0)
