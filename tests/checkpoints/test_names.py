"""Conversion by names: residual and depthwise networks, vectors, refusals; published files."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfuse.align import align_params
from jaxfuse.checkpoints import convert, read
from jaxfuse.checkpoints.names import convert_by_names
from jaxfuse.data import load
from jaxfuse.models import create, functional
from jaxfuse.symmetry import infer_symmetry, verify
from jaxfuse.symmetry.tree import named_leaves
from tests.oracles import torch_layout

CHECKPOINTS = os.environ.get("JAXFUSE_CHECKPOINTS")
WORDS = {"mean": "running_mean", "var": "running_var", "kernel": "weight", "scale": "weight"}


def template(name: str, **options):
    """A function and the shapes of its parameters."""
    settings = {"input_shape": (8, 8, 3), "classes": 5, "width": 0.25, "key": jax.random.key(0)}
    return functional(nnx.eval_shape(lambda: create(name, **(settings | options))))


def as_torch(shapes, seed: int) -> torch_layout.State:
    """A PyTorch state dict for the tree of a model: its names, layouts, counters, random values."""
    generator = np.random.default_rng(seed)
    state = {}
    for path, leaf in named_leaves(shapes).items():
        *layer, last = path.split("/")
        shape = leaf.shape
        if last == "kernel":
            shape = (*shape[:-3:-1], *shape[:-2])
        values = generator.uniform(0.5, 1.5, shape).astype(np.float32)
        state[".".join((*layer, WORDS.get(last, last)))] = values
        if last == "mean":
            state[".".join((*layer, "num_batches_tracked"))] = np.array([7])
    return state


@pytest.fixture(scope="module")
def resnet():
    return template("resnet20")[1]


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "mobilenet_v2"])
def test_there_and_back_is_the_identity(name):
    shapes = template(name)[1]
    state = as_torch(shapes, 0)
    params = convert(state, shapes)
    assert jax.tree.structure(params) == jax.tree.structure(shapes)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
    back = convert(params, state)
    assert back.keys() == state.keys()
    for leaf, value in state.items():
        assert back[leaf].dtype == value.dtype
        np.testing.assert_array_equal(back[leaf], value)


def test_residual_block_computes_what_it_computes_in_the_other_layout():
    generator = np.random.default_rng(0)
    kernels = {"conv1": (4, 2, 3, 3), "block.0.conv1": (4, 4, 3, 3), "block.0.conv2": (4, 4, 3, 3)}
    norms = {layer: layer.replace("conv", "bn") for layer in kernels}
    state = torch_layout.random_state(generator, kernels, norms, bias=False, norm="batch")

    def norm(x, params):
        x = (x - params["mean"]) / jnp.sqrt(params["var"] + torch_layout.EPSILON)
        return x * params["scale"] + params["bias"]

    def layer(params, x, index):
        kernel = params[f"conv{index}"]["kernel"]
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)
        return norm(x, jax.tree.map(lambda leaf: leaf[None, None, None], params[f"bn{index}"]))

    def shapes(inputs, *indices):
        vectors = {name: jnp.zeros(4) for name in ("scale", "bias", "mean", "var")}
        return {
            kind.format(index): leaf
            for index in indices
            for kind, leaf in (
                ("conv{}", {"kernel": jnp.zeros((3, 3, inputs, 4))}),
                ("bn{}", vectors),
            )
        }

    model = shapes(2, 1) | {"block": [shapes(4, 1, 2)]}
    params = jax.tree.map(jnp.asarray, convert(state, model))
    images = generator.normal(size=(2, 5, 5, 2)).astype(np.float32)
    stem = layer(params, jnp.asarray(images), 1)
    got = stem + layer(params["block"][0], jax.nn.relu(layer(params["block"][0], stem, 1)), 2)

    wide = images.transpose(0, 3, 1, 2)
    x = torch_layout.normalise(state, "bn1", torch_layout.convolve(wide, state["conv1.weight"]))
    y = x
    for index in (1, 2):
        weight = state[f"block.0.conv{index}.weight"]
        y = torch_layout.convolve(y, weight)
        y = torch_layout.normalise(state, f"block.0.bn{index}", y)
        y = np.maximum(y, 0) if index == 1 else y
    np.testing.assert_allclose(got, (x + y).transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


def test_names_differ_by_words_collections_and_a_prefix_only(resnet):
    state = {name: v for name, v in as_torch(resnet, 0).items() if v.dtype == np.float32}
    wanted = convert(state, resnet)
    words = {"running_mean": "mean", "running_var": "var", "bias": "beta"}
    other: dict = {"params": {}, "batch_stats": {}}
    for name, value in state.items():
        *layers, last = name.split(".")
        last = words.get(last, last)
        last = "gamma" if last == "weight" and value.ndim == 1 else last
        at = other["batch_stats" if last in ("mean", "var") else "params"]
        for layer in layers:
            at = at.setdefault(layer, {})
        at[last] = value
    prefixed = {f"module.{name}": value for name, value in state.items()}
    for tree in (other, prefixed):
        jax.tree.map(np.testing.assert_array_equal, convert(tree, resnet), wanted)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_values_keep_their_dtype(resnet, dtype):
    state = {
        name: v.astype(jnp.dtype(dtype)) if v.dtype == np.float32 else v
        for name, v in as_torch(resnet, 0).items()
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(convert(state, resnet))} == {jnp.dtype(dtype)}


def test_counters_are_those_of_the_model(resnet):
    state = as_torch(resnet, 0)
    zeros = {name: np.zeros_like(value) for name, value in state.items()}
    zeros["bn1.num_batches_tracked"][0] = 3
    back = convert(convert(state, resnet), zeros)
    assert back["bn1.num_batches_tracked"].tolist() == [3]
    assert back["layer1.0.bn1.num_batches_tracked"].tolist() == [0]


def test_vectors_may_have_axes_of_one_entry_and_embeddings_stay_as_they_are():
    state = {
        "a.0.embed.weight": np.arange(12.0).reshape(4, 3),
        "a.0.conv.bias": np.arange(3.0).reshape(3, 1, 1),
        "a.0.scale": np.arange(6.0).reshape(2, 3),
    }
    model = {"a": [{"embed": {"embedding": np.zeros((4, 3))}, "conv": {"bias": np.zeros(3)},
                    "scale": np.zeros((2, 3))}]}  # fmt: skip
    (block,) = convert_by_names(state, model)["a"]
    np.testing.assert_array_equal(block["embed"]["embedding"], state["a.0.embed.weight"])
    np.testing.assert_array_equal(block["conv"]["bias"], np.arange(3.0))
    np.testing.assert_array_equal(block["scale"], state["a.0.scale"])
    jax.tree.map(np.testing.assert_array_equal, convert_by_names({"a": [block]}, state), state)


def without(state: dict, *ends: str) -> dict:
    return {name: leaf for name, leaf in state.items() if not name.endswith(ends)}


def renamed(state: dict, old: str, new: str) -> dict:
    return {name.replace(old, new): leaf for name, leaf in state.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda s: without(s, "layer2.1.conv1.weight"),
                     "nothing for the model's leaf 'layer2/1/conv1/kernel': is it", id="missing"),
        pytest.param(lambda s: without(s, "running_var"), "'bn1/var', .* and 16 more",
                     id="many-missing"),
        pytest.param(lambda s: s | {"extra.weight": np.ones((2, 2))},
                     "no place for the checkpoint's leaf 'extra.weight'", id="unknown"),
        pytest.param(lambda s: renamed(s, "layer3", "stage3"),
                     "nothing for .*'layer3/.*no place for .*'stage3", id="renamed"),
        pytest.param(lambda s: s | {"layer1.0.conv1.weight": np.ones((4, 5, 3, 3))},
                     r"'layer1.0.conv1.weight' of shape \(4, 5, 3, 3\) becomes \(3, 3, 5, 4\)",
                     id="shape"),
        pytest.param(lambda s: s | {"bn1.bias": np.ones(5)}, r"'bn1/bias' is \(4,\)",
                     id="vector"),
        pytest.param(lambda s: s | {"bn1.gamma": np.ones(4)}, "both are 'bn1/weight'",
                     id="two-of-one-name"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(resnet, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        convert(change(as_torch(resnet, 0)), resnet)
    assert "\n" not in str(caught.value)
    assert "symmetry=" not in str(caught.value)


def test_another_architecture_is_refused(resnet):
    mlp = template("mlp")[1]
    with pytest.raises(ValueError, match="nothing for the model's leaves 'dense/0/kernel'"):
        convert(as_torch(resnet, 0), mlp)
    with pytest.raises(ValueError, match="nothing for the model's leaves 'bn1/bias'"):
        convert(as_torch(mlp, 0), resnet)


def skip_block(head_inputs: int) -> dict:
    """Two convolutions of eight channels in a block with a skip, and a dense layer."""
    kernel = np.random.default_rng(0).normal(size=(8, 8, 3, 3))
    return {
        "block.0.conv1.weight": kernel,
        "block.0.conv2.weight": kernel,
        "head.weight": np.ones((3, head_inputs)),
    }


def flax_block(head_inputs: int) -> dict:
    kernel = {"kernel": np.ones((3, 3, 8, 8))}
    head = {"kernel": np.ones((head_inputs, 3))}
    return {"block": [{"conv1": kernel, "conv2": kernel}], "head": head}


def test_dense_kernel_behind_a_flatten_is_refused_in_the_other_layout():
    with pytest.raises(ValueError, match=r"'head.weight' has 32 inputs.*flattened image"):
        convert(skip_block(32), flax_block(32))
    with pytest.raises(ValueError, match=r"'head/kernel' has 32 inputs.*flattened image"):
        convert(flax_block(32), skip_block(32))
    assert convert(skip_block(8), flax_block(8))["head"]["kernel"].shape == (8, 3)
    # Within a layout the order is one.
    flat = {name.replace(".", "/"): leaf for name, leaf in skip_block(32).items()}
    moved = convert(skip_block(32), flat)
    np.testing.assert_array_equal(moved["head/weight"], flat["head/weight"])


def published(index: int) -> dict:
    return read(Path(str(CHECKPOINTS)) / f"resnet20_cifar10_{index}.safetensors")


needs_files = pytest.mark.skipif(
    not CHECKPOINTS, reason="needs the folder JAXFUSE_CHECKPOINTS, with resnet20_cifar10_{0,1}"
)


@needs_files
@pytest.mark.parametrize("index", [0, 1])
def test_published_network_goes_there_and_back(index):
    state = published(index)
    assert any(name.endswith("num_batches_tracked") for name in state) == bool(index)
    params = convert(state, template("resnet20", width=1.0, classes=10)[1])
    back = convert(params, state)
    for name, value in state.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)


@needs_files
def test_published_pair_verifies_and_aligns_without_changing_a_logit():
    apply_fn, shapes = template("resnet20", input_shape=(32, 32, 3), width=1.0, classes=10)
    first, second = (convert(published(index), shapes) for index in (0, 1))
    images = np.random.default_rng(0).normal(size=(16, 32, 32, 3)).astype(np.float32)
    if os.environ.get("TFDS_DATA_DIR"):
        data = load("cifar10", train_split="test[:16]", test_split="test[:16]")
        images = data.test()[0][:16]
    symmetry = infer_symmetry(apply_fn, shapes, images[:2])
    proof = verify(symmetry, apply_fn, first, images[:2], key=jax.random.key(0))
    assert proof.holds
    assert proof.complete
    alignment = align_params(first, second, symmetry=symmetry)
    moved = sum(
        int((order != np.arange(len(order))).sum())
        for order in jax.tree.map(np.asarray, alignment.permutations).values()
    )
    assert moved > 100
    run = jax.jit(apply_fn)
    difference = np.abs(run(alignment.params, images) - run(second, images)).max()
    assert difference < 1e-4
