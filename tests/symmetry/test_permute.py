import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse.assignment.permutation import invert_permutation
from jaxfuse.symmetry import Symmetry, infer_chain, permute, random_permutations
from tests.symmetry.networks import randomise, torch_state

PARAMS = randomise(torch_state()[0])
SYMMETRY = infer_chain(PARAMS)
move = jax.jit(lambda params, permutations: permute(params, SYMMETRY, permutations))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1))
def test_inverse_undoes_and_composition_composes(seed):
    rng = np.random.default_rng(seed)
    first, second = (
        {g: rng.permutation(n).astype(np.int32) for g, n in SYMMETRY.sizes} for _ in range(2)
    )
    moved = move(PARAMS, first)
    inverse = {g: np.asarray(invert_permutation(p)) for g, p in first.items()}
    chex.assert_trees_all_equal(move(moved, inverse), PARAMS)
    both = {g: first[g][second[g]] for g in first}
    chex.assert_trees_all_equal(move(moved, second), move(PARAMS, both))


def test_new_unit_is_the_old_unit_of_the_permutation(key):
    permutation = jnp.array([2, 0, 1, 3])
    moved = permute(PARAMS, SYMMETRY, {"conv1": permutation})
    for unit, old in enumerate(permutation.tolist()):
        np.testing.assert_array_equal(moved["conv1.weight"][unit], PARAMS["conv1.weight"][old])
        np.testing.assert_array_equal(
            moved["fc1.weight"].reshape(5, 4, 9)[:, unit],
            PARAMS["fc1.weight"].reshape(5, 4, 9)[:, old],
        )
    np.testing.assert_array_equal(moved["fc2.weight"], PARAMS["fc2.weight"])


def test_dtypes_and_other_leaves_are_kept(key):
    params = {
        "kernel": jnp.ones((3, 4), jnp.bfloat16),
        "bias": jnp.arange(4, dtype=jnp.float16),
        "step": jnp.int32(7),
        "act": jax.nn.relu,
    }
    symmetry = Symmetry.from_axes({"kernel": (None, "h"), "bias": ("h",)}, params)
    moved = permute(params, symmetry, {"h": jnp.array([3, 2, 1, 0])})
    assert moved["kernel"].dtype == jnp.bfloat16
    assert moved["bias"].dtype == jnp.float16
    assert moved["bias"].tolist() == [3, 2, 1, 0]
    assert moved["step"] is params["step"]
    assert moved["act"] is jax.nn.relu


def test_wrong_parameters_are_refused():
    with pytest.raises(ValueError, match="another model"):
        permute({"x": jnp.ones(3)}, SYMMETRY, {})


def test_random_permutations_differ_by_group_and_repeat_by_key(key):
    symmetry = Symmetry((("g", 30), ("h", 30)), ())
    first, second = (random_permutations(symmetry, key) for _ in range(2))
    chex.assert_trees_all_equal(first, second)
    assert not np.array_equal(first["g"], first["h"])
    for columns in first.values():
        assert columns.dtype == jnp.int32
        np.testing.assert_array_equal(np.sort(columns), np.arange(30))
    assert random_permutations(Symmetry((), ()), key) == {}


@pytest.mark.parametrize(
    ("permutations", "message"),
    [
        ({"conv2": jnp.arange(4)}, "no group 'conv2': its groups are .'conv1', 'fc1'."),
        ({"conv1": jnp.arange(3)}, r"'conv1' has shape \(3,\): pass one of shape \(4,\)"),
        ({"conv1": jnp.arange(4)[None]}, r"'conv1' has shape \(1, 4\)"),
    ],
)
def test_permutations_of_unknown_groups_and_wrong_lengths_are_refused(permutations, message):
    for apply in (lambda params, p: permute(params, SYMMETRY, p), move):
        with pytest.raises(ValueError, match=message):
            apply(PARAMS, permutations)


@pytest.mark.parametrize("columns", [[0, 1, 2, 2], [1, 2, 3, 4], [-1, 0, 1, 2]])
@pytest.mark.parametrize("xp", [jnp, np])
def test_concrete_values_that_are_no_permutation_are_refused(columns, xp):
    with pytest.raises(
        ValueError, match=r"'conv1' got .* no permutation: every number from 0 to 3"
    ):
        permute(PARAMS, SYMMETRY, {"conv1": xp.asarray(columns)})
