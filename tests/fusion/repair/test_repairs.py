"""What all repairs have in common, and what fused networks of a permuted client are."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import CoordinateAscent, align_params, average, fuse, infer_symmetry
from jaxfuse.fusion.repair import REPAIRS, Merger
from jaxfuse.symmetry import permute, random_permutations
from jaxfuse.transport.maps import map_params
from jaxfuse.transport.partial import PartialMatching
from jaxfuse.transport.pfnm import PFNM

SHARES = [0.4, 0.6]
X = jnp.asarray(np.random.default_rng(9).normal(size=(20, 3)) * 2 + 1, jnp.float32)


def net(params, x):
    """Apply a layer with a bias, one with running statistics, and one that computes outputs."""
    norm = params["norm"]
    x = jax.nn.relu(x @ params["first"] + params["bias"][None])
    x = x @ params["second"]
    x = (x - norm["running_mean"][None]) / jnp.sqrt(norm["running_var"] + 1e-5)[None]
    return jax.nn.relu(x * norm["weight"][None] + norm["bias"][None]) @ params["head"]


def draw(seed):
    """Draw a network whose running statistics are those of the batch."""
    rng = np.random.default_rng(seed)
    shapes = {"first": (3, 4), "bias": (4,), "second": (4, 4), "head": (4, 2)}
    params = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }
    products = jax.nn.relu(X @ params["first"] + params["bias"][None]) @ params["second"]
    scale, bias = jnp.asarray(rng.uniform(0.5, 1.5, size=(2, 4)), jnp.float32)
    norm = {"running_mean": products.mean(0), "running_var": products.var(0)}
    return {**params, "norm": {**norm, "weight": scale, "bias": bias}}


def blur(params, seed):
    """Return a copy with other numbers, of positive variances."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: leaf * jnp.asarray(np.exp(0.2 * rng.normal(size=leaf.shape)), jnp.float32),
        params,
    )


SYMMETRY = infer_symmetry(net, draw(0), X)
OPTIONS = {"apply_fn": net, "inputs": X, "symmetry": SYMMETRY}


def shuffle(params, seed):
    return permute(params, SYMMETRY, random_permutations(SYMMETRY, jax.random.key(seed)))


def repaired(name, *parents):
    merger = Merger(average(parents, SHARES), parents, SHARES, SYMMETRY, net, (X,))
    return REPAIRS[name].repair(merger)


@pytest.mark.parametrize("name", REPAIRS)
def test_equal_parents_need_no_repair(name):
    parent = draw(0)
    got = repaired(name, parent, parent)
    np.testing.assert_allclose(net(got, X), net(parent, X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", REPAIRS)
def test_jit_of_vmap_is_a_loop_of_bare_calls(name):
    pairs = [(draw(0), draw(1)), (draw(2), blur(draw(2), 3))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    batched = jax.jit(jax.vmap(functools.partial(repaired, name)))(*stacked)
    for index, pair in enumerate(pairs):
        single = repaired(name, *pair)
        got = jax.tree.map(lambda leaf, i=index: leaf[i], batched)
        chex.assert_trees_all_close(got, single, rtol=1e-3, atol=1e-4)
        # There was something to repair.
        assert not np.allclose(net(single, X), net(average(pair, SHARES), X), atol=1e-3)


@pytest.mark.parametrize("name", REPAIRS)
def test_the_order_of_a_client_changes_nothing(name):
    parent = draw(0)
    client = blur(parent, 1)
    one, other = (
        fuse([parent, each], SHARES, repair=name, method=CoordinateAscent(), **OPTIONS)
        for each in (client, shuffle(client, 2))
    )
    np.testing.assert_allclose(net(one, X), net(other, X), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("repair", ["auto", None])
def test_fuse_works_under_jit_of_vmap(repair):
    pairs = [(draw(0), shuffle(blur(draw(0), 1), 2)), (draw(3), draw(4))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)

    def fused(a, b):
        return fuse([a, b], repair=repair, method=CoordinateAscent(), **OPTIONS)

    batched = jax.jit(jax.vmap(fused))(*stacked)
    for index, pair in enumerate(pairs):
        got = jax.tree.map(lambda leaf, i=index: leaf[i], batched)
        chex.assert_trees_all_close(got, fused(*pair), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", [PartialMatching(0.5, CoordinateAscent()), PFNM()])
def test_units_that_not_all_networks_have_are_refused(method):
    options = {"method": method, **OPTIONS}
    for name in REPAIRS.keys() - {"reset"}:
        message = f"{type(REPAIRS[name]).__name__} fits every unit to the mean.*pass repair=None"
        with pytest.raises(ValueError, match=message):
            fuse([draw(0), draw(1)], repair=name, **options)
    # Shapes tell as much under jit.
    with pytest.raises(ValueError, match="not in all networks alike"):
        jax.eval_shape(lambda a, b: fuse([a, b], repair="norm", **options), draw(0), draw(1))
    for allowed in ("reset", None):
        wider = fuse([draw(0), draw(1)], repair=allowed, **options)
        assert wider["first"].shape[1] > 4
        chex.assert_tree_all_finite(wider)


def test_units_merged_within_a_network_are_refused():
    """Unrelated networks are zipped in unequal parts, which their shapes do not tell."""
    pair = [draw(0), draw(1)]
    mass = align_params(*pair, method="zip_it", **OPTIONS).maps.mass
    assert {each.shape for each in mass.values()} == {(2, 4)}
    for name in REPAIRS.keys() - {"reset"}:
        with pytest.raises(ValueError, match="are not in all networks alike"):
            fuse(pair, repair=name, method="zip_it", **OPTIONS)
    chex.assert_tree_all_finite(fuse(pair, repair="reset", method="zip_it", **OPTIONS))


@pytest.mark.parametrize("name", REPAIRS)
def test_maps_of_a_permuted_copy_need_no_repair(name):
    parent = draw(0)
    copy = shuffle(parent, 1)
    for method in ("cca", "zip_it"):
        got = fuse([parent, copy], repair=name, method=method, **OPTIONS)
        np.testing.assert_allclose(net(got, X), net(parent, X), rtol=1e-3, atol=1e-3)


def test_a_first_network_that_moves_is_repaired_where_it_goes():
    parent = draw(0)
    copy = shuffle(parent, 1)
    known = align_params(parent, copy, method="cca", **OPTIONS)
    turned = {node: jnp.eye(4)[jnp.array([2, 0, 3, 1])] for node in known.maps.to}
    to = {node: tuple(turned[node] @ each for each in m) for node, m in known.maps.to.items()}
    back = {node: tuple(m @ turned[node].T for m in each) for node, each in known.maps.back.items()}
    maps = known.maps._replace(to=to, back=back)
    moved = known._replace(params=map_params(copy, SYMMETRY, *maps.of(1)), maps=maps)
    for name in REPAIRS:
        got = fuse([parent, copy], alignment=moved, repair=name, **OPTIONS)
        assert not np.allclose(got["first"], parent["first"], atol=0.1)
        np.testing.assert_allclose(net(got, X), net(parent, X), rtol=1e-3, atol=1e-3)
