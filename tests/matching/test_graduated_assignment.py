import dataclasses
import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.matching import GraduatedAssignment, Problem
from jaxfuse.matching.graduated_assignment import (
    Cooling,
    double_centred,
    noise_scale,
    reaction,
)
from jaxfuse.matching.packed import Packed
from tests.matching.instances import (
    nested_problem,
    residual_network,
    residual_problem,
    self_linked,
)
from tests.oracles import affinity


@functools.partial(jax.jit, static_argnums=0)
def anneal(solver, problem):
    return solver.anneal(problem, problem.barycentre())


@jax.jit
def second_moments(problem):
    return problem.second_moments()


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_trace_is_the_objective_that_a_step_begins_with(instances, share):
    first, both = (GraduatedAssignment(steps=n, reaction=share, balanced=False) for n in (1, 2))
    for problem, oracle in ((instances[0][2], instances[1][2]), self_linked(2)):
        (soft, _), (_, trace) = anneal(first, problem), anneal(both, problem)
        want = [oracle.value(problem.barycentre()), oracle.value(soft)]
        np.testing.assert_allclose(trace, want, rtol=1e-4)
        _, balanced = anneal(replace(both, balanced=True), problem)
        want = jax.jit(Problem.objective)(problem.balanced(), problem.barycentre())
        np.testing.assert_allclose(balanced[0], want, rtol=1e-4)


def test_soft_matching_is_doubly_stochastic_and_hardens(instances):
    for problem in instances[0]:
        warm, _ = anneal(GraduatedAssignment(steps=1), problem)
        cold, _ = anneal(GraduatedAssignment(), problem)
        for group in problem.sizes:
            assert (cold[group] >= 0).all()
            np.testing.assert_allclose(jnp.sum(cold[group], axis=0), 1.0, atol=1e-4)
            np.testing.assert_allclose(jnp.sum(warm[group], axis=1), 1.0, atol=1e-2)
            peaks = [jnp.mean(jnp.max(soft[group], axis=0)) for soft in (warm, cold)]
            assert peaks[1] > peaks[0]


def test_noise_scale_is_the_deviation_of_unrelated_scores():
    params, symmetry = residual_network(0, stream=30, inner=40)
    other, _ = residual_network(1, stream=30, inner=40)
    problem = residual_problem(params, other, symmetry)
    moments = second_moments(problem)
    rng = np.random.default_rng(0)
    hard = {g: jnp.asarray(rng.permutation(n)) for g, n in problem.sizes.items()}
    scores = jax.jit(Problem.scores_at)(problem, hard)
    for group, scale in noise_scale(problem, moments).items():
        np.testing.assert_allclose(scale, np.std(double_centred(scores[group])), rtol=0.15)


def test_scale_of_the_weights_does_not_matter():
    (params, symmetry), (other, _) = residual_network(0), residual_network(1)
    large = jax.tree.map(lambda leaf: 100 * leaf, params)
    first, _ = anneal(GraduatedAssignment(), residual_problem(params, other, symmetry))
    second, _ = anneal(GraduatedAssignment(), residual_problem(large, other, symmetry))
    for group in first:
        np.testing.assert_allclose(first[group], second[group], atol=1e-3)


def test_reaction_term_is_its_published_sum(instances):
    # The squared affinity is replaced by a product of energies; put that product in the sum.
    problem = instances[0][0]
    moments = second_moments(problem)
    rng = np.random.default_rng(0)
    soft = {
        g: jnp.asarray(rng.dirichlet(np.ones(n), n), jnp.float32) for g, n in problem.sizes.items()
    }
    tau = {g: jnp.float32(0.3 + i) for i, g in enumerate(problem.sizes)}
    want = {g: np.zeros((n, n)) for g, n in problem.sizes.items()}
    each = [
        (link, [np.float64(part[index]) for part in moment])
        for links, moment in zip(problem.links, moments, strict=True)
        for index, link in enumerate(links)
    ]
    before = {g: p.T for g, p in soft.items()}
    for (g, h), (scale, *energies) in each:
        squares = scale * np.einsum("i,a,j,b->iajb", *energies)
        answer = {k: np.float64(soft[k] * (1 - soft[k]) / tau[k]) for k in (g, h)}
        want[h] += affinity.column_scores(squares, answer[g]) * np.float64(before[h])
        want[g] += affinity.row_scores(squares, answer[h]) * np.float64(before[g])
    packed = Packed.of(problem)
    state = Cooling(*map(packed.pack, (soft, before, tau)), {})
    for group, got in packed.unpack(reaction(packed, moments, state)).items():
        np.testing.assert_allclose(got, want[group], rtol=1e-4, atol=1e-5)


def test_double_centred_has_no_means(key):
    centred = double_centred(jax.random.normal(key, (2, 5, 5)) + 3.0)
    np.testing.assert_allclose(jnp.mean(centred, axis=1), 0.0, atol=1e-6)
    np.testing.assert_allclose(jnp.mean(centred, axis=2), 0.0, atol=1e-6)


@pytest.mark.parametrize("temperatures", [(0.0, 0.0), (0.1, 1.0), (1.0, -1.0)])
def test_temperature_must_fall_and_stay_positive(temperatures):
    with pytest.raises(ValueError, match="temperature must fall"):
        GraduatedAssignment(*temperatures)


@pytest.mark.parametrize("name", ["block_recurrent", "three_levels"])
def test_trees_cool_together(name):
    problem, *_ = nested_problem(name)
    soft, _ = anneal(GraduatedAssignment(steps=4), problem)
    _, further = anneal(GraduatedAssignment(steps=5, tau_stop=0.1 ** (4 / 3)), problem)
    value = jax.jit(Problem.objective)(problem.balanced(), soft)
    np.testing.assert_allclose(further[-1], value, rtol=1e-3, atol=1e-3)
    sizes = problem.sizes
    for child, parent in problem.parents:
        entries = sizes[parent]
        blocks = soft[child].reshape(entries, -1, entries, sizes[child] // entries).sum(axis=3)
        want = np.broadcast_to(soft[parent][:, None], blocks.shape)
        np.testing.assert_allclose(blocks, want, atol=0.05)


def test_a_parent_hears_the_noise_of_its_children():
    problem, *_ = nested_problem("three_levels", x=3, h=3, d=8)
    bare = Problem({n: jnp.zeros_like(c) for n, c in problem.nodes.items()}, (), ())
    scales = noise_scale(
        dataclasses.replace(problem, nodes={**bare.nodes, "d": problem.nodes["d"]}), []
    )
    np.testing.assert_allclose(scales["h"], np.sqrt(8) * scales["d"], rtol=1e-5)
    np.testing.assert_allclose(scales["x"], np.sqrt(3 * 8) * scales["d"], rtol=1e-5)
