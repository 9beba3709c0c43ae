import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.assignment import Potentials, hungarian, sinkhorn
from jaxfuse.matching.nodes import flatten, list_nodes, nest
from jaxfuse.matching.projection import assign, cold_potentials, soften
from jaxfuse.symmetry import Symmetry
from tests.oracles.nested import draw, every


def test_groups_of_several_sizes_are_projected_one_by_one(key):
    whole = jax.random.normal(key, (3, 4, 4))
    scores = {"b": whole[0], "a": whole[1, :3, :3], "c": whole[2]}
    hard = assign(scores)
    taus = {g: jnp.float32(0.5 + i) for i, g in enumerate(scores)}
    zeros = {g: Potentials(jnp.zeros(len(s)), jnp.zeros(len(s))) for g, s in scores.items()}
    plans, potentials = jax.jit(soften, static_argnums=3)(scores, taus, zeros, 30)
    assert list(hard) == list(scores)
    for group, matrix in scores.items():
        np.testing.assert_array_equal(hard[group], hungarian(matrix).columns)
        want = sinkhorn(matrix, taus[group], iterations=30)
        np.testing.assert_allclose(plans[group], want.plan, atol=1e-5)
        np.testing.assert_allclose(potentials[group].row, want.potentials.row, atol=1e-4)


def random_scores(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return {
        node: jnp.asarray(rng.standard_normal((n, n)), jnp.float32) for node, n in sizes.items()
    }


def flat_choices(symmetry):
    """Return every nested permutation, flat, as arrays `[count, n]`."""
    stacked = jax.tree.map(lambda *orders: np.stack(orders), *every(symmetry))
    flat = jax.jit(jax.vmap(lambda p: flatten(symmetry, p)))(stacked)
    return {node: np.asarray(orders) for node, orders in flat.items()}


def values_of(scores, choices):
    return sum(
        np.take_along_axis(np.float64(scores[node])[None], p[:, :, None], axis=2).sum((1, 2))
        for node, p in choices.items()
    )


def tree(sizes, over):
    return Symmetry(tuple(sizes.items()), (), tuple(over.items()))


TREES = {
    "two children": tree({"h": 2, "a": 3, "b": 3}, {"a": ("h",), "b": ("h",)}),
    "three heads": tree({"h": 3, "a": 3}, {"a": ("h",)}),
    "three levels": tree({"x": 2, "h": 2, "d": 2}, {"h": ("x",), "d": ("x", "h")}),
    "one entry": tree({"h": 1, "a": 4}, {"a": ("h",)}),
    "one unit": tree({"h": 3, "a": 1}, {"a": ("h",)}),
}


def parts(symmetry):
    nodes = list_nodes(symmetry)
    parents = tuple((name, node.parent) for name, node in nodes.items() if node.parent)
    return {name: math.prod(node.shape) for name, node in nodes.items()}, parents


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "auto") for name in TREES), ("two children", "jax")]
)
def test_assigned_tree_is_the_best_of_all(name, backend):
    symmetry = TREES[name]
    sizes, parents = parts(symmetry)
    choices = flat_choices(symmetry)
    project = jax.jit(lambda scores: assign(scores, backend, parents))
    for seed in range(3):
        scores = random_scores(sizes, seed)
        got = {node: np.asarray(p) for node, p in project(scores).items()}
        assert {p.dtype for p in got.values()} == {np.dtype(np.int32)}
        value = values_of(scores, {node: p[None] for node, p in got.items()})[0]
        np.testing.assert_allclose(value, values_of(scores, choices).max(), rtol=1e-5)
        chosen = flatten(symmetry, nest(symmetry, got))
        for node, p in got.items():
            np.testing.assert_array_equal(p, chosen[node])


