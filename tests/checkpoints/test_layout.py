"""Checkpoints in PyTorch's layout compute the same function in a jaxfuse model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse.checkpoints import convert, describe
from jaxfuse.models import create, functional
from tests.oracles import torch_layout

CLASSES = 4


class Case(NamedTuple):
    """A model, and how a PyTorch program would write the same."""

    model: str
    width: float
    image: tuple[int, int, int]
    kernels: dict[str, tuple[int, ...]]
    norms: dict[str, str]
    pool_after: tuple[int, ...] = ()
    mean: bool = False

    def state(self, seed: int, bias: bool, norm: str | None) -> torch_layout.State:
        generator = np.random.default_rng(seed)
        return torch_layout.random_state(generator, self.kernels, self.norms, bias=bias, norm=norm)

    def template(self, bias: bool, norm: str | None):
        """Its function and the shapes of its parameters; weights would take seconds to draw."""

        def module():
            return create(
                self.model,
                input_shape=self.image,
                classes=CLASSES,
                width=self.width,
                bias=bias,
                norm=norm,
                key=jax.random.key(1),
            )

        return functional(nnx.eval_shape(module))


# Colour images: their flatten has another order in the two layouts, here at the very input.
MLP = Case(
    "mlp",
    0.05,
    (2, 3, 3),
    {"fc1": (20, 18), "fc2": (10, 20), "fc3": (5, 10), "fc4": (CLASSES, 5)},
    {"fc1": "norm1", "fc2": "norm2", "fc3": "norm3"},
)
# 8x12 pixels flatten to 2x3 positions: channels, rows and columns all have another number.
LENET = Case(
    "lenet",
    0.5,
    (8, 12, 1),
    {
        "conv1": (3, 1, 5, 5),
        "conv2": (8, 3, 5, 5),
        "fc1": (60, 2 * 3 * 8),
        "fc2": (42, 60),
        "fc3": (CLASSES, 42),
    },
    {"conv1": "bn1", "conv2": "bn2", "fc1": "bn3", "fc2": "bn4"},
    pool_after=(0, 1),
)
# The names of torchvision's vgg11 without and with batch normalisation.
_CHANNELS = (3, 2, 4, 8, 8, 15, 15, 15, 15)
_PLACES = (0, 4, 8, 11, 15, 18, 22, 25)
VGG11 = Case(
    "vgg11",
    0.03,
    (8, 8, 3),
    {
        f"features.{place}": (outputs, inputs, 3, 3)
        for place, inputs, outputs in zip(_PLACES, _CHANNELS, _CHANNELS[1:], strict=False)
    }
    | {"classifier": (CLASSES, 15)},
    {f"features.{place}": f"features.{place + 1}" for place in _PLACES},
    pool_after=(0, 1, 3, 5, 7),
    mean=True,
)
VARIANTS = [
    (MLP, False, None),
    (MLP, True, "batch"),
    (MLP, True, "layer"),
    (LENET, True, None),
    (LENET, False, "batch"),
    (LENET, True, "layer"),
    (VGG11, False, None),
    (VGG11, True, "batch"),
]
IDS = [f"{case.model}-{'bias' if bias else 'plain'}-{norm}" for case, bias, norm in VARIANTS]


@pytest.fixture(params=VARIANTS, ids=IDS, scope="module")
def variant(request):
    case, bias, norm = request.param
    return case, bias, norm, case.state(0, bias, norm), *case.template(bias, norm)


def test_converted_network_computes_the_same_function(variant):
    case, _, _, state, apply_fn, template = variant
    params = convert(state, template, channels=case.image[-1])
    assert jax.tree.structure(params) == jax.tree.structure(template)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, template)
    images = np.random.default_rng(1).normal(size=(5, *case.image)).astype(np.float32)
    wanted = torch_layout.forward(
        state,
        images.transpose(0, 3, 1, 2),
        tuple(case.kernels),
        case.norms,
        pool_after=case.pool_after,
        mean=case.mean,
    )
    assert wanted.std(axis=0).max() > 1e-3
    got = jax.jit(apply_fn)(params, images)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_there_and_back_is_the_identity(variant):
    case, _, _, state, _, template = variant
    channels = case.image[-1]
    params = convert(state, template, channels=channels)
    back = convert(params, state, channels=channels)
    jax.tree.map(np.testing.assert_array_equal, back, state)
    jax.tree.map(np.testing.assert_array_equal, params, convert(back, template, channels=channels))


def test_description_has_what_a_model_needs(variant):
    _, bias, norm, state, _, template = variant
    theirs, ours = describe(state), describe(template)
    assert not theirs.input_major
    assert ours.input_major
    assert (theirs.bias, theirs.norm) == (ours.bias, ours.norm) == (bias, norm)
    kernels = [leaf for name, leaf in state.items() if name.endswith("weight") and leaf.ndim > 1]
    assert theirs.widths == ours.widths == tuple(len(kernel) for kernel in kernels)


@settings(deadline=None, max_examples=15)
@given(
    widths=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    bias=st.booleans(),
    norm=st.sampled_from([None, "batch", "layer"]),
    seed=st.integers(0, 100),
)
def test_any_dense_chain_goes_there_and_back(widths, bias, norm, seed):
    names = [f"fc{index}" for index in range(1, len(widths))]
    shapes = zip(widths[1:], widths, strict=False)
    kernels = dict(zip(names, shapes, strict=True))
    norms = {name: f"norm{name[2:]}" for name in names[:-1]}
    state = torch_layout.random_state(
        np.random.default_rng(seed), kernels, norms, bias=bias, norm=norm
    )
    renamed = {"bias": "bias", "running_mean": "mean", "running_var": "var"}
    flax: dict = {}
    for name, value in state.items():
        layer, leaf = name.split(".")
        if leaf == "num_batches_tracked":
            continue
        own = "kernel" if value.ndim == 2 else "scale"
        flax.setdefault(layer, {})[renamed.get(leaf, own)] = np.zeros(value.shape[::-1])
    params = convert(state, flax)
    for name in names:
        np.testing.assert_array_equal(params[name]["kernel"], state[f"{name}.weight"].T)
    jax.tree.map(np.testing.assert_array_equal, convert(params, state), state)


def test_values_keep_their_dtype_and_leaves_without_a_layer_stay():
    state = MLP.state(0, bias=False, norm="batch")
    _, template = MLP.template(bias=False, norm="batch")
    halves = {
        name: leaf.astype(jnp.bfloat16) if leaf.ndim else leaf for name, leaf in state.items()
    }
    params = convert(halves, template)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    counters = {
        name: np.array(3) if name.endswith("tracked") else 0 * leaf for name, leaf in state.items()
    }
    back = convert(params, counters)
    assert back["norm1.num_batches_tracked"] == 3
    np.testing.assert_array_equal(back["fc1.weight"], halves["fc1.weight"])


def test_arrays_serve_as_the_model_too():
    state = MLP.state(0, bias=True, norm=None)
    _, shapes = MLP.template(bias=True, norm=None)
    arrays = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    jax.tree.map(np.testing.assert_array_equal, convert(state, arrays), convert(state, shapes))


def without(state: dict, *ends: str) -> dict:
    return {name: leaf for name, leaf in state.items() if not name.endswith(ends)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "fc2.weight", "fc2.bias"), "could not be placed"),
        (lambda s: without(s, "fc4.weight", "fc4.bias", "n3.bias"), "3 layers and the model 4"),
        (lambda s: without(s, "fc4.bias"), "nothing for the model's leaf 'dense/3/bias'"),
        (lambda s: s | {"norm3.weight": np.ones(5)}, "no place for .* 'norm3.weight'"),
        (lambda s: {n: np.repeat(v, 2, axis=0) if n.startswith("fc4") else v
                    for n, v in s.items()}, r"'fc4.weight' of shape \(8, 5\) becomes \(5, 8\)"),
        (lambda s: without(s, "weight"), "only vectors"),
        (lambda s: {}, "no arrays"),
    ],
)  # fmt: skip
def test_other_networks_are_refused(change, message):
    _, template = MLP.template(bias=True, norm=None)
    with pytest.raises(ValueError, match=message):
        convert(change(MLP.state(0, bias=True, norm=None)), template)


def test_other_architectures_are_refused():
    _, mlp = MLP.template(bias=False, norm=None)
    _, vgg = VGG11.template(bias=False, norm=None)
    with pytest.raises(ValueError, match=r"5 layers and the model 4.*another architecture"):
        convert(LENET.state(0, bias=False, norm=None), mlp)
    with pytest.raises(ValueError, match=r"5 layers and the model 9.*another architecture"):
        convert(LENET.state(0, bias=False, norm=None), vgg)
    with pytest.raises(ValueError, match=r"18 inputs.*no flattened images of 4 channels"):
        convert(MLP.state(0, bias=False, norm=None), mlp, channels=4)


def test_residual_network_is_not_described():
    block = {f"layer1.0.conv{index}.weight": np.ones((4, 4, 3, 3)) for index in (1, 2)}
    with pytest.raises(ValueError, match="skip connection"):
        describe({"conv1.weight": np.ones((4, 3, 3, 3)), **block, "fc.weight": np.ones((2, 4))})
