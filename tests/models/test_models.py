"""Reference models: shapes, parameter paths, numbers of weights, normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse.models import (
    MLP,
    MODEL_NAMES,
    VGG11,
    VGG11_WIDTHS,
    LeNet,
    create,
    functional,
)
from jaxfuse.models.layers import normalisation, scale_width
from tests.oracles import classifier

SHAPES = [(8, 8, 1), (28, 28, 1), (32, 32, 3)]
CHAINS = ("mlp", "lenet", "vgg11", "vgg16")
OTHERS = tuple(name for name in MODEL_NAMES if name not in CHAINS)
# A module of a few units, and none of its weights drawn.
SMALL = {"classes": 7, "width": 0.1, "key": jax.random.key(0)}


def paths(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    leaves = traverse_util.flatten_dict(functional(module)[1], sep="/")
    return {path: leaf.shape for path, leaf in leaves.items()}


def weights(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def small(name: str, shape: tuple[int, int, int], **options) -> nnx.Module:
    return nnx.eval_shape(lambda: create(name, input_shape=shape, **(SMALL | options)))


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", [None, "batch", "layer", "group"])
def test_logits_have_the_shape_of_the_classes(name, shape, norm, key):
    def logits(key):
        module = create(name, input_shape=shape, classes=7, width=0.5, norm=norm, key=key)
        apply_fn, params = functional(module)
        return apply_fn(params, jnp.zeros((3, *shape)))

    assert jax.eval_shape(logits, key) == jax.ShapeDtypeStruct((3, 7), jnp.float32)


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_papers_take_small_images(name):
    apply_fn, params = functional(small(name, (8, 8, 1)))
    logits = jax.eval_shape(apply_fn, params, jax.ShapeDtypeStruct((3, 8, 8, 1), jnp.float32))
    assert logits.shape == (3, 7)


@pytest.mark.parametrize(
    ("name", "shape", "leaf", "wanted"),
    [
        ("resnet18", (64, 64, 3), "conv1/kernel", (3, 3, 3, 6)),
        ("resnet18", (65, 40, 3), "conv1/kernel", (7, 7, 3, 6)),
        ("convnext_tiny", (31, 31, 1), "stem/kernel", (1, 1, 1, 10)),
        ("convnext_tiny", (48, 48, 3), "stem/kernel", (2, 2, 3, 10)),
        ("convnext_tiny", (224, 224, 3), "stem/kernel", (4, 4, 3, 10)),
    ],
)
def test_first_layer_suits_the_size_of_the_images(name, shape, leaf, wanted):
    assert paths(small(name, shape))[leaf] == wanted


@pytest.mark.parametrize(("side", "stride"), [(64, 1), (96, 2)])
def test_mobilenet_keeps_the_size_of_small_images(side, stride):
    assert small("mobilenet_v2", (side, side, 3)).stem.strides == stride


@pytest.mark.parametrize(
    ("norm", "leaves"), [(None, {"scale", "bias", "mean", "var"}), ("group", {"scale", "bias"})]
)
def test_residual_network_has_the_norm_of_its_paper_or_another(norm, leaves):
    shapes = paths(small("resnet20", (8, 8, 3), norm=norm))
    assert {path.rsplit("/")[-1] for path in shapes if path.startswith("bn1/")} == leaves


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20", {"bias": True}, "resnet20 has the biases of its paper"),
        ("mobilenet_v2", {"norm": "layer"}, "mobilenet_v2 has batch normalisation, and no 'layer'"),
        ("convnext_tiny", {"norm": "batch"}, "has layer normalisation, and no 'batch'"),
        ("resnet18", {"norm": "spectral"}, "norm must be"),
        ("convnext_tiny", {"bias": True}, "convnext_tiny has the biases"),
        ("resnet20", {"width": "half"}, "give resnet20 a number"),
    ],
)
def test_options_that_a_model_does_not_have_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        small(name, (32, 32, 3), **options)


def test_own_norm_may_be_named():
    named, own = (paths(small("convnext_tiny", (8, 8, 1), norm=norm)) for norm in ("layer", None))
    assert named == own


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("norm", [None, "group"])
def test_logits_are_finite(name, norm, key):
    module = create(
        name, input_shape=(8, 8, 1), classes=7, width=0.02, bias=True, norm=norm, key=key
    )
    apply_fn, params = functional(module)
    logits = jax.jit(apply_fn)(params, jax.random.normal(key, (3, 8, 8, 1)))
    assert jnp.isfinite(logits).all()
    assert logits.std() > 0


def test_mlp_paths_and_widths(key):
    assert paths(MLP(784, 10, rngs=nnx.Rngs(key))) == {
        "dense/0/kernel": (784, 400),
        "dense/1/kernel": (400, 200),
        "dense/2/kernel": (200, 100),
        "dense/3/kernel": (100, 10),
    }


def test_lenet_has_the_published_number_of_weights(key):
    shapes = paths(LeNet((32, 32, 3), 10, rngs=nnx.Rngs(key)))
    assert shapes == {
        "conv/0/kernel": (5, 5, 3, 6),
        "conv/1/kernel": (5, 5, 6, 16),
        "dense/0/kernel": (400, 120),
        "dense/1/kernel": (120, 84),
        "dense/2/kernel": (84, 10),
    }
    assert weights(shapes) == 61_770


@pytest.mark.parametrize(
    ("shape", "flat"),
    [((8, 8, 1), 64), ((15, 20, 1), 240), ((16, 16, 1), 16), ((28, 28, 1), 256), ((4, 4, 1), 16)],
)
def test_lenet_flattens_to_the_documented_size(shape, flat, key):
    module = LeNet(shape, 10, rngs=nnx.Rngs(key))
    assert module.dense[0].kernel.shape == (flat, 120)
    assert module(jnp.zeros((1, *shape))).shape == (1, 10)


def test_lenet_refuses_tiny_images(key):
    with pytest.raises(ValueError, match="4x4 pixels or more"):
        LeNet((3, 8, 1), 10, rngs=nnx.Rngs(key))


def test_vgg11_has_the_published_number_of_weights(key):
    module = nnx.eval_shape(lambda: VGG11(3, 10, rngs=nnx.Rngs(key)))
    shapes = paths(module)
    assert len(shapes) == 9
    assert weights(shapes) == 9_222_848


def test_vgg11_variants_share_the_outer_widths(key):
    for name, widths in VGG11_WIDTHS.items():
        module = nnx.eval_shape(lambda name=name: VGG11(3, 10, widths=name, rngs=nnx.Rngs(key)))
        shapes = paths(module)
        assert tuple(shapes[f"conv/{i}/kernel"][-1] for i in range(8)) == widths
        assert (widths[0], widths[-1]) == (64, 512)


@pytest.mark.parametrize("widths", ["tenfold", (64, 128)])
def test_vgg11_refuses_unknown_widths(widths, key):
    with pytest.raises(ValueError, match="widths"):
        VGG11(3, 10, widths=widths, rngs=nnx.Rngs(key))


@pytest.mark.parametrize("name", ["half", "double", "quad"])
def test_vgg11_is_created_in_the_widths_of_gamf(name, key):
    module = nnx.eval_shape(
        lambda: create("vgg11", input_shape=(32, 32, 3), classes=10, width=name, key=key)
    )
    shapes = paths(module)
    assert tuple(shapes[f"conv/{i}/kernel"][-1] for i in range(8)) == VGG11_WIDTHS[name]


@pytest.mark.parametrize(
    ("model", "width", "message"),
    [
        ("mlp", "half", "'half' is a variant of vgg11: give mlp a number"),
        ("lenet", "quad", "'quad' is a variant of vgg11: give lenet a number"),
        ("vgg11", "tenfold", "unknown widths 'tenfold'"),
    ],
)
def test_names_of_widths_are_of_vgg11_only(model, width, message, key):
    with pytest.raises(ValueError, match=message):
        create(model, input_shape=(8, 8, 1), classes=2, width=width, key=key)


def test_norms_have_the_number_of_their_layer(key):
    module = create("lenet", input_shape=(8, 8, 1), classes=10, width=0.5, norm="batch", key=key)
    shapes = paths(module)
    for room, features in (("conv", (3, 8)), ("dense", (60, 42))):
        for index, width in enumerate(features):
            for leaf in ("scale", "bias", "mean", "var"):
                assert shapes[f"{room}_norm/{index}/{leaf}"] == (width,)


@pytest.mark.parametrize(("features", "groups"), [(512, 32), (64, 8), (100, 10), (6, 1), (1, 1)])
def test_group_norm_keeps_groups_wide(features, groups, key):
    layer = normalisation("group", features, rngs=nnx.Rngs(key))
    assert layer.num_groups == groups


def test_unknown_norm_is_refused(key):
    with pytest.raises(ValueError, match="norm must be"):
        create("mlp", input_shape=(2, 2, 1), classes=2, norm="spectral", key=key)


def test_unknown_model_lists_the_names(key):
    with pytest.raises(ValueError, match="mlp, lenet, vgg11"):
        create("perceptron", input_shape=(2, 2, 1), classes=2, key=key)


def test_flat_input_shape_is_refused(key):
    with pytest.raises(ValueError, match="input_shape"):
        create("mlp", input_shape=(784,), classes=2, key=key)


def test_same_key_gives_the_same_weights(key):
    first, again = (
        functional(create("mlp", input_shape=(2, 2, 1), classes=3, width=0.01, key=key))[1]
        for _ in range(2)
    )
    other = functional(
        create("mlp", input_shape=(2, 2, 1), classes=3, width=0.01, key=jax.random.key(1))
    )[1]
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first["dense"]["0"]["kernel"], other["dense"]["0"]["kernel"])


@settings(deadline=None, max_examples=15)
@given(
    hidden=st.lists(st.integers(1, 6), max_size=3),
    bias=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_mlp_agrees_with_numpy(hidden, bias, seed):
    module = MLP(5, 3, hidden=hidden, bias=bias, rngs=nnx.Rngs(seed))
    apply_fn, params = functional(module)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    x = np.random.default_rng(seed).normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_allclose(
        apply_fn(params, x), classifier.mlp(params["dense"], x), rtol=1e-4, atol=1e-4
    )


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 1000), st.floats(0.001, 4))
def test_scaled_width_is_at_least_one_and_near(features, width):
    scaled = scale_width(features, width)
    assert scaled >= 1
    assert abs(scaled - features * width) <= 1


@pytest.mark.parametrize("width", [0, -1.0, float("nan")])
def test_width_must_be_positive(width):
    with pytest.raises(ValueError, match="positive"):
        scale_width(10, width)
