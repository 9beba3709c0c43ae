import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import average, infer_chain, rescale_units
from jaxfuse.fusion.rescale import unit_norms
from jaxfuse.symmetry import permute
from tests.oracles import nested as nested_oracle
from tests.symmetry.nested import NETWORKS, draw


def oihw(seed):
    """A convolution [out, in, kh, kw], flattened to a dense layer, and an output layer."""
    rng = np.random.default_rng(seed)
    shapes = {"conv.weight": (4, 2, 3, 3), "conv.bias": (4,), "fc1.weight": (5, 16)}
    shapes |= {"fc1.bias": (5,), "fc2.weight": (3, 5)}
    return {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}


def hwio(seed):
    tree = oihw(seed)
    flat = tree["fc1.weight"].reshape(5, 4, 4).transpose(2, 1, 0).reshape(16, 5)
    return {
        "conv": {"kernel": tree["conv.weight"].transpose(2, 3, 1, 0), "bias": tree["conv.bias"]},
        "fc1": {"kernel": flat, "bias": tree["fc1.bias"]},
        "fc2": {"kernel": tree["fc2.weight"].T},
    }


def norms(tree):
    """Incoming norms of every hidden unit in NumPy."""
    if "conv" in tree:
        kernels = [np.moveaxis(tree[name]["kernel"], -1, 0) for name in ("conv", "fc1")]
    else:
        kernels = [tree["conv.weight"], tree["fc1.weight"]]
    return [np.linalg.norm(np.float64(k).reshape(len(k), -1), axis=1) for k in kernels]


@pytest.fixture(scope="module", params=[oihw, hwio])
def case(request):
    parents = [request.param(seed) for seed in range(3)]
    return parents, infer_chain(parents[0])


def test_norms_are_the_mean_of_the_parents(case):
    parents, symmetry = case
    shares = [0.5, 0.3, 0.2]
    fused = average(parents, shares)
    got = jax.jit(lambda f, p: rescale_units(f, p, shares, symmetry))(fused, parents)
    means = [np.tensordot(shares, each, 1) for each in zip(*map(norms, parents), strict=True)]
    for have, want in zip(norms(got), means, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5)


def test_only_the_kernels_of_hidden_units_change(case):
    parents, symmetry = case
    fused = average(parents)
    got = rescale_units(fused, parents, [1 / 3] * 3, symmetry)
    changed = jax.tree.map(lambda x, y: not np.array_equal(x, y), got, fused)
    assert sum(jax.tree.leaves(changed)) == 2
    directions = [
        tree["conv"]["kernel"][..., 1] if "conv" in tree else tree["conv.weight"][1]
        for tree in (got, fused)
    ]
    cosine = np.vdot(*directions) / np.prod([np.linalg.norm(d) for d in directions])
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-5)


def test_unit_norms_match_numpy(case):
    parents, symmetry = case
    for got, want in zip(unit_norms(parents[0], symmetry).values(), norms(parents[0]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_dead_units_stay_dead_with_finite_gradients():
    parents = [{"0": {"kernel": jnp.zeros((2, 3))}, "1": {"kernel": jnp.ones((3, 2))}}] * 2
    symmetry = infer_chain(parents[0])

    def total(tree):
        return sum(jnp.sum(x) for x in jax.tree.leaves(rescale_units(tree, parents, [1], symmetry)))

    parents = parents[:1]
    value, gradient = jax.value_and_grad(total)(parents[0])
    assert value == 6.0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_dtype_is_kept():
    parents = [jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), oihw(i)) for i in range(2)]
    symmetry = infer_chain(parents[0])
    got = rescale_units(average(parents), parents, [0.5, 0.5], symmetry)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("name", ["attention", "recurrent"])
def test_every_entry_and_block_has_norms_of_its_own(name):
    shapes, symmetry = NETWORKS[name]()
    parents = [draw(shapes, seed) for seed in range(2)]
    fused = average(parents)
    got = rescale_units(fused, parents, [0.5, 0.5], symmetry)
    norms = [unit_norms(tree, symmetry) for tree in (got, *parents)]
    assert norms[0]
    for group, have in norms[0].items():
        assert have.shape == symmetry.shape(group)
        want = (norms[1][group] + norms[2][group]) / 2
        np.testing.assert_allclose(have, want, rtol=1e-5)


def test_norms_sum_over_all_leaves_that_compute_a_unit():
    shapes, symmetry = NETWORKS["attention"](h=3, qk=4)
    params = draw(shapes, 0)
    both = params["qkv"][:, :24].astype(float).reshape(-1, 2, 3, 4)
    want = np.sqrt(np.sum(both**2, axis=(0, 1)))
    np.testing.assert_allclose(unit_norms(params, symmetry)["qk"], want, rtol=1e-5)


def test_norms_move_with_their_units():
    shapes, symmetry = NETWORKS["stacked_heads"]()
    params = draw(shapes, 0)
    permutations = nested_oracle.draw(symmetry, 0)
    moved = unit_norms(permute(params, symmetry, permutations), symmetry)["d"]
    still = np.asarray(unit_norms(params, symmetry)["d"])
    for layer, head in np.ndindex(2, 3):
        old = still[layer, permutations["h"][layer, head]]
        want = old[permutations["d"][layer, head]]
        np.testing.assert_allclose(moved[layer, head], want, rtol=1e-5)


def test_numpy_blocks_keep_float64():
    shapes, symmetry = NETWORKS["recurrent"]()
    parents = [draw(shapes, seed, np.float64) for seed in range(2)]
    got = rescale_units(parents[0], parents, [0.5, 0.5], symmetry)
    assert {leaf.dtype for leaf in got.values()} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(got["b"], parents[0]["b"])