@pytest.mark.parametrize("fixed", ["x", "h"])
def test_what_is_above_can_stay_as_it_is(fixed):
    symmetry = TREES["three levels"]
    sizes, parents = parts(symmetry)
    choices = flat_choices(symmetry)
    held = flatten(symmetry, draw(symmetry, 0))[fixed]
    below = ["h", "d"] if fixed == "x" else ["d"]
    scores = {node: random_scores(sizes)[node] for node in below}
    got = assign(scores, parents=parents, fixed={fixed: held})
    assert list(got) == below
    keep = (choices[fixed] == np.asarray(held)).all(axis=1)
    want = values_of(scores, {node: choices[node][keep] for node in below}).max()
    value = values_of(scores, {node: np.asarray(p)[None] for node, p in got.items()})[0]
    np.testing.assert_allclose(value, want, rtol=1e-5)


@pytest.fixture(scope="module", params=["two children", "three levels"])
def softened(request):
    symmetry = TREES[request.param]
    sizes, parents = parts(symmetry)
    cold = cold_potentials(sizes, parents)
    run = jax.jit(lambda scores, tau: soften(scores, dict.fromkeys(sizes, tau), cold, 300, parents))
    return sizes, parents, run, random_scores(sizes)


def test_soft_plans_are_doubly_stochastic_and_agree_with_their_parent(softened):
    sizes, parents, run, scores = softened
    plans, _ = run(scores, 0.7)
    for plan in plans.values():
        np.testing.assert_allclose(plan.sum(axis=0), 1.0, atol=1e-4)
        np.testing.assert_allclose(plan.sum(axis=1), 1.0, atol=1e-4)
    for child, parent in parents:
        entries, n = sizes[parent], sizes[child] // sizes[parent]
        blocks = plans[child].reshape(entries, n, entries, n).sum(axis=3)
        want = np.broadcast_to(plans[parent][:, None], blocks.shape)
        np.testing.assert_allclose(blocks, want, atol=1e-4)


def test_soft_plans_are_the_slope_of_the_free_energy(softened):
    # Of all plans of a tree they are the best for <R, P> + tau * entropy.
    sizes, parents, run, scores = softened
    roots = [node for node in sizes if node not in dict(parents)]

    def energy(scores):
        _, potentials = run(scores, 1.0)
        return -sum(float(jnp.sum(potentials[r].row + potentials[r].column)) for r in roots)

    plans, _ = run(scores, 1.0)
    for node, plan in plans.items():
        for i, j in ((0, 0), (1, 0)):
            ends = [
                energy({**scores, node: scores[node].at[i, j].add(step)}) for step in (0.2, -0.2)
            ]
            np.testing.assert_allclose((ends[0] - ends[1]) / 0.4, plan[i, j], atol=5e-3)


def test_cold_plans_reach_the_assignment(softened):
    _, parents, run, scores = softened
    hard = assign(scores, parents=parents)
    best = values_of(scores, {node: np.asarray(p)[None] for node, p in hard.items()})[0]
    cold, _ = run(scores, 0.02)
    np.testing.assert_allclose(sum(np.vdot(scores[n], cold[n]) for n in scores), best, rtol=0.01)


def test_warm_potentials_carry_over(softened):
    sizes, parents, run, scores = softened
    taus = {node: jnp.float32(0.5) for node in sizes}
    want, potentials = run(scores, 0.5)
    got, _ = jax.jit(lambda warm: soften(scores, taus, warm, 1, parents))(potentials)
    for node, plan in got.items():
        np.testing.assert_allclose(plan, want[node], atol=1e-4)


def test_plain_groups_beside_a_tree_are_projected_as_alone():
    symmetry = TREES["two children"]
    sizes, parents = parts(symmetry)
    scores = random_scores({**sizes, "plain": 6, "other": 2}, 4)
    taus = {node: jnp.float32(0.5) for node in scores}
    cold = cold_potentials({**sizes, "plain": 6, "other": 2}, parents)
    plans, _ = jax.jit(lambda scores: soften(scores, taus, cold, 20, parents))(scores)
    hard = assign(scores, parents=parents)
    for node in ("plain", "other"):
        np.testing.assert_array_equal(hard[node], hungarian(scores[node]).columns)
        want = sinkhorn(scores[node], taus[node], iterations=20).plan
        np.testing.assert_allclose(plans[node], want, atol=1e-6)
