"""Activations beside the weights: what they add, in NumPy, and what that decides."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import CoordinateAscent, align_many, align_params, infer_symmetry
from jaxfuse.activations.objective import activation_scores
from jaxfuse.affinity import Linear
from jaxfuse.many import build_many
from jaxfuse.symmetry import random_permutations
from tests.activations.networks import chain, chain_networks, chain_params, images, planted
from tests.oracles.activations import relu_network, similarity
from tests.oracles.learned import moved_chain

HIDDEN, DEAD = (5, 4), (1,)
METHOD = CoordinateAscent()


def draw(dead=()):
    """Return a network and two distant copies in other orders, the last of larger weights."""
    x, params = images(7, 30), chain_params(0, HIDDEN, dead=dead)
    symmetry, copies = infer_symmetry(chain, params, x), []
    for seed in (1, 2):
        moves = random_permutations(symmetry, jax.random.key(seed))
        copies.append(planted(params, symmetry, moves, noise=0.7, seed=seed)[0])
    return chain_networks([params, copies[0], jax.tree.map(lambda leaf: 2 * leaf, copies[1])], x)


@pytest.fixture(scope="module")
def three():
    return draw()


def centred(scores):
    return scores - scores.mean(0) - scores.mean(1)[:, None] + scores.mean()


def weight_noise(a, b):
    """Return per node the standard deviation of a score of the weights of unrelated units."""
    a, b = ({path: np.float64(leaf) for path, leaf in params.items()} for params in (a, b))
    first = a["w0"].T @ b["w0"] + np.outer(a["b0"], b["b0"])
    second = a["w2"] @ b["w2"].T + np.outer(a["b1"], b["b1"])
    edge = a["w1"].var() * b["w1"].var()
    n, m = HIDDEN
    variance = {"w0": np.mean(centred(first) ** 2) + m * edge}
    variance["w1"] = np.mean(centred(second) ** 2) + n * edge
    return {node: np.sqrt(v) for node, v in variance.items()}


def added_scores(params, x, weight, role="output"):
    """Return per node what activations add to every pair of different networks."""
    place = {"output": lambda run, layer: run[0][layer], "input": lambda run, layer: run[1][layer]}
    shift, count = int(role == "input"), len(params)
    noise = [[weight_noise(a, b) for b in params] for a in params]
    runs = [relu_network(each, x) for each in params]
    scores = {}
    for layer, node in enumerate(noise[0][0]):
        units = [place[role](run, layer + shift) for run in runs]
        joint = np.array([[similarity("correlation", a, b) for b in units] for a in units])
        own = [centred(joint[k, m]).std() for k in range(count) for m in range(count) if k != m]
        scale = np.array([[each[node] for each in row] for row in noise]) * (1 - np.eye(count))
        scores[node] = joint * (weight * scale / np.mean(own))[..., None, None]
    return scores


@functools.partial(jax.jit, static_argnames=("weight", "role"))
def library_scores(networks, weight, role="output"):
    problem = build_many(networks.params, networks.symmetry, Linear())
    return activation_scores(networks, problem.noise()[0], weight, role=role)


@pytest.mark.parametrize(("role", "dead"), [("output", ()), ("input", DEAD)])
def test_correlations_are_scaled_to_the_noise_of_the_weights(role, dead):
    networks = draw(dead)
    got = library_scores(networks, 1.7, role)
    want = added_scores(networks.params, networks.inputs[0], 1.7, role)
    assert list(got) == list(want)
    for node, scores in want.items():
        np.testing.assert_allclose(got[node], scores, rtol=1e-4, atol=1e-5 * scores.max())
    # After the nonlinearity a dead unit is like none, not even itself.
    np.testing.assert_array_equal(got["w0"][0, :, dead], 0.0)


def test_the_order_of_the_networks_does_not_count(three):
    a, b, c = three.params
    for node, scores in library_scores(three, 1.0).items():
        turned = library_scores(chain_networks([a, c, b], *three.inputs), 1.0)[node]
        np.testing.assert_allclose(turned[0, 1], scores[0, 2], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(turned[0, 2], scores[0, 1], rtol=1e-4, atol=1e-4)


def weight_value(params, orders):
    """Return what the weights say of K networks in their orders: the products of every pair."""
    moved = [
        moved_chain(each, {node: np.eye(len(order[k]))[order[k]] for node, order in orders.items()})
        for k, each in enumerate(params)
    ]
    return sum(
        np.vdot(moved[k][path], moved[other][path])
        for other in range(len(params))
        for k in range(other)
        for path in moved[0]
    )


def added_value(scores, orders):
    """Return what activations say of the same."""
    return sum(
        scores[node][k, other, order[k], order[other]].sum()
        for node, order in orders.items()
        for other in range(len(order))
        for k in range(other)
    )


def test_the_objective_is_that_of_the_weights_and_what_activations_add(three):
    (x,), params = three.inputs, three.params
    options = {"symmetry": three.symmetry, "apply_fn": chain, "inputs": x, "method": METHOD}
    pair = align_params(*params[:2], activation_weight=1.7, **options)
    many = align_many(params, activation_weight=1.7, **options)
    scores = added_scores(params, x, 1.7)
    firsts = {node: np.arange(n) for node, n in three.symmetry.groups.items()}
    orders = {n: np.stack([firsts[n], order]) for n, order in pair.permutations.items()}
    alone = added_scores(params[:2], x, 1.7)
    want = weight_value(params[:2], orders) + added_value(alone, orders)
    np.testing.assert_allclose(pair.objective, want, rtol=1e-4)
    orders = {node: np.asarray(order) for node, order in many.permutations.items()}
    want = weight_value(params, orders) + added_value(scores, orders)
    np.testing.assert_allclose(many.objective, want, rtol=1e-4)


def test_a_weight_of_zero_leaves_them_out(three):
    (x,), (a, b, _) = three.inputs, three.params
    options = {"symmetry": three.symmetry, "method": METHOD}
    plain = align_params(a, b, **options)
    # Nor are they looked at.
    bad = {"apply_fn": chain, "inputs": x * jnp.nan}
    without = align_params(a, b, activation_weight=0, **bad, **options)
    beside = align_params(a, b, apply_fn=chain, inputs=x, **options)
    for got, want in zip(without[:5], plain[:5], strict=True):
        jax.tree.map(np.testing.assert_array_equal, got, want)
    # By default they count.
    assert abs(beside.objective - plain.objective) > 1.0


def test_activations_decide_where_weights_mislead():
    """Half of the inputs never vary, and the weights from them are large and unrelated."""
    live, idle = 8, 8
    params = chain_params(0, (6, 5), inputs=live + idle)
    x = images(1, 40, live + idle).at[:, live:].set(0.0)
    symmetry = infer_symmetry(chain, params, x)
    moves = random_permutations(symmetry, jax.random.key(2))
    copy, orders = planted(params, symmetry, moves, noise=0.05, seed=3)
    rng = np.random.default_rng(4)
    noise = [jnp.asarray(2 * rng.normal(size=(idle, 6)), jnp.float32) for _ in range(2)]
    a, b = (
        {**each, "w0": each["w0"].at[live:].set(own)}
        for each, own in zip((params, copy), noise, strict=True)
    )
    options = {"symmetry": symmetry, "method": METHOD}
    misled = align_params(a, b, **options)
    found = align_params(a, b, apply_fn=chain, inputs=x, activation_weight=10.0, **options)
    assert not np.array_equal(misled.permutations["w0"], orders["w0"])
    for node, order in orders.items():
        np.testing.assert_array_equal(found.permutations[node], order)
