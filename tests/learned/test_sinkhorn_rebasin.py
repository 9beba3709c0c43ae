"""Sinkhorn re-basin: its losses, what it recovers, and how near it comes to the best."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse import Status, sinkhorn
from jaxfuse.learned import SinkhornRebasin
from jaxfuse.learned.sinkhorn_rebasin import weight_distance
from jaxfuse.matching.nodes import flatten
from jaxfuse.networks import Networks
from jaxfuse.symmetry import random_permutations
from jaxfuse.transport.maps import map_params
from tests.activations.networks import chain_networks, chain_params, images, planted
from tests.oracles.activations import relu_network
from tests.oracles.assignment import sinkhorn_plan
from tests.oracles.learned import (
    all_distances,
    cross_entropy,
    distance,
    moved_chain,
    softmax,
)
from tests.symmetry.nested import draw, on_device, table

SIZES = {"w0": 4, "w1": 4}
PLANTED = 3


@pytest.fixture(scope="module")
def pairs():
    """Six pairs of chains, three planted, three unrelated; where planted units went; data."""
    a = [chain_params(seed, tuple(SIZES.values())) for seed in range(6)]
    x = images(9, 40)
    networks = chain_networks(a[:2], x)
    b, orders = [], []
    for index in range(6):
        if index < PLANTED:
            moves = random_permutations(networks.symmetry, jax.random.key(index))
            copy, order = planted(a[index], networks.symmetry, moves, noise=0.1, seed=index)
        else:
            copy, order = chain_params(100 + index, tuple(SIZES.values())), None
        b.append(copy)
        orders.append(order)
    stack = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    return networks, (stack(*a), stack(*b)), list(zip(a, b, strict=True)), orders


@functools.partial(jax.jit, static_argnums=0)
def align_all(method, networks, stacked, keys):
    return jax.vmap(
        lambda a, b, key: method.align(dataclasses.replace(networks, params=(a, b)), key)
    )(*stacked, keys)


def hard(found, index):
    return {node: np.eye(n)[np.asarray(found.orders[node][index, 1])] for node, n in SIZES.items()}


@pytest.mark.parametrize("loss", ["l2", "cosine"])
def test_losses_of_weights_recover_what_was_planted(pairs, loss):
    networks, stacked, each, orders = pairs
    method = SinkhornRebasin(loss, steps=60)
    found = align_all(method, networks, stacked, jax.random.split(jax.random.key(0), 6))
    for index, (a, b) in enumerate(each):
        expected = distance(loss, a, moved_chain(b, hard(found, index)))
        np.testing.assert_allclose(-found.objective[index], expected, rtol=1e-4)
        assert expected <= distance(loss, a, b) + 1e-6
        if orders[index]:
            for node, order in orders[index].items():
                np.testing.assert_array_equal(found.orders[node][index, 1], order)
    assert found.trace.shape == (6, 60)
    if loss == "l2":
        # Of unrelated networks too: among all 576 matchings the best, or one of the next few.
        for (a, b), value in list(zip(each, found.objective, strict=True))[PLANTED:]:
            assert np.sum(all_distances(loss, a, b, SIZES) < -value - 1e-4) < 0.03 * 576
        alone = method.align(
            dataclasses.replace(networks, params=each[4]), jax.random.split(jax.random.key(0), 6)[4]
        )
        np.testing.assert_allclose(alone.trace, found.trace[4], rtol=1e-3)
        for node in SIZES:
            np.testing.assert_array_equal(alone.orders[node], found.orders[node][4])


def test_the_gradient_of_the_soft_distance_is_that_of_finite_differences(pairs):
    networks, _, each, _ = pairs
    a, b = each[4]
    rng = np.random.default_rng(0)
    free = {node: rng.standard_normal((n, n)) for node, n in SIZES.items()}

    @jax.jit
    def slope(free):
        def loss(free, kind):
            plans = {node: sinkhorn(x, 0.8, iterations=100).plan for node, x in free.items()}
            back = {node: plan.T for node, plan in plans.items()}
            moved = map_params(b, networks.symmetry, plans, back)
            return weight_distance(kind, a, moved, networks.symmetry)

        return {kind: jax.grad(loss)(free, kind) for kind in ("l2", "l1", "cosine")}

    found = slope({node: jnp.asarray(x, jnp.float32) for node, x in free.items()})
    for kind, gradient in found.items():
        towards = {node: rng.standard_normal(x.shape) for node, x in free.items()}
        values = []
        for sign in (1e-4, -1e-4):
            plans = {n: sinkhorn_plan(x + sign * towards[n], 0.8) for n, x in free.items()}
            values.append(distance(kind, a, moved_chain(b, plans)))
        along = sum(np.vdot(gradient[node], towards[node]) for node in free)
        np.testing.assert_allclose(along, (values[0] - values[1]) / 2e-4, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", ["midpoint", "random_point"])
def test_losses_of_a_task_are_those_of_the_midpoint(pairs, loss):
    networks, _, each, _ = pairs
    (a, b), (x,) = each[3], networks.inputs
    networks = dataclasses.replace(networks, params=(a, b))
    labels = relu_network(a, x)[0][-1].argmax(1)
    if loss == "midpoint":
        networks = dataclasses.replace(networks, targets=jnp.asarray(labels, jnp.int32))
        right = labels
    else:
        right = sum(softmax(relu_network(params, x)[0][-1]) for params in (a, b)) / 2
    method = SinkhornRebasin(loss, steps=30, batch_size=15)
    found = method.align(networks, jax.random.key(1))

    def midpoint_loss(plans):
        moved = moved_chain(b, plans)
        middle = {path: (np.float64(leaf) + moved[path]) / 2 for path, leaf in a.items()}
        return cross_entropy(relu_network(middle, x)[0][-1], right)

    plans = {node: np.eye(n)[np.asarray(found.orders[node][1])] for node, n in SIZES.items()}
    np.testing.assert_allclose(-found.objective, midpoint_loss(plans), rtol=1e-4)
    assert midpoint_loss(plans) <= midpoint_loss({n: np.eye(k) for n, k in SIZES.items()}) + 1e-6
    again = method.align(networks, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, again, found)
    other = method.align(networks, jax.random.key(2))
    assert np.abs(other.trace - found.trace).max() > 1e-4


def midpoint_losses(a, b, x):
    """Return all matchings, and their losses half way by the mean probabilities of the parents."""
    right = sum(softmax(relu_network(params, x)[0][-1]) for params in (a, b)) / 2
    every, losses = [itertools.permutations(range(n)) for n in SIZES.values()], []
    choices = [dict(zip(SIZES, choice, strict=True)) for choice in itertools.product(*every)]
    for choice in choices:
        moved = moved_chain(b, {node: np.eye(len(p))[list(p)] for node, p in choice.items()})
        middle = {path: (np.float64(leaf) + moved[path]) / 2 for path, leaf in a.items()}
        losses.append(cross_entropy(relu_network(middle, x)[0][-1], right))
    return choices, np.array(losses)


def test_without_labels_the_midpoint_is_among_the_best_of_all(pairs):
    networks, stacked, each, orders = pairs
    # One pair is a network and itself.
    twins = jax.tree.map(lambda leaf, twin: leaf.at[2].set(twin), stacked[1], each[2][0])
    method = SinkhornRebasin("midpoint", batch_size=None)
    keys = jax.random.split(jax.random.key(0), 6)
    found = align_all(method, networks, (stacked[0], twins), keys)
    columns = {node: np.asarray(order[:, 1]) for node, order in found.orders.items()}
    for index in (0, 1, 3):
        choices, losses = midpoint_losses(*each[index], networks.inputs[0])
        chosen = choices.index({node: tuple(order[index]) for node, order in columns.items()})
        np.testing.assert_allclose(-found.objective[index], losses[chosen], rtol=1e-4)
        # The identity is the first of all.
        assert losses[chosen] < losses[0]
        assert np.sum(losses < losses[chosen]) < 0.01 * 576
        if orders[index]:
            planted_at = {node: tuple(order) for node, order in orders[index].items()}
            assert choices[losses.argmin()] == planted_at
    for node in SIZES:
        np.testing.assert_array_equal(columns[node][1], orders[1][node])
        np.testing.assert_array_equal(columns[node][2], np.arange(SIZES[node]))
    assert found.status[2] == Status.ALREADY_ALIGNED
    alone = method.align(dataclasses.replace(networks, params=each[3]), keys[3])
    np.testing.assert_allclose(alone.trace, found.trace[3], rtol=1e-3)
    for node, order in alone.orders.items():
        np.testing.assert_array_equal(order, found.orders[node][3])


def test_three_networks_and_an_optimiser_of_ones_own(pairs):
    networks, _, each, orders = pairs
    (a, b), symmetry = each[0], networks.symmetry
    moves = random_permutations(symmetry, jax.random.key(8))
    c, others = planted(a, symmetry, moves, noise=0.05, seed=9)
    three = Networks((a, b, c), (symmetry,) * 3)
    method = SinkhornRebasin(
        "l1", steps=40, optimiser=optax.adamax, learning_rate=0.3, check_every=7
    )
    found = method.align(three, jax.random.key(0))
    total = 0.0
    for k, other in ((1, b), (2, c)):
        plans = {node: np.eye(n)[np.asarray(found.orders[node][k])] for node, n in SIZES.items()}
        total += distance("l1", a, moved_chain(other, plans))
    np.testing.assert_allclose(-found.objective, total, rtol=1e-4)
    for node in SIZES:
        np.testing.assert_array_equal(found.orders[node][0], np.arange(SIZES[node]))
        np.testing.assert_array_equal(found.orders[node][1], orders[0][node])
        np.testing.assert_array_equal(found.orders[node][2], others[node])


def test_heads_and_the_units_inside_them_are_learned_together():
    leaves = {"in": ((4, 6), [4, "h", "d"]), "out": ((6, 2), ["h", "d", 2])}
    shapes, symmetry = table({"h": 2, "d": 3}, leaves, {"d": ["h"]})
    params = on_device(draw(shapes, 0))
    moves = random_permutations(symmetry, jax.random.key(1))
    copy, _ = planted(params, symmetry, moves, noise=0.05, seed=2)
    found = SinkhornRebasin(steps=60, learning_rate=0.3).align(
        Networks((params, copy), (symmetry,) * 2), jax.random.key(3)
    )
    for node, order in flatten(symmetry, moves).items():
        np.testing.assert_array_equal(found.orders[node][1], np.argsort(order))


def test_a_network_that_is_aligned_stays_and_bad_numbers_are_told(pairs):
    networks, stacked, each, _ = pairs
    a = each[0][0]
    method = SinkhornRebasin("l2", steps=60)
    bad = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), each[0][1])
    twins = jax.tree.map(
        lambda leaf, twin, other: leaf.at[0].set(twin).at[1].set(other), stacked[1], a, bad
    )
    found = align_all(method, networks, (stacked[0], twins), jax.random.split(jax.random.key(0), 6))
    assert found.status[0] == Status.ALREADY_ALIGNED
    assert found.status[1] == Status.NON_FINITE
    for node in SIZES:
        np.testing.assert_array_equal(found.orders[node][:2, 1], found.orders[node][:2, 0])


def test_what_is_refused(pairs):
    networks = pairs[0]
    with pytest.raises(ValueError, match="pass key="):
        SinkhornRebasin().align(networks)
    with pytest.raises(ValueError, match=r"loss='midpoint'\) looks at activations"):
        SinkhornRebasin("midpoint").align(
            dataclasses.replace(networks, inputs=()), jax.random.key(0)
        )
    with pytest.raises(ValueError, match="'l3' is none of"):
        SinkhornRebasin("l3")
    with pytest.raises(ValueError, match="'lion' is none of"):
        SinkhornRebasin(optimiser="lion")
    with pytest.raises(ValueError, match="must be 1 or more"):
        SinkhornRebasin(steps=0)
    wide = chain_params(0, (4, 5))
    with pytest.raises(ValueError, match="'w1' has 4 units in network 0 and 5"):
        SinkhornRebasin().align(
            chain_networks([networks.params[0], wide], networks.inputs[0]), jax.random.key(0)
        )
