import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxfuse import Status
from jaxfuse.networks import Networks
from jaxfuse.symmetry import infer_chain
from jaxfuse.transport.beta_process import Prior, Units, match_units, scores
from jaxfuse.transport.maps import fuse_maps
from jaxfuse.transport.pfnm import PFNM
from tests.oracles.transport import pfnm_layer, pfnm_score
from tests.symmetry.nested import NETWORKS, draw, on_device

PRIOR = Prior(gamma=2.0, sigma=0.6, sigma0=1.5)


def units_of(networks, mean):
    """Return the units of K arrays `[n_k, d]`, with the prior mean `[d]`."""
    most = max(len(each) for each in networks)
    padded = np.stack([np.pad(each, ((0, most - len(each)), (0, 0))) for each in networks])
    base = mean / PRIOR.sigma0**2
    present = np.stack([np.arange(most) < len(each) for each in networks])
    products = np.einsum("kid,ljd->kilj", padded, padded)
    return jax.tree.map(
        lambda x: jnp.asarray(x, x.dtype if x.dtype == bool else jnp.float32),
        Units(products, padded @ base, np.vdot(base, base), present),
    )


def population(seed, widths=(3, 2, 3)):
    """Return noisy copies of some of four units, in any order."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((4, 3))
    return [
        common[rng.permutation(4)[:n]] + 0.3 * rng.standard_normal((n, 3)) for n in widths
    ], rng.standard_normal(3)


def test_scores_are_those_of_the_paper():
    networks, mean = population(0)
    slots = jnp.array([[2, 0, 4], [2, 1, -1], [-1, -1, -1]])
    found = jax.jit(scores, static_argnums=(0, 4))(PRIOR, units_of(networks, mean), slots, 2, 6)
    members = {2: [(0, 0), (1, 0)], 0: [(0, 1)], 4: [(0, 2)], 1: [(1, 1)]}
    ranks = {3: 1, 5: 2}
    for i, unit in enumerate(networks[2]):
        for column in range(6):
            mine = [networks[k][l] for k, l in members.get(column, [])]  # noqa: E741
            expected = pfnm_score(
                unit, mine or [0 * unit], len(mine), 3, ranks.get(column), mean, *PRIOR
            )
            np.testing.assert_allclose(found[i, column], expected, rtol=1e-4, atol=1e-4)


@functools.partial(jax.jit, static_argnums=(1, 2))
def match(units, widths, passes):
    return match_units(PRIOR, units, widths, sum(widths), passes=passes)


@pytest.mark.parametrize("seed", range(6))
def test_matching_is_that_of_the_published_passes(seed):
    networks, mean = population(seed)
    widths = tuple(len(each) for each in networks)
    found = match(units_of(networks, mean), widths, 2)
    turns = [0, 2, 1] * 3
    oracle = pfnm_layer(networks, mean, turns, *PRIOR)
    common = {}
    for k, row in enumerate(np.asarray(found.slots)):
        assert np.all(row[widths[k] :] == -1)
        for unit, slot in enumerate(row[: widths[k]]):
            common.setdefault(slot, set()).add((k, unit))
    assert sorted(map(sorted, common.values())) == sorted(map(sorted, oracle))
    # The units of the first network come first, and no number is left out.
    np.testing.assert_array_equal(found.slots[0], range(3))
    assert set(common) == set(range(len(oracle)))
    assert found.trace[-1] >= found.trace[0] - 1e-4


def test_two_networks_are_one_assignment():
    """Before any pass: the scores of the second network's units, new common ones among them."""
    networks, mean = population(3, (3, 3))
    found = match(units_of(networks, mean), (3, 3), 0)
    columns = [(networks[0][i], 1, None) for i in range(3)] + [(None, 0, r) for r in (1, 2, 3)]
    scores = np.array(
        [
            [
                pfnm_score(unit, [0 * unit if own is None else own], n, 2, rank, mean, *PRIOR)
                for own, n, rank in columns
            ]
            for unit in networks[1]
        ]
    )
    _, best = linear_sum_assignment(scores, maximize=True)
    # Which numbers new units get is free.
    got = np.asarray(found.slots[1])
    np.testing.assert_array_equal(np.minimum(got, 3), np.minimum(best, 3))


