import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.affinity.terms import list_terms
from jaxfuse.symmetry import Symmetry, TensorAxes
from tests.symmetry.nested import (
    attention,
    draw,
    grouped_convolution,
    grouped_query,
    recurrent,
    stacked,
    stacked_heads,
)


def carriers(symmetry):
    """Return per leaf the groups, and entries, of the carriers of its terms."""
    found = {}
    for term in list_terms(symmetry):
        names = tuple((c.group, *c.entries) for c in term.carriers)
        found.setdefault(term.tensor.path, []).append(names)
    return found


def test_a_group_that_only_indexes_is_no_carrier():
    found = carriers(attention()[1])
    assert found["qkv"] == [(("e",), ("qk",)), (("e",), ("qk",)), (("e",), ("vo",))]
    assert found["proj"] == [(("vo",), ("e",))]
    assert found["qkv_bias"] == [(("qk",),), (("qk",),), (("vo",),)]


def test_carriers_of_grouped_layers():
    assert carriers(grouped_query()[1])["q"] == [(("e",), ("g",), ("qk",))]
    assert carriers(grouped_convolution()[1])["conv1"] == [(("a",), ("b",))]
    assert carriers(recurrent()[1])["h"] == [(("h",), ("h",))] * 4


def test_pinned_axes_that_index_give_a_term_for_each_entry():
    found = carriers(stacked()[1])
    assert found["up"] == [(("r",), ("f", layer)) for layer in range(3)]
    assert found["scale"] == [(("r",),)]
    assert carriers(stacked_heads()[1])["o"] == [(("d", layer), ("r",)) for layer in range(2)]


def test_edges_of_an_entry():
    shapes, symmetry = stacked_heads(layers=2, r=7, h=3, d=4)
    leaf = draw(shapes, 0)["o"]
    terms = [term for term in list_terms(symmetry) if term.tensor.path == "o"]
    for layer, term in enumerate(terms):
        # The leaf is [heads, layers, units, stream].
        want = leaf[:, layer].reshape(12, 7, 1)
        np.testing.assert_array_equal(term.edges(jnp.asarray(leaf)), want)
    assert all(term.is_pairwise for term in terms)


def test_edges_of_blocks_and_taps():
    shapes, symmetry = grouped_convolution(g=3, sizes=(4, 3, 4))
    params = draw(shapes, 0)
    terms = {term.tensor.path: term for term in list_terms(symmetry)}
    assert not terms["conv1"].is_pairwise
    assert terms["conv1"].axes == (3, 2, 4)
    want = params["conv1"].reshape(9, 4, 3, 3).transpose(2, 1, 3, 0).reshape(12, 3, 9)
    np.testing.assert_array_equal(terms["conv1"].edges(jnp.asarray(params["conv1"])), want)
    assert terms["out"].edges(jnp.asarray(params["out"])).shape == (12, 3, 1)
    shapes, symmetry = attention(e=10, h=3, qk=4, vo=5)
    params = draw(shapes, 0)
    blocks = [term for term in list_terms(symmetry) if term.tensor.path == "qkv"]
    want = params["qkv"][:, 12:24, None]
    np.testing.assert_array_equal(blocks[1].edges(jnp.asarray(params["qkv"])), want)


def test_leaves_without_groups_and_statistics_have_no_term():
    tensors = (
        TensorAxes("free", (3, 2), (None, None), pins=("a", "b")),
        TensorAxes("mean", (4,), ("h",), statistic=True),
    )
    assert list_terms(Symmetry((("h", 4),), tensors)) == []


def test_a_leaf_without_what_indexes_its_group_is_refused():
    symmetry = Symmetry((("h", 2), ("d", 3)), (TensorAxes("w", (3,), ("d",)),), (("d", ("h",)),))
    with pytest.raises(ValueError, match="'d' is indexed by 'h', and leaf 'w'"):
        list_terms(symmetry)
