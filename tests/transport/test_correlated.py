import dataclasses
import functools

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxfuse.activations import measure_moments
from jaxfuse.matching import CoordinateAscent
from jaxfuse.matching.nodes import flatten
from jaxfuse.networks import Networks
from jaxfuse.symmetry import infer_symmetry, permute, random_permutations
from jaxfuse.transport.cca import CCAMerge
from jaxfuse.transport.correlated import match_correlated
from jaxfuse.transport.partial import PartialMatching
from jaxfuse.transport.zip_it import ZipIt
from tests.symmetry.heads import HEADS, UNITS, X, attention, attention_params, attention_symmetry
from tests.transport.planted import batch, draw, fuse, hidden, networks_of

BLOCKS, INSIDE = "qkv.blocks", ("qkv", "qkv#2")


@pytest.fixture(scope="module")
def heads():
    """A layer of attention and a copy with heads and units permuted."""
    params = attention_params()
    symmetry = infer_symmetry(attention, params, X)
    permutations = random_permutations(symmetry, jax.random.key(3))
    copy = permute(params, symmetry, permutations)
    x = jax.random.normal(jax.random.key(1), (30, *X.shape[1:]))
    networks = Networks((params, copy), (symmetry, symmetry), (x,), None, attention)
    return networks, flatten(symmetry, permutations)


@functools.partial(jax.jit, static_argnames="role")
def matched(networks, role):
    moments = measure_moments(networks, role=role)
    return match_correlated(moments, networks, moments.sites)


def test_units_are_assigned_by_correlation():
    networks = networks_of(draw(1), draw(2), draw(3))
    orders = matched(networks, "input")
    done = [hidden(p, batch())["input"] for p in networks.params]
    for node, n in (("w0", 7), ("w1", 6)):
        np.testing.assert_array_equal(orders[node][0], np.arange(n))
        for k in (1, 2):
            correlation = np.corrcoef(done[0][node].T, done[k][node].T)[:n, n:]
            _, columns = linear_sum_assignment(correlation, maximize=True)
            np.testing.assert_array_equal(orders[node][k], columns)


def test_heads_are_permuted_as_wholes(heads):
    networks, permutations = heads
    found = CCAMerge(role="output").align(networks)
    assert set(permutations) == {BLOCKS, *INSIDE}
    for node in permutations:
        expected = np.eye(len(permutations[node]))[np.argsort(permutations[node])]
        np.testing.assert_array_equal(found.maps.to[node][1], expected)
    fused = fuse(networks, found.maps)
    (x,) = networks.inputs
    expected = attention(networks.params[0], x)
    np.testing.assert_allclose(attention(fused, x), expected, atol=1e-5)


def test_heads_are_neither_zipped_nor_set_apart(heads):
    networks, _ = heads
    zipped = jax.eval_shape(ZipIt(keep=1.5, until=0.0).align, networks)
    assert zipped.maps.to[INSIDE[0]][0].shape == (HEADS * UNITS, HEADS * UNITS)
    method = PartialMatching(solver=CoordinateAscent())
    orders = jax.eval_shape(method.align, networks).orders
    assert {node: order.shape for node, order in orders.items()} == {
        BLOCKS: (2, HEADS),
        INSIDE[0]: (2, HEADS * UNITS),
        INSIDE[1]: (2, HEADS * UNITS),
    }
    with pytest.raises(ValueError, match="indexes another group or is indexed by one"):
        PartialMatching(ratio={INSIDE[0]: 0.5}).align(networks)


def test_groups_that_no_activation_shows_are_refused(heads):
    networks, _ = heads
    by_hand = dataclasses.replace(networks, symmetries=(attention_symmetry(),) * 2)
    for method in (CCAMerge(), ZipIt(), PartialMatching(compare="activations")):
        with pytest.raises(ValueError, match="no activation shows the units of group 'qk'"):
            method.align(by_hand)


def test_heads_of_other_sizes_are_refused(heads):
    networks, _ = heads
    moments = measure_moments(networks)
    wider = networks_of(draw(1), draw(2, (5, 6)))
    with pytest.raises(ValueError, match="needs one width"):
        match_correlated(moments, wider, ["w0"])
