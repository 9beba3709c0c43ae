"""The balanced problem: every tensor divided by the root of its mean square."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.affinity import Gaussian, Linear
from jaxfuse.many import build_many
from jaxfuse.matching import GraduatedAssignment, Problem
from jaxfuse.symmetry import permute, random_permutations
from tests.matching.instances import residual_network, residual_problem
from tests.symmetry.nested import NETWORKS, draw, on_device


def scaled(networks):
    """Divide every tensor by the root of its mean square, the geometric mean over networks."""
    squares = {
        path: np.exp(np.mean([np.log(np.mean(np.float64(n[path]) ** 2)) for n in networks]))
        for path in networks[0]
    }
    return [
        {path: jnp.asarray(leaf / np.sqrt(squares[path])) for path, leaf in network.items()}
        for network in networks
    ]


def uneven(seed, **sizes):
    """Return a network whose tensors have different scales, and its symmetry."""
    params, symmetry = residual_network(seed, **sizes)
    return {p: leaf * 3.0**i for i, (p, leaf) in enumerate(params.items())}, symmetry


def check_equal(got, want):
    random = np.random.default_rng(0)
    soft = {
        g: jnp.asarray(random.dirichlet(np.ones(n), n), jnp.float32) for g, n in got.sizes.items()
    }
    for group, scores in jax.jit(Problem.scores)(want, soft).items():
        mine = jax.jit(Problem.scores)(got, soft)[group]
        np.testing.assert_allclose(mine, scores, rtol=1e-4, atol=1e-4 * np.abs(scores).max())


def test_balanced_is_the_problem_of_scaled_networks():
    (a, symmetry), (b, _) = uneven(0, blocks=2), residual_network(1, blocks=2)
    check_equal(
        residual_problem(a, b, symmetry).balanced(), residual_problem(*scaled([a, b]), symmetry)
    )


def test_balanced_is_the_problem_of_scaled_networks_with_nested_groups():
    shapes, symmetry = NETWORKS["block_recurrent"]()
    a, b = (on_device(draw(shapes, seed)) for seed in (0, 100))
    check_equal(
        residual_problem(a, b, symmetry).balanced(), residual_problem(*scaled([a, b]), symmetry)
    )


@pytest.mark.parametrize("affinity", [Gaussian(), Linear(normalised=True)])
def test_affinities_without_a_scale_are_balanced_already(affinity):
    (a, symmetry), (b, _) = uneven(0), residual_network(1)
    problem = residual_problem(a, b, symmetry, affinity)
    check_equal(problem.balanced(), problem)


def test_two_of_many_are_the_problem_of_two():
    (a, symmetry), (b, _) = uneven(0), residual_network(1)
    many = jax.jit(lambda *n: build_many(n, symmetry, Linear()))(a, b)
    n = many.sizes["r"]
    pairs = np.random.default_rng(2).standard_normal((2, 2, n, n)).astype(np.float32)
    weights = jnp.array([[0.0, 3.0], [3.0, 0.0]])
    many = dataclasses.replace(many, pairs={"r": pairs}, pair_weights={"r": weights})
    two = many.between(*jnp.eye(2), many.identity())
    own = residual_problem(a, b, symmetry).plus({"r": pairs[0, 1]}, {"r": 3 * pairs[0, 1]})
    check_equal(two, own)
    check_equal(two.balanced(), own.balanced())


def test_sums_of_networks_keep_the_weights_of_all():
    networks = [uneven(0)[0], *(residual_network(seed)[0] for seed in (1, 2))]
    symmetry = residual_network(0)[1]
    problem, even = (build_many(n, symmetry, Linear()) for n in (networks, scaled(networks)))
    sets = jnp.array([1.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 0.0])
    check_equal(
        problem.between(*sets, problem.identity()).balanced(),
        even.between(*sets, even.identity()),
    )


def test_annealing_on_balanced_tensors_survives_a_loud_one():
    params, symmetry = residual_network(0, stream=32, inner=32, blocks=2, bias=False)
    params["W0"] = 20 * params["W0"]  # three inputs a unit: loud, and little to go by
    order = random_permutations(symmetry, jax.random.key(1))
    rng = np.random.default_rng(2)
    noisy = {
        path: leaf + jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32) * jnp.std(leaf)
        for path, leaf in params.items()
    }
    problem = residual_problem(params, permute(noisy, symmetry, order), symmetry)
    truth = {group: np.argsort(p) for group, p in order.items()}

    def share(solver):
        found = jax.jit(solver.solve)(problem).permutations
        return np.mean(np.concatenate([found[g] == truth[g] for g in truth]))

    assert share(GraduatedAssignment(polish=None)) == 1
    assert share(GraduatedAssignment(polish=None, balanced=False)) < 0.9
