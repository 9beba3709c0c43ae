"""Convolutional models: published sizes, functions against NumPy, refusals, the examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from jaxfuse.models.autoencoder import Autoencoder
from jaxfuse.models.convnext import ConvNeXt, ConvNeXtBlock
from jaxfuse.models.densenet import DenseLayer, DenseNet, Transition
from jaxfuse.models.functional import functional, training_function
from jaxfuse.models.layers import conv, he_normal, normalisation
from jaxfuse.models.mobilenet import InvertedResidual, MobileNetV2
from jaxfuse.models.resnet import BasicBlock, Bottleneck, ResNet, stem_conv, stem_pool
from jaxfuse.models.resnet_cifar import CifarResNet, pad_shortcut
from jaxfuse.models.siamese import Siamese
from jaxfuse.models.unet import UNet, Upsample
from jaxfuse.models.vgg import VGG16
from jaxfuse.models.vision import VISION

# Weights and outputs of the published sizes. Torchvision's, where it has the network; He et al.
# (2016) round 269,722 to 0.27 M. The VGGs have one dense layer on top of the published
# convolutions, 14,714,688 weights with biases in VGG16.
PUBLISHED = {
    "vgg11": (9_222_848, (2, 10)),
    "vgg16": (14_714_688 + 5_130, (2, 10)),
    "resnet20_pad": (269_722, (2, 10)),
    "resnet20_conv": (272_474, (2, 10)),
    "resnet32_pad": (464_154, (2, 10)),
    "resnet56_pad": (853_018, (2, 10)),
    "resnet18": (11_689_512, (2, 1000)),
    "resnet18_group_norm": (11_689_512, (2, 1000)),
    "resnet50": (25_557_032, (2, 1000)),
    "densenet": (7_978_856, (2, 1000)),
    "mobilenet_v2": (3_504_872, (2, 1000)),
    "convnext": (28_589_128, (2, 1000)),
    "unet": (31_030_658, (2, 512, 512, 2)),
    "siamese": (38_951_745, (2,)),
}
BATCH_EPSILON, LAYER_EPSILON = 1e-5, 1e-6


def convolve(x, kernel, *, stride=1, padding=0):
    """Correlation of `[n, h, w, c]` with `[k, k, c, o]`, or `[k, k, 1, c]` for each channel."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    side = kernel.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(x, side, axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    if kernel.shape[2] == 1:
        return np.einsum("nhwcij,ijc->nhwc", windows, kernel[:, :, 0])
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


def batch_norm(norm, x):
    return (x - norm["mean"]) / np.sqrt(norm["var"] + BATCH_EPSILON) * norm["scale"] + norm["bias"]


def relu(x, most=np.inf):
    return np.clip(x, 0, most)


def project(layers, x, stride):
    return batch_norm(layers["1"], convolve(x, layers["0"]["kernel"], stride=stride))


def pad(x, channels, stride):
    extra = channels - x.shape[-1]
    n, h, w, c = x[:, ::stride, ::stride].shape
    padded = np.zeros((n, h, w, channels))
    padded[..., extra // 2 : extra // 2 + c] = x[:, ::stride, ::stride]
    return padded


def basic(p, x, stride, shortcut):
    y = relu(batch_norm(p["bn1"], convolve(x, p["conv1"]["kernel"], stride=stride, padding=1)))
    y = batch_norm(p["bn2"], convolve(y, p["conv2"]["kernel"], padding=1))
    if shortcut in p:
        x = project(p[shortcut], x, stride)
    elif x.shape != y.shape:
        x = pad(x, y.shape[-1], stride)
    return relu(x + y)


def bottleneck(p, x, stride):
    y = relu(batch_norm(p["bn1"], convolve(x, p["conv1"]["kernel"])))
    y = relu(batch_norm(p["bn2"], convolve(y, p["conv2"]["kernel"], stride=stride, padding=1)))
    y = batch_norm(p["bn3"], convolve(y, p["conv3"]["kernel"]))
    return relu(y + (project(p["downsample"], x, stride) if "downsample" in p else x))


def cifar_resnet(p, x):
    x = relu(batch_norm(p["bn1"], convolve(x, p["conv1"]["kernel"], padding=1)))
    for stage in (1, 2, 3):
        for index, block in p[f"layer{stage}"].items():
            x = basic(block, x, 2 if stage > 1 and index == "0" else 1, "shortcut")
    return x.mean(axis=(1, 2)) @ p["linear"]["kernel"] + p["linear"]["bias"]


def inverted_residual(p, x, stride):
    y = x
    if "expand" in p:
        y = relu(batch_norm(p["expand_norm"], convolve(y, p["expand"]["kernel"])), 6)
    y = convolve(y, p["depthwise"]["kernel"], stride=stride, padding=1)
    y = relu(batch_norm(p["depthwise_norm"], y), 6)
    y = batch_norm(p["project_norm"], convolve(y, p["project"]["kernel"]))
    return x + y if x.shape == y.shape else y


def convnext_block(p, x):
    y = convolve(x, p["depthwise"]["kernel"], padding=3) + p["depthwise"]["bias"]
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + LAYER_EPSILON)
    y = (y * p["norm"]["scale"] + p["norm"]["bias"]) @ p["up"]["kernel"] + p["up"]["bias"]
    y = y * (1 + special.erf(y / np.sqrt(2))) / 2
    return x + p["layer_scale"] * (y @ p["down"]["kernel"] + p["down"]["bias"])


