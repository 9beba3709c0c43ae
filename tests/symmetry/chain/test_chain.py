"""Symmetries read off a tree, proved on the network's own function."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxfuse.symmetry import infer_chain, permute, random_permutations, verify
from jaxfuse.symmetry.chain import order
from jaxfuse.symmetry.chain.placement import _spaces_by_size
from jaxfuse.symmetry.tree import is_weight, named_leaves
from tests.symmetry.networks import CHAINS, conv_oihw, image, linen, nnx_mlp, randomise


@pytest.mark.parametrize("name", CHAINS)
def test_inferred_symmetry_holds(name, key):
    build, sizes = CHAINS[name]
    shapes, apply_fn, x = build()
    params = randomise(shapes)
    symmetry = infer_chain(shapes)
    assert list(symmetry.groups.values()) == sizes
    result = verify(symmetry, apply_fn, params, x, key=key)
    assert result.holds, result.errors
    assert list(result.errors) == list(symmetry.groups)
    # Every hidden vector is carried: only the outputs' own leaves are not.
    pinned = set(named_leaves(params)) - {tensor.path for tensor in symmetry.tensors}
    last = apply_fn(params, x).shape[-1]
    assert all(np.shape(named_leaves(params)[path]) == (last,) for path in pinned)


def test_group_norm_of_several_groups_is_caught(key):
    shapes, apply_fn, x = linen("group", groups=2)
    params = randomise(shapes)
    assert not verify(infer_chain(params), apply_fn, params, x, key=key).holds


def test_norm_before_its_map_is_caught(key):
    params = randomise(
        [{"norm": jnp.zeros(5), "kernel": jnp.zeros((5, 5))} for _ in range(2)]
        + [{"kernel": jnp.zeros((5, 2))}]
    )

    def apply_fn(p, x):
        for layer in p[:-1]:
            x = jnp.tanh((x * layer["norm"][None]) @ layer["kernel"])
        return x @ p[-1]["kernel"]

    result = verify(infer_chain(params), apply_fn, params, image(4, 5), key=key)
    assert not result.holds
    assert min(result.errors.values()) > 1e-2


def test_equinox_chain_channels_first(key):
    eqx = pytest.importorskip("equinox")
    shapes = jax.eval_shape(
        lambda: [
            eqx.nn.Conv2d(2, 4, 3, padding=1, key=key),
            eqx.nn.Conv2d(4, 3, 3, padding=1, key=key),
            eqx.nn.Linear(3 * 9, 6, key=key),
            eqx.nn.Linear(6, 2, key=key),
        ]
    )
    model = randomise(shapes)

    def apply_fn(model, x):
        for conv in model[:2]:
            x = jax.nn.relu(conv(x))
        return model[3](jax.nn.relu(model[2](x.ravel())))

    symmetry = infer_chain(model)
    assert symmetry.groups == {"0": 4, "1": 3, "2": 6}
    assert verify(symmetry, apply_fn, model, image(2, 3, 3), key=key).holds
    views = {tensor.path: tensor for tensor in symmetry.tensors}
    assert views["0/bias"].groups == ("0", None, None)
    assert views["2/weight"].shape == (6, 3, 9)


def test_equinox_module_with_functions_among_its_leaves(key):
    eqx = pytest.importorskip("equinox")
    model = randomise(eqx.filter_eval_shape(eqx.nn.MLP, 3, 2, 5, 2, key=key))
    symmetry = infer_chain(model)
    assert symmetry.groups == {"layers/0": 5, "layers/1": 5}
    moved = permute(model, symmetry, random_permutations(symmetry, key))
    assert moved.activation is model.activation
    x = image(3)
    np.testing.assert_allclose(moved(x), model(x), rtol=1e-4, atol=1e-6)


def test_convolution_of_one_channel_with_a_bias_of_ones():
    layers = [((1, 2, 3, 3), (1, 1, 1)), ((3, 1, 3, 3), (3, 1, 1))]
    params = [{"weight": jnp.ones(w), "bias": jnp.ones(b)} for w, b in layers]
    symmetry = infer_chain(params)
    assert {t.path: t.groups for t in symmetry.tensors}["0/bias"] == ("0", None, None)


def test_unequal_layouts_give_unequal_flattens():
    channels_last = {
        "0": {"kernel": jnp.ones((3, 3, 2, 4))},
        "1": {"kernel": jnp.ones((36, 5))},
        "2": {"kernel": jnp.ones((5, 2))},
    }
    views = {t.path: t for t in infer_chain(channels_last).tensors}
    assert views["1/kernel"].shape == (9, 4, 5)
    assert views["1/kernel"].groups == (None, "0", "1")
    assert views["1/kernel"].edge == (0,)
    assert views["0/kernel"].edge == (0, 1)
    assert [view.output for view in views.values()] == [3, 2, 1]


def test_shapes_alone_are_enough_and_other_leaves_are_passed_over():
    params = {
        "0": {"kernel": jnp.ones((3, 4))},
        "1": {"kernel": jnp.ones((4, 2))},
        "step": 3,
        "count": jnp.arange(4),
        "key": jax.random.key(0),
        "act": jax.nn.relu,
    }
    weights = {path: leaf for path, leaf in params.items() if isinstance(leaf, dict)}
    assert infer_chain(params) == infer_chain(jax.eval_shape(lambda: weights))
    assert [is_weight(leaf) for leaf in named_leaves(params).values()].count(True) == 2


def test_result_is_hashable_and_equal_for_equal_trees():
    first, second = (infer_chain(nnx_mlp(None)[0]) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)


def test_ten_layers_are_in_the_order_of_their_numbers():
    params = {f"fc{i}": {"kernel": jnp.ones((4, 4))} for i in range(12)}
    assert list(infer_chain(params).groups) == [f"fc{i}" for i in range(11)]


def test_single_layer_has_no_groups():
    assert infer_chain({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}).groups == {}


def kernels(**shapes):
    return {name: {"kernel": jnp.ones(shape)} for name, shape in shapes.items()}


BAD = {
    "no_chain": (kernels(a=(3, 5), b=(6, 2)), r"leaf '[ab]/kernel'.*symmetry="),
    "branch": (kernels(a=(3, 5), b=(5, 5), c=(3, 2)), "could not be placed.*symmetry="),
    "ambiguous": (kernels(a=(4, 4), b=(4, 4)), "'a/kernel' and 'b/kernel'.*symmetry="),
    "blocks": (
        {
            "conv1.weight": jnp.ones((4, 2, 3, 3)),
            "layer1.0.conv1.weight": jnp.ones((4, 4, 3, 3)),
            "layer1.0.conv2.weight": jnp.ones((4, 4, 3, 3)),
            "fc.weight": jnp.ones((2, 4)),
        },
        "'layer1.0.conv1.weight'.*one block 'layer1'.*symmetry=",
    ),
    "blocks_of_blocks": (
        {
            f"block_{b}": {f"cbn_{i}": {"conv": {"kernel": jnp.ones((3, 3, 4, 4))}} for i in (0, 1)}
            for b in (0, 1)
        },
        "'block_0/cbn_0/conv/kernel'.*one block 'block_0'.*symmetry=",
    ),
    "simple_cell": (
        {"cell": kernels(dense_i=(3, 5), dense_h=(5, 5)), "head": {"kernel": jnp.ones((5, 2))}},
        "leaf 'cell/dense_h/kernel' belongs to a recurrent cell.*symmetry=",
    ),
    "gates": (
        kernels(ii=(3, 5), hi=(5, 5), io=(3, 5), ho=(5, 5)),
        "leaf 'hi/kernel' belongs to a recurrent cell",
    ),
    "bare_cell": ({"i": jnp.ones((3, 5)), "h": jnp.ones((5, 5))}, "'h' belongs to a recurrent"),
    "recurrent_kernel": (
        {"kernel": jnp.ones((3, 5)), "recurrent_kernel": jnp.ones((5, 5))},
        "'recurrent_kernel' belongs to a recurrent cell",
    ),
    "torch_cell": (
        {"rnn.weight_ih_l0": jnp.ones((5, 3)), "rnn.weight_hh_l0": jnp.ones((5, 5))},
        "'rnn.weight_hh_l0' belongs to a recurrent cell",
    ),
    "vectors": ({"scale": jnp.ones(3)}, "no kernel, only vectors.*symmetry="),
    "empty": ({}, "no arrays of real numbers"),
    "integers": ({"w": jnp.arange(3)}, "no arrays of real numbers"),
    "ambiguous_norm": (
        kernels(fc1=(4, 8), fc2=(8, 8), fc3=(8, 2)) | {"norm": {"scale": jnp.ones(8)}},
        "leaf 'norm/scale' with 8 entries.*symmetry=",
    ),
    "norm_of_no_size": (
        kernels(fc1=(4, 8), fc2=(8, 2)) | {"norm": {"scale": jnp.ones(7)}},
        "leaf 'norm/scale' with 7 entries.*symmetry=",
    ),
    "bias_of_wrong_size": (
        {"fc1": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(7)}},
        "leaf 'fc1/bias' has 7 entries beside a kernel with 8",
    ),
    "same_path_twice": (
        {"a/b": jnp.ones((3, 4)), "a": {"b": jnp.ones((4, 3))}},
        "two leaves are named 'a/b'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_chain_is_refused(name):
    params, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        infer_chain(params)


def test_norm_without_number_is_placed_by_its_size(key):
    params = randomise(
        {
            "conv": {"weight": jnp.zeros((4, 2, 3, 3)), "bias": jnp.zeros(4)},
            "fc1": {"weight": jnp.zeros((6, 36)), "bias": jnp.zeros(6)},
            "norm": {"weight": jnp.zeros(6)},
            "fc2": {"weight": jnp.zeros((2, 6)), "bias": jnp.zeros(2)},
        }
    )

    def apply_fn(p, x):
        x = jnp.tanh(conv_oihw(x, p["conv"]["weight"], p["conv"]["bias"]))
        x = x.reshape(len(x), -1) @ p["fc1"]["weight"].T + p["fc1"]["bias"][None]
        return jnp.tanh(x * p["norm"]["weight"][None]) @ p["fc2"]["weight"].T

    assert verify(infer_chain(params), apply_fn, params, image(2, 2, 3, 3), key=key).holds


def test_cell_of_flax_is_refused():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.cell = nnx.SimpleCell(3, 5, rngs=rngs)
            self.head = nnx.Linear(5, 2, rngs=rngs)

    state = nnx.state(nnx.eval_shape(lambda: Network(nnx.Rngs(0))), nnx.Param)
    with pytest.raises(ValueError, match="'cell/dense_h/kernel' belongs to a recurrent cell"):
        infer_chain(state)


def test_names_that_only_resemble_a_cell_are_a_chain():
    assert list(infer_chain(kernels(dense_i=(3, 5), dense_o=(5, 2))).groups) == ["dense_i"]
    # Input, hidden and output layers: no kernel from hidden to hidden.
    names = {"weight_ih": jnp.ones((3, 5)), "weight_ho": jnp.ones((5, 2))}
    assert list(infer_chain(names).groups.values()) == [5]


def test_search_that_ends_early_proves_nothing(monkeypatch):
    params = kernels(a=(3, 4), b=(4, 5), c=(5, 6), d=(6, 2))
    assert list(infer_chain(params).groups) == ["a", "b", "c"]
    for limit in (1, 3, 4):
        monkeypatch.setattr(order, "_SEARCH_LIMIT", limit)
        with pytest.raises(ValueError, match=r"'a/kernel'.*ambiguous.*untried.*symmetry="):
            infer_chain(params)


@settings(deadline=None, max_examples=50)
@given(
    needed=st.lists(st.integers(1, 3), max_size=4), sizes=st.lists(st.integers(1, 3), max_size=7)
)
@example(needed=[1, 2], sizes=[1, 3, 2])
@example(needed=[1, 2], sizes=[1, 2, 2])
def test_vectors_are_placed_by_size_where_there_is_one_way(needed, sizes):
    choices = itertools.combinations(range(len(sizes)), len(needed))
    ways = [list(way) for way in choices if [sizes[space] for space in way] == needed]
    assert _spaces_by_size(needed, sizes) == (ways[0] if len(ways) == 1 else None)


def test_vectors_are_placed_by_size_without_a_limit():
    # Thirty of sixty equal spaces can be chosen in 10^17 ways, and the last size only in one.
    assert _spaces_by_size([8] * 30 + [4], [8] * 60 + [4]) is None
    assert _spaces_by_size([8] * 60 + [4], [8] * 60 + [4]) == list(range(61))