def mlp(params, x):
    hidden = jax.nn.relu(x @ params["0"]["kernel"] + params["0"]["bias"][None])
    hidden = jax.nn.relu(hidden @ params["1"]["kernel"] + params["1"]["bias"][None])
    return hidden @ params["2"]["kernel"] + params["2"]["bias"][None]


def network(seed, widths=(9, 6, 5, 2)):
    rng = np.random.default_rng(seed)
    return {
        str(i): {
            "kernel": jnp.asarray(2 * rng.standard_normal(widths[i : i + 2]), jnp.float32),
            "bias": jnp.asarray(2 * rng.standard_normal(widths[i + 1]), jnp.float32),
        }
        for i in range(len(widths) - 1)
    }


def pick(params, first, second):
    """Return the network of some hidden units alone, in an order."""
    a, b, c = (params[str(i)] for i in range(3))
    return {
        "0": {"kernel": a["kernel"][:, first], "bias": a["bias"][first]},
        "1": {"kernel": b["kernel"][first][:, second], "bias": b["bias"][second]},
        "2": {"kernel": c["kernel"][second], "bias": c["bias"]},
    }


def networks_of(*params):
    return Networks(tuple(params), tuple(infer_chain(p) for p in params))


def relative(params, seed):
    """Return a network that has noisy copies of some hidden units, and others of its own."""
    noise, other = network(seed), network(seed + 1)
    same = {"0": np.arange(6) < 4, "1": np.arange(5) < 3, "2": np.ones(2, bool)}
    return {
        layer: {
            name: jnp.where(same[layer], leaf + 0.05 * noise[layer][name], other[layer][name])
            for name, leaf in leaves.items()
        }
        for layer, leaves in params.items()
    }


METHOD = PFNM(sigma=0.5, passes=2)
fuse = jax.jit(fuse_maps)
run = jax.jit(mlp)


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(0).standard_normal((8, 9)), jnp.float32)


@pytest.fixture(scope="module")
def planted():
    """Three networks: one, its first layer in another order and part of its second, and one new."""
    whole = network(0)
    first, second = np.random.default_rng(1).permutation(6), np.array([2, 0, 4])
    turned = np.random.default_rng(2).permutation(6), np.random.default_rng(3).permutation(5)
    networks = networks_of(whole, pick(whole, first, second), pick(whole, *turned))
    orders = {}
    for node, picks in {"0": (first, turned[0]), "1": (second, turned[1])}.items():
        orders[node] = np.full((3, networks.symmetry.groups[node]), -1)
        orders[node][0] = np.arange(networks.symmetry.groups[node])
        for k, units in enumerate(picks, start=1):
            orders[node][k, units] = np.arange(len(units))
    return networks, orders, METHOD.align(networks)


def test_planted_units_are_found(planted):
    networks, orders, found = planted
    assert found.status == Status.CONVERGED
    for node, expected in orders.items():
        np.testing.assert_array_equal(found.orders[node], expected)
        np.testing.assert_array_equal(found.maps.mass[node], expected >= 0)
        for k, symmetry in enumerate(networks.symmetries):
            matrix = np.arange(symmetry.groups[node])[None] == expected[k][:, None]
            np.testing.assert_array_equal(found.maps.to[node][k], matrix)
            np.testing.assert_array_equal(found.maps.back[node][k], matrix.T)
    fused = fuse(networks.params, networks.symmetries, found.maps, [0.2, 0.5, 0.3])
    for layer in ("0", "1"):
        for name in ("kernel", "bias"):
            expected = networks.params[0][layer][name]
            np.testing.assert_allclose(fused[layer][name], expected, rtol=1e-4, atol=1e-5)


