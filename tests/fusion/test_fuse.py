import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import Symmetry, align_params, average, fuse, infer_chain, permute
from jaxfuse.fusion.rescale import unit_norms
from jaxfuse.symmetry import random_permutations


def network(seed):
    rng = np.random.default_rng(seed)
    shapes = [(3, 5), (5,), (5, 4), (4,), (4, 2), (2,)]
    return [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes]


SYMMETRY = infer_chain(network(0))
shuffle = jax.jit(lambda params, key: permute(params, SYMMETRY, random_permutations(SYMMETRY, key)))


@pytest.fixture(scope="module")
def parents():
    """Three networks, and the alignments of the last two to the first."""
    trees = [network(seed) for seed in range(3)]
    return trees, [align_params(trees[0], other) for other in trees[1:]]


def test_permuted_copies_fuse_to_the_original(key):
    params = network(0)
    copies = [shuffle(params, k) for k in jax.random.split(key, 2)]
    for repair in ("norm", None):
        fused = fuse([params, *copies], repair=repair)
        chex.assert_trees_all_close(fused, params, rtol=1e-5, atol=1e-6)


def test_given_alignments_give_the_same_network(parents):
    trees, alignments = parents
    many = fuse(trees, method="all_to_one")
    chex.assert_trees_all_close(fuse(trees, alignment=alignments), many, rtol=1e-5)
    pair = fuse(trees[:2], alignment=alignments[0])
    chex.assert_trees_all_close(pair, fuse(trees[:2]), rtol=1e-5)


def test_bare_average_of_the_aligned_networks(parents):
    trees, alignments = parents
    fused = fuse(trees, [1, 2, 1], alignments, repair=None)
    aligned = [trees[0], *(alignment.params for alignment in alignments)]
    chex.assert_trees_all_close(fused, average(aligned, [1, 2, 1]))


def test_correction_restores_the_norms_by_weight(parents):
    trees, alignments = parents
    fused = fuse(trees, [1, 2, 1], alignments)
    aligned = [trees[0], *(alignment.params for alignment in alignments)]
    each = [unit_norms(tree, SYMMETRY) for tree in aligned]
    for group, got in unit_norms(fused, SYMMETRY).items():
        want = np.average([n[group] for n in each], axis=0, weights=[1, 2, 1])
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_weight_of_one_network_alone(parents):
    trees, alignments = parents
    chex.assert_trees_all_close(fuse(trees, [1, 0, 0], alignments), trees[0], rtol=1e-5)
    chex.assert_trees_all_close(fuse(trees, [0, 1, 0], alignments), alignments[0].params, rtol=1e-5)
    chex.assert_trees_all_close(fuse(trees[:1]), trees[0], rtol=1e-5)


def test_jit_equals_bare(parents):
    trees, alignments = parents
    compiled = jax.jit(lambda trees, weights: fuse(trees, weights, method="coordinate_ascent"))
    got = compiled(trees, jnp.array([1.0, 2.0, 1.0]))
    want = fuse(trees, [1, 2, 1], method="coordinate_ascent")
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-5)
    given = jax.jit(fuse)(trees, None, alignments)
    chex.assert_trees_all_close(given, fuse(trees, None, alignments), rtol=1e-4, atol=1e-5)


def test_gradient_with_the_matching_held_fixed(parents):
    trees, _ = parents

    def total(first, second):
        fused = fuse([first, second], method="coordinate_ascent", repair=None)
        return sum(jnp.sum(leaf) for leaf in fused)

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(*trees[:2]):
        chex.assert_trees_all_close(gradient, jax.tree.map(lambda x: x * 0 + 0.5, trees[0]))


@pytest.mark.parametrize(
    ("count", "arguments", "message"),
    [
        (0, {}, "nothing to fuse"),
        (3, {"alignment": []}, "got 0 alignments for 3 networks"),
        (1, {"repair": "mean"}, "repair='mean' is none of"),
        (1, {"weights": [1, 2]}, "got 2 weights for 1 networks"),
    ],
)
def test_bad_input_is_refused(parents, count, arguments, message):
    with pytest.raises(ValueError, match=message):
        fuse(parents[0][:count], **arguments)


NAMES = ("W1", "b1", "W2", "b2", "W3", "b3")
TABLE = {"W1": (None, "g"), "b1": ("g",), "W2": ("g", "h"), "b2": ("h",), "W3": ("h", None)}


def test_written_symmetry_of_any_names_is_corrected_like_the_inferred(parents):
    trees, alignments = parents
    pair = [dict(zip(NAMES, tree, strict=True)) for tree in (trees[0], alignments[0].params)]
    written = Symmetry.from_axes(TABLE, pair[0])
    got = fuse(pair, alignment=alignments[0]._replace(params=pair[1]), symmetry=written)
    want = fuse(trees[:2], alignment=alignments[0])
    chex.assert_trees_all_close([got[name] for name in NAMES], want, rtol=1e-6)
    bare = average([trees[0], alignments[0].params])
    assert not np.allclose(got["W1"], bare[0], rtol=1e-3)


def test_group_that_no_leaf_computes_is_refused():
    # Written [out, in], which no name tells.
    trees = [{"U": jnp.ones((5, 3)), "b": jnp.ones(5)}]
    spec = Symmetry.from_axes({"U": ("h", None), "b": ("h",)}, trees[0])
    with pytest.raises(ValueError, match=r"units of group 'h' as its outputs.*repair=None"):
        fuse(trees, symmetry=spec)
    chex.assert_trees_all_close(fuse(trees, symmetry=spec, repair=None), trees[0])


def test_no_symmetry_is_needed_without_alignment_and_repair(parents):
    trees = [{"a": jnp.ones((3, 5)) * k, "b": jnp.ones((6, 2))} for k in (1, 3)]
    known = parents[1][0]._replace(params=trees[1])
    fused = fuse(trees, alignment=known, repair=None)
    np.testing.assert_allclose(fused["a"], 2.0)
    with pytest.raises(ValueError, match="could not be placed"):
        fuse(trees, alignment=known)
    # What is wrong with the choice is said before anything is computed.
    with pytest.raises(ValueError, match="is none of"):
        fuse(trees, repair="mean")


def test_numpy_float64_is_kept():
    trees = [[np.asarray(leaf, np.float64) for leaf in network(seed)] for seed in range(2)]
    for repair in ("norm", None):
        fused = fuse(trees, repair=repair, method="coordinate_ascent")
        assert all(isinstance(leaf, np.ndarray) for leaf in fused)
        assert {leaf.dtype for leaf in fused} == {np.dtype(np.float64)}
        halves = [[np.float32(leaf) for leaf in tree] for tree in trees]
        single = fuse(halves, repair=repair, method="coordinate_ascent")
        chex.assert_trees_all_close([np.float32(leaf) for leaf in fused], single, rtol=1e-5)
