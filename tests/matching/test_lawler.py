import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.matching import lawler
from tests.matching.instances import nested_problem, self_linked
from tests.oracles import lawler as oracle


@pytest.fixture(scope="module", params=["residual", "self_linked"])
def case(request, instances):
    return self_linked(1) if request.param == "self_linked" else (instances[0][1], instances[1][1])


@pytest.fixture(scope="module")
def draws(case):
    rng = np.random.default_rng(0)
    vector = {g: rng.standard_normal((n, n)).astype(np.float32) for g, n in case[0].sizes.items()}
    return vector, {g: rng.permutation(n).astype(np.int32) for g, n in case[0].sizes.items()}


def test_product_is_that_of_the_dense_matrix(case, draws):
    problem, objective = case
    vector, permutations = draws
    affinity, where = oracle.dense(objective)
    hard = {g: np.eye(len(p))[p] for g, p in permutations.items()}
    x = oracle.flat(hard, where)
    np.testing.assert_allclose(x @ affinity @ x, objective.value_at(permutations))
    got = jax.jit(lawler.product)(problem, vector)
    for group, want in oracle.matrices(affinity @ oracle.flat(vector, where), where).items():
        np.testing.assert_allclose(got[group], want, rtol=1e-4, atol=1e-4)
    got = jax.jit(lawler.product_at)(problem, permutations)
    for group, want in oracle.matrices(affinity @ x, where).items():
        np.testing.assert_allclose(got[group], want, rtol=1e-4, atol=1e-4)


def test_blend_lies_between(draws):
    vector, permutations = draws
    got = lawler.blend(jax.tree.map(jnp.asarray, vector), permutations, jnp.float32(0.25))
    for group, p in permutations.items():
        want = 0.75 * vector[group] + 0.25 * np.eye(len(p))[p]
        np.testing.assert_allclose(got[group], want, rtol=1e-5, atol=1e-6)


def test_raised_is_the_smallest_shift():
    got = lawler.raised({"g": np.float32([[-2, 1], [0, 3]]), "h": np.float32([[1, 2], [3, 4]])})
    np.testing.assert_array_equal(got["g"], [[0, 3], [2, 5]])
    np.testing.assert_array_equal(got["h"], [[1, 2], [3, 4]])


def test_what_does_not_fit_is_refused(instances):
    check = functools.partial(lawler.check_size, method="Some")
    check(instances[0][0], limit=25)
    with pytest.raises(ValueError, match=r"got 25 of them.* over limit=24 .*6\.2e\+02 entries"):
        check(instances[0][0], limit=24)
    with pytest.raises(ValueError, match=r"Some needs an objective that is quadratic.*FrankWolfe"):
        check(nested_problem("grouped_query")[0], limit=10**9)