def test_under_jit_the_rest_of_the_common_units_is_nobodys(planted):
    networks, _, found = planted
    padded = jax.jit(METHOD.align)(networks)
    for node, order in found.orders.items():
        widths = [symmetry.groups[node] for symmetry in networks.symmetries]
        assert padded.orders[node].shape == (3, sum(widths))
        np.testing.assert_array_equal(padded.orders[node][:, : order.shape[1]], order)
        assert np.all(padded.orders[node][:, order.shape[1] :] == -1)
        np.testing.assert_array_equal(padded.maps.trim().to[node][1], found.maps.to[node][1])


def test_the_posterior_shrinks_what_few_have(planted):
    networks, orders, found = planted
    method = PFNM(sigma=0.5, passes=2, estimate="posterior")
    posterior = method.align(networks)
    for node, order in orders.items():
        members = (order >= 0).sum(0)
        factor = members / (members + 0.5**2)
        for k in range(3):
            expected = factor[:, None] * found.maps.to[node][k]
            np.testing.assert_allclose(posterior.maps.to[node][k], expected, rtol=1e-5)
            np.testing.assert_array_equal(posterior.maps.back[node][k], found.maps.back[node][k])


def test_a_permuted_network_changes_nothing(x):
    a = network(0)
    b = relative(a, 1)
    other = pick(b, np.array([5, 3, 1, 0, 4, 2]), np.array([4, 0, 2, 1, 3]))
    first, second = (METHOD.align(networks_of(a, each)) for each in (b, other))
    assert 6 < first.orders["0"].shape[1] < 12
    np.testing.assert_allclose(first.objective, second.objective, rtol=1e-5)
    symmetries = networks_of(a, b).symmetries
    fused = [
        fuse((a, each), symmetries, found.maps, [0.5, 0.5])
        for each, found in ((b, first), (other, second))
    ]
    np.testing.assert_allclose(run(fused[0], x), run(fused[1], x), rtol=1e-4, atol=1e-4)


def test_an_equal_pair_stays_as_it_is():
    a = network(0)
    found = METHOD.align(networks_of(a, a))
    assert found.status == Status.ALREADY_ALIGNED
    np.testing.assert_array_equal(found.orders["0"], [np.arange(6)] * 2)
    np.testing.assert_array_equal(found.maps.to["1"][1], np.eye(5))


def test_units_that_match_none_are_new(x):
    networks = networks_of(network(0), network(1))
    method = PFNM(sigma=0.03, passes=1)
    found, again = (method.align(networks, jax.random.key(1)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, found, again)
    assert found.orders["0"].shape == (2, 12)
    # The fused network holds both side by side: its outputs are the mean of theirs.
    fused = fuse(networks.params, networks.symmetries, found.maps, [0.5, 0.5])
    mean = (run(networks.params[0], x) + run(networks.params[1], x)) / 2
    np.testing.assert_allclose(run(fused, x), mean, rtol=1e-4, atol=1e-4)


def test_prior_means_of_unused_inputs_say_nothing():
    networks = networks_of(network(0), relative(network(0), 1))
    wide, narrow = (
        PFNM(sigma=0.5, passes=2, mu0=0.7, max_width=width).align(networks) for width in (None, 9)
    )
    assert 6 < wide.orders["0"].shape[1] < 9
    for node, order in wide.orders.items():
        np.testing.assert_array_equal(order, narrow.orders[node])


def test_what_cannot_be_matched_is_refused():
    shapes, symmetry = NETWORKS["experts"]()
    params = on_device(draw(shapes, 0))
    with pytest.raises(ValueError, match=r"'f' .* is indexed by 'x'"):
        PFNM().align(Networks((params, params), (symmetry, symmetry)))
    with pytest.raises(ValueError, match=r"max_width=4.*\[6, 6\] units in '0'"):
        PFNM(max_width=4).align(networks_of(network(0), network(1)))
    for options in ({"gamma": 0.0}, {"passes": -1}, {"estimate": "mode"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            PFNM(**options)
    broken = jax.tree.map(lambda x: x * jnp.inf, network(0))
    with pytest.raises(ValueError, match="NaN or infinity"):
        PFNM().align(networks_of(network(0), broken))