def dense_layer(p, x):
    y = convolve(relu(batch_norm(p["norm1"], x)), p["conv1"]["kernel"])
    y = convolve(relu(batch_norm(p["norm2"], y)), p["conv2"]["kernel"], padding=1)
    return np.concatenate([x, y], axis=-1)


def transition(p, x):
    y = convolve(relu(batch_norm(p["norm"], x)), p["conv"]["kernel"])
    return (y[:, ::2, ::2] + y[:, 1::2, ::2] + y[:, ::2, 1::2] + y[:, 1::2, 1::2]) / 4


R = nnx.Rngs(0)
# Modules, and what computes their outputs from parameters and images in float64.
DOUBLES = {
    "basic_same": (lambda: BasicBlock(4, 4, rngs=R), lambda p, x: basic(p, x, 1, "downsample")),
    "basic_stride": (
        lambda: BasicBlock(4, 6, stride=2, rngs=R),
        lambda p, x: basic(p, x, 2, "downsample"),
    ),
    "bottleneck_same": (lambda: Bottleneck(4, 1, rngs=R), lambda p, x: bottleneck(p, x, 1)),
    "bottleneck_stride": (
        lambda: Bottleneck(4, 2, stride=2, rngs=R),
        lambda p, x: bottleneck(p, x, 2),
    ),
    "cifar_resnet_pad": (lambda: CifarResNet(4, 3, depth=14, width=0.25, rngs=R), cifar_resnet),
    "cifar_resnet_conv": (
        lambda: CifarResNet(4, 3, depth=8, shortcut="conv", width=0.25, rngs=R),
        cifar_resnet,
    ),
    "inverted_residual_same": (
        lambda: InvertedResidual(4, 4, expansion=3, rngs=R),
        lambda p, x: inverted_residual(p, x, 1),
    ),
    "inverted_residual_stride": (
        lambda: InvertedResidual(4, 4, expansion=3, stride=2, rngs=R),
        lambda p, x: inverted_residual(p, x, 2),
    ),
    "inverted_residual_narrow": (
        lambda: InvertedResidual(4, 6, expansion=1, rngs=R),
        lambda p, x: inverted_residual(p, x, 1),
    ),
    "convnext_block": (lambda: ConvNeXtBlock(4, rngs=R), convnext_block),
    "dense_layer": (lambda: DenseLayer(4, growth=2, bottleneck=6, rngs=R), dense_layer),
    "transition": (lambda: Transition(4, 3, rngs=R), transition),
    "stem_imagenet": (
        lambda: stem_conv("imagenet", 4, 3, rngs=R),
        lambda p, x: convolve(x, p["kernel"], stride=2, padding=3),
    ),
    "stem_cifar": (
        lambda: stem_conv("cifar", 4, 3, rngs=R),
        lambda p, x: convolve(x, p["kernel"], padding=1),
    ),
}


def drawn(params):
    """Replace every leaf, so that scales, biases and statistics differ from unit to unit."""
    generator = np.random.default_rng(0)
    leaves = traverse_util.flatten_dict(params)
    values = {
        path: generator.uniform(0.3, 2.0, leaf.shape)
        if path[-1] in ("var", "scale")
        else generator.normal(0, 0.6, leaf.shape)
        for path, leaf in leaves.items()
    }
    return traverse_util.unflatten_dict(values)


