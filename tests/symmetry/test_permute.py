import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse.assignment.permutation import invert_permutation
from jaxfuse.matching import nodes
from jaxfuse.symmetry import Symmetry, TensorAxes, infer_chain, permute, random_permutations
from jaxfuse.symmetry.permute import context_axes
from tests.oracles import nested as oracle
from tests.symmetry.nested import NETWORKS, attention, draw, three_levels
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


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """Float64 weights of a network with nested groups or blocks, and its symmetry."""
    shapes, symmetry = NETWORKS[request.param]()
    return draw(shapes, 0, np.float64), symmetry


flatten = jax.jit(nodes.flatten, static_argnums=0)
nest = jax.jit(nodes.nest, static_argnums=0)


def test_nested_groups_move_entry_by_entry(network):
    params, symmetry = network
    permutations = oracle.draw(symmetry, 1)
    want = {path: leaf.copy() for path, leaf in params.items()}
    for tensor in symmetry.tensors:
        block = tensor.take(want[tensor.path])
        moved = oracle.permute_block(block, tensor, symmetry, permutations)
        want[tensor.path] = tensor.put(want[tensor.path], moved)
    got = permute(params, symmetry, permutations)
    assert {type(leaf) for leaf in got.values()} == {np.ndarray}
    assert {leaf.dtype for leaf in got.values()} == {np.dtype(np.float64)}
    chex.assert_trees_all_equal(got, want)


@pytest.mark.parametrize("name", ["attention", "grouped_query", "stacked_heads"])
def test_nested_groups_move_alike_under_jit_and_vmap(name):
    shapes, symmetry = NETWORKS[name]()
    params = draw(shapes, 0)
    both = [oracle.draw(symmetry, seed) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *orders: np.stack(orders), *both)
    moved = jax.jit(jax.vmap(lambda p: permute(params, symmetry, p)))(stacked)
    for index, permutations in enumerate(both):
        want = permute(params, symmetry, permutations)
        chex.assert_trees_all_equal({k: leaf[index] for k, leaf in moved.items()}, want)


def test_nested_permutations_compose_and_invert(network):
    params, symmetry = network
    first, second = oracle.draw(symmetry, 1), oracle.draw(symmetry, 2)
    flat = [flatten(symmetry, permutations) for permutations in (first, second)]
    flat = jax.tree.map(np.asarray, flat)
    both = nest(symmetry, {node: flat[0][node][flat[1][node]] for node in flat[0]})
    both = jax.tree.map(np.asarray, both)
    moved = permute(params, symmetry, first)
    chex.assert_trees_all_equal(permute(moved, symmetry, second), permute(params, symmetry, both))
    inverse = nest(symmetry, {node: np.argsort(p) for node, p in flat[0].items()})
    inverse = jax.tree.map(np.asarray, inverse)
    chex.assert_trees_all_equal(permute(moved, symmetry, inverse), params)


def test_missing_contexts_stay_in_place(network):
    params, symmetry = network
    for group, order in oracle.draw(symmetry, 3).items():
        whole = {name: np.arange(symmetry.shape(name)[-1]) for name in symmetry.groups}
        whole = {name: np.broadcast_to(p, symmetry.shape(name)) for name, p in whole.items()}
        chex.assert_trees_all_equal(
            permute(params, symmetry, {group: order}),
            permute(params, symmetry, {**whole, group: order}),
        )


def test_every_entry_gets_a_random_permutation_of_its_own(key):
    symmetry = three_levels(x=3, h=2, d=20)[1]
    drawn = random_permutations(symmetry, key)
    assert {group: p.shape for group, p in drawn.items()} == {
        "x": (3,),
        "h": (3, 2),
        "d": (3, 2, 20),
    }
    assert drawn["d"].dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(drawn["d"]), np.broadcast_to(np.arange(20), (3, 2, 20)))
    assert len({tuple(order) for order in drawn["d"].reshape(-1, 20).tolist()}) == 6


@pytest.mark.parametrize(
    ("permutation", "message"),
    [
        (np.arange(4), r"'qk' has shape \(4,\): pass one of shape \(3, 4\).*for each of 'h'"),
        (np.zeros((3, 4), int), r"(?s)'qk' got .* no permutation"),
    ],
    ids=["shape", "values"],
)
def test_wrong_nested_permutations_are_refused(permutation, message):
    shapes, symmetry = attention()
    with pytest.raises(ValueError, match=message):
        permute(draw(shapes, 0), symmetry, {"qk": permutation})


@pytest.mark.parametrize(
    ("groups", "axis", "want"),
    [
        (("h", "d"), 1, (0,)),
        (("d", "h"), 0, (1,)),
        (("h", "d", "d"), 2, (0,)),
        (("h", "d", "h", "d"), 3, (2,)),
        (("d", "h", "d", "h"), 2, (3,)),
        (("h", "h", "d"), 2, (1,)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) and "d" in value else None,
)
def test_units_belong_to_the_nearest_axis_of_what_indexes_them(groups, axis, want):
    sizes = {"h": 2, "d": 3}
    tensor = TensorAxes("w", tuple(sizes[group] for group in groups), groups)
    symmetry = Symmetry(tuple(sizes.items()), (tensor,), (("d", ("h",)),))
    assert context_axes(symmetry, tensor, axis) == want


def test_a_tensor_without_the_axis_that_indexes_is_refused():
    symmetry = Symmetry((("h", 2), ("d", 3)), (TensorAxes("w", (3,), ("d",)),), (("d", ("h",)),))
    with pytest.raises(ValueError, match="'d' is indexed by 'h', and leaf 'w'"):
        permute({"w": np.ones(3)}, symmetry, {"d": np.array([[0, 1, 2], [2, 1, 0]])})
