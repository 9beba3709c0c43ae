import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxfuse.affinity import Linear
from jaxfuse.matching import CoordinateAscent, build_problem
from jaxfuse.status import Status
from jaxfuse.transport.partial import PartialMatching, flops_ratio, set_apart
from tests.oracles.partial import distances, merge, scores
from tests.transport.planted import (
    batch,
    draw,
    fuse,
    hidden,
    mlp,
    networks_of,
    permuted,
    planted,
    stack,
)

APART = {"w0": 3, "w1": 2}
METHOD = PartialMatching(
    ratio={"w0": 3 / 7, "w1": 2 / 6}, solver=CoordinateAscent(), compare="weights"
)
together = jax.jit(jax.vmap(METHOD.align))


def chain(params):
    return [(np.float64(params[f"w{i}"]), np.float64(params[f"b{i}"])) for i in range(3)]


@pytest.fixture(scope="module")
def pair():
    """A network and a noisy permuted copy, as networks, with the matching of the solver."""
    first = draw(1)
    copy, _ = permuted(first, 2)
    noise = draw(3)
    noisy = {name: leaf + 0.4 * noise[name] for name, leaf in copy.items()}
    networks = networks_of(first, noisy, data=False)
    problem = build_problem(first, noisy, networks.symmetry, Linear())
    found = CoordinateAscent().solve(problem).permutations
    return networks, {node: np.asarray(order) for node, order in found.items()}


@pytest.mark.parametrize("worst", ["distance", "score"])
def test_the_worst_matches_stay_apart(pair, worst):
    networks, matched = pair
    method = METHOD if worst == "distance" else PartialMatching(worst="score", **settings())
    found = method.align(networks)
    a, b = map(chain, networks.params)
    orders = (None, matched["w0"], matched["w1"], None)
    badness = distances(a, b, orders) if worst == "distance" else scores(a, b, orders)
    apart = [np.zeros(len(a[0][0]), bool)]
    for node, bad in zip(("w0", "w1"), badness, strict=True):
        apart.append(np.zeros(len(bad), bool))
        apart[-1][np.argsort(-bad)[: APART[node]]] = True
        order = np.asarray(found.orders[node])
        n = len(bad)
        np.testing.assert_array_equal(order[0], [*range(n), *[-1] * APART[node]])
        np.testing.assert_array_equal(order[1, :n], np.where(apart[-1], -1, matched[node]))
        np.testing.assert_array_equal(order[1, n:], matched[node][apart[-1]])
    apart.append(np.zeros(3, bool))
    fused = fuse(networks, found.maps)
    for layer, (kernel, bias) in enumerate(merge(a, b, orders, apart)):
        np.testing.assert_allclose(fused[f"w{layer}"], kernel, atol=1e-6)
        np.testing.assert_allclose(fused[f"b{layer}"], bias, atol=1e-6)
    work = np.count_nonzero(fused["w1"]) / (7 * 6)
    assert work == pytest.approx(flops_ratio(3 / 7, 2 / 6))


def settings():
    return {"ratio": METHOD.ratio, "solver": METHOD.solver, "compare": METHOD.compare}


@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0])
def test_copies_compute_the_same_at_any_ratio(ratio):
    networks, orders = planted(3)
    compare = "both" if ratio == 0.4 else "activations"
    method = PartialMatching(ratio=ratio, solver=CoordinateAscent(), compare=compare)
    found = method.align(networks)
    wide = {node: n + 2 * round(ratio * n) for node, n in (("w0", 7), ("w1", 6))}
    assert {node: order.shape[1] for node, order in found.orders.items()} == wide
    for node, order in found.orders.items():
        for k, copy in enumerate(orders, start=1):
            inverse = np.argsort(copy[node])
            merged = np.asarray(order[k, : len(inverse)])
            np.testing.assert_array_equal(merged[merged >= 0], inverse[merged >= 0])
            np.testing.assert_array_equal(np.sort(order[k])[-len(inverse) :], np.sort(inverse))
    if ratio == 0:
        assert found.maps is None
        return
    mass = found.maps.mass["w0"]
    np.testing.assert_array_equal(jnp.sum(mass, axis=1), 7)
    x = batch(30, seed=5)
    fused = fuse(networks, found.maps)
    np.testing.assert_allclose(mlp(fused, x), mlp(networks.params[0], x), atol=1e-5)
    if ratio == 1:
        a = networks.params[0]
        np.testing.assert_array_equal(fused["w1"][:7, :6], a["w1"])
        np.testing.assert_array_equal(fused["w1"][7:, :6], 0)


def test_activations_alone_are_an_assignment():
    networks = networks_of(draw(1), draw(2))
    method = PartialMatching(ratio=0.3, solver=CoordinateAscent(), compare="activations")
    found = method.align(networks)
    a, b = (hidden(p, batch())["output"] for p in networks.params)
    for node, n in (("w0", 7), ("w1", 6)):
        correlation = np.corrcoef(a[node].T, b[node].T)[:n, n:]
        _, columns = linear_sum_assignment(correlation, maximize=True)
        worst = np.argsort(correlation[np.arange(n), columns])[:2]
        expected = columns.copy()
        expected[worst] = -1
        np.testing.assert_array_equal(found.orders[node][1, :n], expected)


def test_units_that_are_set_apart_come_network_by_network():
    columns = [jnp.array([2, 0, 1]), jnp.array([1, 2, 0])]
    orders = set_apart(columns, jnp.array([0.1, 0.9, 0.5]), 1)
    np.testing.assert_array_equal(orders, [[0, 1, 2, -1, -1], [-1, 0, 1, 2, -1], [-1, 2, 0, -1, 1]])


def test_jit_and_vmap_agree_with_a_loop(pair):
    others = [pair[0], networks_of(draw(20), draw(21), data=False)]
    found = together(stack(others))
    for index, one in enumerate(others):
        picked = functools.partial(jax.tree.map, lambda leaf, i=index: leaf[i])
        jax.tree.map(np.testing.assert_array_equal, picked(found.orders), METHOD.align(one).orders)


def test_what_is_refused(pair):
    networks, _ = pair
    with pytest.raises(ValueError, match="pass apply_fn= and inputs="):
        PartialMatching(compare="activations").align(networks)
    with pytest.raises(ValueError, match="PartialMatching finds permutations"):
        METHOD.align(networks_of(draw(1), draw(2, (5, 6)), data=False))
    with pytest.raises(ValueError, match="'w9', which is none of the groups"):
        PartialMatching(ratio={"w9": 0.1}).align(networks)
    for wrong in ({"ratio": 1.5}, {"compare": "nothing"}, {"worst": "norm"}):
        with pytest.raises(ValueError, match="got"):
            PartialMatching(**wrong)
    broken = {**draw(2), "b0": jnp.full(7, jnp.nan, jnp.float32)}
    networks = networks_of(draw(1), broken, data=False)
    with pytest.raises(ValueError, match="NaN or infinity"):
        METHOD.align(networks)
    found = together(stack([networks, networks]))
    np.testing.assert_array_equal(found.status, Status.NON_FINITE)
