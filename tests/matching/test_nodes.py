import jax
import numpy as np
import pytest

from jaxfuse.matching import nodes
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.symmetry import Symmetry
from tests.oracles import nested as oracle
from tests.symmetry.nested import NETWORKS, attention, stacked_heads, three_levels

flatten = jax.jit(nodes.flatten, static_argnums=0)
nest = jax.jit(nodes.nest, static_argnums=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_nest_undoes_flatten(name):
    symmetry = NETWORKS[name]()[1]
    permutations = oracle.draw(symmetry, 0)
    flat = flatten(symmetry, permutations)
    assert {n: len(p) for n, p in flat.items()} == {
        n: np.prod(node.shape) for n, node in list_nodes(symmetry).items()
    }
    for group, got in nest(symmetry, flat).items():
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, permutations[group])


def test_units_follow_the_entries_of_their_parent():
    symmetry = three_levels()[1]
    permutations = oracle.draw(symmetry, 0)
    flat = flatten(symmetry, permutations)
    for x, h, d in np.ndindex(2, 2, 3):
        image = np.unravel_index(int(flat["d"][(x * 2 + h) * 3 + d]), (2, 2, 3))
        want = [permutations["x"][x], permutations["h"][x, h], permutations["d"][x, h, d]]
        np.testing.assert_array_equal(image, want)


def test_pinned_axes_are_nodes_of_their_own():
    nodes = list_nodes(stacked_heads()[1])
    assert list(nodes) == ["r", "h[0]", "h[1]", "d[0]", "d[1]"]
    assert [node.parent for node in nodes.values()] == [None, None, None, "h[0]", "h[1]"]
    assert nodes["d[1]"].shape == (3, 4)


def test_pinned_axis_inside_a_group_keeps_its_place():
    symmetry = Symmetry(
        (("h", 3), ("d", 4)), (), (("d", ("h", "side")),), (("side", 2, "two of them"),)
    )
    permutations = oracle.draw(symmetry, 0)
    assert permutations["d"].shape == (3, 2, 4)
    flat = flatten(symmetry, permutations)
    assert set(flat) == {"h", "d[0]", "d[1]"}
    np.testing.assert_array_equal(flat["d[1]"][:4] % 4, permutations["d"][0, 1])
    np.testing.assert_array_equal(nest(symmetry, flat)["d"], permutations["d"])


def test_groups_that_index_one_another_crosswise_are_refused():
    symmetry = Symmetry((("a", 2), ("b", 2), ("d", 3)), (), (("d", ("a", "b")),))
    with pytest.raises(ValueError, match=r"'d' is indexed by .'a', 'b'., and 'b' by .*Pin one"):
        list_nodes(symmetry)


def test_names_must_differ():
    symmetry = Symmetry(
        (("d", 3), ("d[0]", 3)), (), (("d", ("layer",)),), (("layer", 2, "stacked"),)
    )
    with pytest.raises(ValueError, match=r"two matchings are named 'd\[0\]'"):
        list_nodes(symmetry)


def test_plain_groups_pass_through():
    symmetry = attention()[1]
    permutations = oracle.draw(symmetry, 0)
    flat = flatten(symmetry, permutations)
    np.testing.assert_array_equal(flat["e"], permutations["e"])
