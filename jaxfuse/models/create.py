"""Reference classifiers by name."""

import functools
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
from flax import nnx

from jaxfuse.models.convnext import ConvNeXt
from jaxfuse.models.densenet import DenseNet
from jaxfuse.models.layers import Norm
from jaxfuse.models.lenet import LeNet
from jaxfuse.models.mlp import MLP
from jaxfuse.models.mobilenet import MobileNetV2
from jaxfuse.models.resnet import ResNet, Stem
from jaxfuse.models.resnet_cifar import CifarResNet
from jaxfuse.models.vgg import VGG11, VGG16

Width = float | Literal["half", "double", "quad"]
"""Multiplier of the hidden widths, or a variant of VGG11 by its name in `VGG11_WIDTHS`."""

Shape = tuple[int, int, int]

_SMALL_SIDE = 64
_PATCHES_A_SIDE = 16


class _Builder(NamedTuple):
    """How a model is built.

    Attributes:
        build: makes the module from `(input_shape, classes, **options)`.
        norm: the normalisation of the paper, None where it has none.
        other_norms: whether another normalisation may be chosen.
        bias: whether the linear maps may have biases.
    """

    build: Callable[..., nnx.Module]
    norm: Norm | None = None
    other_norms: bool = True
    bias: bool = False


def _mlp(shape: Shape, classes: int, **options: Any) -> MLP:
    return MLP(math.prod(shape), classes, **options)


def _vgg11(shape: Shape, classes: int, **options: Any) -> VGG11:
    return VGG11(shape[-1], classes, **options)


def _vgg16(shape: Shape, classes: int, **options: Any) -> VGG16:
    return VGG16(shape[-1], classes, **options)


def _cifar_resnet(depth: int, shape: Shape, classes: int, **options: Any) -> CifarResNet:
    return CifarResNet(shape[-1], classes, depth=depth, **options)


def _resnet(depth: int, shape: Shape, classes: int, **options: Any) -> ResNet:
    return ResNet(shape[-1], classes, depth=depth, stem=_stem(shape), **options)


def _mobilenet(shape: Shape, classes: int, **options: Any) -> MobileNetV2:
    return MobileNetV2(shape[-1], classes, stride=1 if _is_small(shape) else 2, **options)


def _densenet(shape: Shape, classes: int, **options: Any) -> DenseNet:
    return DenseNet(shape[-1], classes, stem=_stem(shape), **options)


def _convnext(shape: Shape, classes: int, **options: Any) -> ConvNeXt:
    # The published 4 at its 224 pixels; small images need smaller patches to survive the stages.
    patch = 2 ** min(2, max(1, min(shape[:2]) // _PATCHES_A_SIDE).bit_length() - 1)
    return ConvNeXt(shape[-1], classes, patch=patch, **options)


def _is_small(shape: Shape) -> bool:
    return max(shape[:2]) <= _SMALL_SIDE


def _stem(shape: Shape) -> Stem:
    return "cifar" if _is_small(shape) else "imagenet"


_BUILDERS = MappingProxyType(
    {
        "mlp": _Builder(_mlp, bias=True),
        "lenet": _Builder(LeNet, bias=True),
        "vgg11": _Builder(_vgg11, bias=True),
        "vgg16": _Builder(_vgg16, bias=True),
        "resnet20": _Builder(functools.partial(_cifar_resnet, 20), norm="batch"),
        "resnet32": _Builder(functools.partial(_cifar_resnet, 32), norm="batch"),
        "resnet56": _Builder(functools.partial(_cifar_resnet, 56), norm="batch"),
        "resnet18": _Builder(functools.partial(_resnet, 18), norm="batch"),
        "resnet50": _Builder(functools.partial(_resnet, 50), norm="batch"),
        "mobilenet_v2": _Builder(_mobilenet, norm="batch", other_norms=False),
        "densenet121": _Builder(_densenet, norm="batch", other_norms=False),
        "convnext_tiny": _Builder(_convnext, norm="layer", other_norms=False),
    }
)

MODEL_NAMES = tuple(_BUILDERS)
"""Names that `create` knows."""


def create(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    width: Width = 1.0,
    bias: bool = False,
    norm: Norm | None = None,
    key: jax.Array,
) -> nnx.Module:
    """Create a reference classifier with fresh weights.

    Networks for ImageNet are adapted to images of up to 64x64 pixels, as is usual: "resnet18",
    "resnet50" and "densenet121" begin with a 3x3 convolution and no pooling, "mobilenet_v2" does
    without its first stride, and "convnext_tiny" takes patches of a sixteenth of the image (4x4 at
    64 pixels and more, 1x1 below 32).

    Args:
        name: one of `MODEL_NAMES`: "mlp", "lenet", "vgg11", "vgg16", "resnet20", "resnet32",
            "resnet56" (with zero-padded shortcuts), "resnet18", "resnet50", "mobilenet_v2",
            "densenet121" or "convnext_tiny".
        input_shape: `(h, w, c)` of one image.
        classes: number of outputs.
        width: multiplier of the hidden widths; for "vgg11" also "half", "double" or "quad", the
            variants of GAMF (`VGG11_WIDTHS`), which scale the inner widths only.
        bias: whether linear maps have biases, for "mlp", "lenet" and the VGGs. Off by default, as
            in GAMF and OTFusion. The other models have the biases of their papers, in any case.
        norm: normalisation after every hidden linear map: "batch", "layer" or "group", or None for
            that of the paper: none at all for "mlp", "lenet" and the VGGs, batch normalisation for
            the others, layer normalisation for "convnext_tiny". The last three have no other.
        key: key of the initial weights. Models of two keys are two independent draws.

    Returns:
        The model; `functional` turns it into a pure function and a dict of arrays.

    Raises:
        ValueError: The name is unknown, the shape is not `(h, w, c)`, the width is a name and the
            model not "vgg11", the model has no such option, or it refuses a value.

    Examples:
        >>> model = create("mlp", input_shape=(8, 8, 1), classes=10, key=jax.random.key(0))
        >>> model.dense[0].kernel.shape
        (64, 400)
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(MODEL_NAMES)}")
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (height, width, channels), got {input_shape}")
    options: dict[str, Any] = {"width": width}
    if isinstance(width, str):
        if name != "vgg11":
            raise ValueError(f"width {width!r} is a variant of vgg11: give {name} a number")
        options = {"widths": width}
    builder = _BUILDERS[name]
    if builder.bias:
        options["bias"] = bias
    elif bias:
        raise ValueError(f"{name} has the biases of its paper and takes no bias option: leave it")
    if builder.other_norms:
        options["norm"] = norm or builder.norm
    elif norm not in (None, builder.norm):
        raise ValueError(f"{name} has {builder.norm} normalisation, and no {norm!r}: leave norm")
    return builder.build(input_shape, classes, **options, rngs=nnx.Rngs(key))