@pytest.mark.parametrize("name", DOUBLES)
def test_function_agrees_with_numpy(name):
    build, double = DOUBLES[name]
    apply_fn, params = functional(build())
    params = drawn(params)
    x = np.random.default_rng(1).normal(0, 3, (2, 6, 6, 4))
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    got = jax.jit(apply_fn)(narrow, jnp.asarray(x, jnp.float32))
    wanted = double(params, x)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@settings(deadline=None, max_examples=20)
@given(
    channels=st.integers(1, 5),
    extra=st.integers(0, 5),
    stride=st.integers(1, 3),
    side=st.integers(1, 6),
)
def test_pad_shortcut_agrees_with_numpy(channels, extra, stride, side):
    x = np.arange(1, 1 + 2 * side * side * channels, dtype=np.float32)
    x = x.reshape(2, side, side, channels)
    got = pad_shortcut(jnp.asarray(x), channels + extra, stride=stride)
    np.testing.assert_array_equal(got, pad(x, channels + extra, stride))


@pytest.mark.parametrize("side", [4, 5])
def test_stem_pool_takes_the_largest_of_nine(side):
    x = np.random.default_rng(0).normal(size=(1, side, side, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    np.testing.assert_array_equal(stem_pool(x), windows[:, ::2, ::2].max(axis=(-1, -2)))


@pytest.mark.parametrize("kind", ["conv", "resize"])
def test_upsampling_keeps_pixels_in_place(kind, key):
    layer = Upsample(1, 1, kind=kind, rngs=nnx.Rngs(key))
    layer.conv.kernel[...] = jnp.ones_like(layer.conv.kernel[...])
    doubled = layer(jnp.zeros((1, 6, 6, 1)).at[0, 2, 3].set(1.0))[0, :, :, 0]
    assert doubled.shape == (12, 12)
    reach = 2 if kind == "resize" else 0
    rows, columns = (np.flatnonzero(doubled.sum(axis=axis)) for axis in (1, 0))
    assert (rows[0], rows[-1]) == (4 - reach, 5 + reach)
    assert (columns[0], columns[-1]) == (6 - reach, 7 + reach)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name, key):
    example = VISION[name]
    module = nnx.eval_shape(lambda: example.published(nnx.Rngs(key)))
    apply_fn, params = functional(module)
    weights, _ = training_function(module).split(params)
    count, shape = PUBLISHED[name]
    assert sum(leaf.size for leaf in jax.tree.leaves(weights)) == count
    inputs = jax.eval_shape(example.published_inputs, key)
    assert jax.eval_shape(apply_fn, params, *inputs).shape == shape


def test_cifar_resnet_has_the_names_of_the_published_networks(key):
    module = nnx.eval_shape(lambda: CifarResNet(3, 10, rngs=nnx.Rngs(key)))
    norms = ["scale", "bias", "mean", "var"]
    paths = {"conv1/kernel", "linear/kernel", "linear/bias", *(f"bn1/{leaf}" for leaf in norms)}
    for block in (f"layer{stage}/{index}" for stage in (1, 2, 3) for index in range(3)):
        paths |= {f"{block}/conv{n}/kernel" for n in (1, 2)}
        paths |= {f"{block}/bn{n}/{leaf}" for n in (1, 2) for leaf in norms}
    assert set(traverse_util.flatten_dict(functional(module)[1], sep="/")) == paths


def test_projections_are_where_the_shape_changes(key):
    module = nnx.eval_shape(lambda: ResNet(3, 10, depth=50, rngs=nnx.Rngs(key)))
    paths = traverse_util.flatten_dict(functional(module)[1], sep="/")
    found = {path.split("/downsample")[0] for path in paths if "downsample/0" in path}
    assert found == {"layer1/0", "layer2/0", "layer3/0", "layer4/0"}
    assert paths["layer2/0/downsample/0/kernel"].shape == (1, 1, 256, 512)


def test_groups_of_a_residual_network_reach_every_norm(key):
    module = VISION["resnet50_group_norm"].build(nnx.Rngs(key))
    norms = [node for _, node in nnx.iter_graph(module) if isinstance(node, nnx.GroupNorm)]
    assert len(norms) == 1 + 6 * 3 + 4
    assert all(norm.num_groups == 4 and norm.scale.shape[0] >= 8 for norm in norms)


def test_he_normal_is_that_of_flax(key):
    # More weights than the shortest draw has; the example of the docstring has fewer.
    wanted = nnx.initializers.he_normal()(key, (70, 90), jnp.float32)
    np.testing.assert_array_equal(he_normal(key, (70, 90)), wanted)


def test_explicit_padding_differs_from_same_under_a_stride(key):
    x = jax.random.normal(key, (1, 4, 4, 2))
    explicit, same = (
        conv(2, 2, 3, stride=2, padding=padding, bias=False, rngs=nnx.Rngs(key))
        for padding in (1, "SAME")
    )
    assert explicit(x).shape == same(x).shape == (1, 2, 2, 2)
    assert not np.allclose(explicit(x), same(x))


def test_siamese_scores_are_symmetric(key):
    example = VISION["siamese"]
    apply_fn, params = functional(example.build(nnx.Rngs(key)))
    x, y = example.inputs(key)
    score = jax.jit(apply_fn)
    np.testing.assert_array_equal(score(params, x, y), score(params, y, x))
    np.testing.assert_array_equal(score(params, x, x), [params["head"]["bias"][0]] * 2)
    assert np.abs(score(params, x, y)).min() > 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: CifarResNet(3, 10, depth=18, rngs=R), "6 n", id="cifar_depth"),
        pytest.param(lambda: CifarResNet(3, 10, depth=2, rngs=R), "6 n", id="cifar_no_block"),
        pytest.param(
            lambda: CifarResNet(3, 10, shortcut="none", rngs=R), "'pad' or 'conv'", id="shortcut"
        ),
        pytest.param(
            lambda: CifarResNet(3, 10, norm=None, rngs=R), "norm must be .* None", id="no_norm"
        ),
        pytest.param(lambda: ResNet(3, 10, depth=20, rngs=R), "18, 34, 50", id="resnet_depth"),
        pytest.param(lambda: ResNet(3, 10, blocks=(1, 1), rngs=R), "four stages", id="stages"),
        pytest.param(lambda: ResNet(3, 10, stem="small", rngs=R), "'cifar'", id="stem"),
        pytest.param(
            lambda: normalisation("group", 12, groups=5, rngs=R), "5 groups of 12", id="groups"
        ),
        pytest.param(lambda: VGG16(3, 10, widths=(4,) * 8, rngs=R), "thirteen", id="vgg16_widths"),
        pytest.param(
            lambda: DenseNet(3, 10, blocks=(1,), compression=0, rngs=R), "compression", id="keep"
        ),
        pytest.param(
            lambda: MobileNetV2(3, 10, stages=((6, 8, 0, 1),), rngs=R), "one or more", id="rows"
        ),
        pytest.param(
            lambda: ConvNeXt(3, 10, blocks=(1, 1), channels=(4,), rngs=R), "one a stage", id="convs"
        ),
        pytest.param(
            lambda: VISION["convnext"].build(R)(jnp.ones((1, 3, 9, 3))), "4x4 pixels", id="tiny"
        ),
        pytest.param(lambda: UNet(3, 2, levels=0, rngs=R), "one level", id="levels"),
        pytest.param(lambda: UNet(3, 2, upsample="nearest", rngs=R), "'resize'", id="upsample"),
        pytest.param(
            lambda: VISION["unet"].build(R)(jnp.ones((1, 8, 6, 3))), "multiples of 4", id="odd"
        ),
        pytest.param(lambda: Autoencoder((28, 28, 1), rngs=R), "multiples of 8", id="halves"),
        pytest.param(
            lambda: Autoencoder((8, 8, 1), channels=(), rngs=R), "one convolution", id="no_convs"
        ),
        pytest.param(lambda: Siamese((28, 28, 1), rngs=R), "shrink to nothing", id="windows"),
        pytest.param(lambda: Siamese(kernels=(3,), rngs=R), "as many windows", id="kernels"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", VISION)
def test_example_is_small_and_depends_on_its_key_only(name, key):
    example = VISION[name]
    module = example.build(nnx.Rngs(key))
    training_function(module)  # refuses modules that hold random state
    apply_fn, params = functional(module)
    assert all(leaf.shape[-1] <= 32 for leaf in jax.tree.leaves(params))
    again = functional(example.build(nnx.Rngs(key)))[1]
    jax.tree.map(np.testing.assert_array_equal, params, again)
    other = jax.tree.leaves(functional(example.build(nnx.Rngs(jax.random.key(1))))[1])
    pairs = zip(jax.tree.leaves(params), other, strict=True)
    assert not all(np.array_equal(a, b) for a, b in pairs)
    inputs = example.inputs(key)
    jax.tree.map(np.testing.assert_array_equal, inputs, example.inputs(key))
    outputs = jax.jit(apply_fn)(params, *inputs)
    assert len(outputs) == len(inputs[0]) == 2
    assert jnp.isfinite(outputs).all()
    assert outputs.std() > 0
