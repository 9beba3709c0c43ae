"""Networks for images, small enough to trace, verify and align, with their inputs.

Examples:
    >>> example = VISION["resnet20_pad"]
    >>> module = example.build(nnx.Rngs(0))
    >>> module.eval()
    >>> module(*example.inputs(jax.random.key(0))).shape
    (2, 5)
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx

from jaxfuse.models.autoencoder import Autoencoder
from jaxfuse.models.convnext import ConvNeXt
from jaxfuse.models.densenet import DenseNet
from jaxfuse.models.example import Example
from jaxfuse.models.lenet import LeNet
from jaxfuse.models.mlp import MLP
from jaxfuse.models.mobilenet import MobileNetV2
from jaxfuse.models.resnet import ResNet
from jaxfuse.models.resnet_cifar import CifarResNet
from jaxfuse.models.siamese import Siamese
from jaxfuse.models.unet import UNet
from jaxfuse.models.vgg import VGG11, VGG16

_BATCH = 2


def _module(
    kind: Callable[..., nnx.Module], *arguments: Any, **options: Any
) -> Callable[[nnx.Rngs], nnx.Module]:
    return lambda rngs: kind(*arguments, **options, rngs=rngs)


def _images(
    side: int, channels: int = 3, *, number: int = 1
) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
    shape = (_BATCH, side, side, channels)
    return lambda key: tuple(jax.random.normal(k, shape) for k in jax.random.split(key, number))


def _vgg(kind: Callable[..., nnx.Module], **options: Any) -> Example:
    return Example(
        build=_module(kind, 3, 5, width=1 / 16, **options),
        inputs=_images(16),
        published=_module(kind, 3, 10, **options),
        published_inputs=_images(32),
    )


def _cifar_resnet(**options: Any) -> Example:
    return Example(
        build=_module(CifarResNet, 3, 5, width=1 / 4, **options),
        inputs=_images(8),
        published=_module(CifarResNet, 3, 10, **options),
        published_inputs=_images(32),
    )


def _resnet(depth: int, *, norm: str = "batch", side: int = 32, **small: Any) -> Example:
    return Example(
        build=_module(ResNet, 3, 5, depth=depth, norm=norm, **small),
        inputs=_images(side),
        published=_module(ResNet, 3, 1000, depth=depth, norm=norm),
        published_inputs=_images(224),
    )


def _unet(**options: Any) -> Example:
    return Example(
        build=_module(UNet, 3, 2, levels=2, channels=4, **options),
        inputs=_images(16),
        published=_module(UNet, 1, 2, **options),
        published_inputs=_images(512, 1),
    )


VISION: Mapping[str, Example] = MappingProxyType(
    {
        "mlp": Example(
            build=_module(MLP, 8 * 8 * 3, 5, hidden=(12, 8, 6)),
            inputs=_images(8),
            published=_module(MLP, 28 * 28, 10),
            published_inputs=_images(28, 1),
        ),
        "mlp_norm": Example(
            build=_module(MLP, 8 * 8 * 3, 5, hidden=(12, 8, 6), bias=True, norm="layer"),
            inputs=_images(8),
            published=_module(MLP, 28 * 28, 10, bias=True, norm="layer"),
            published_inputs=_images(28, 1),
        ),
        "lenet": Example(
            build=_module(LeNet, (20, 20, 3), 5, channels=(4, 6), hidden=(12, 8)),
            inputs=_images(20),
            published=_module(LeNet, (32, 32, 3), 10),
            published_inputs=_images(32),
        ),
        "lenet_bias": Example(
            build=_module(LeNet, (8, 8, 3), 5, channels=(4, 6), hidden=(12, 8), bias=True),
            inputs=_images(8),
            published=_module(LeNet, (32, 32, 3), 10, bias=True),
            published_inputs=_images(32),
        ),
        "vgg11": _vgg(VGG11),
        "vgg16": _vgg(VGG16, bias=True),
        "vgg16_batch_norm": _vgg(VGG16, norm="batch"),
        "vgg16_layer_norm": _vgg(VGG16, bias=True, norm="layer"),
        "resnet20_pad": _cifar_resnet(),
        "resnet20_conv": _cifar_resnet(shortcut="conv"),
        "resnet20_layer_norm": _cifar_resnet(norm="layer"),
        "resnet32_pad": _cifar_resnet(depth=32),
        "resnet56_pad": _cifar_resnet(depth=56),
        "resnet18": _resnet(18, width=1 / 16),
        "resnet18_group_norm": _resnet(
            18, norm="group", side=8, stem="cifar", widths=(8, 8, 16, 16), groups=4
        ),
        "resnet50": _resnet(50, blocks=(2, 2, 1, 1), widths=(4, 4, 8, 8)),
        "resnet50_group_norm": _resnet(
            50,
            norm="group",
            side=8,
            stem="cifar",
            blocks=(2, 2, 1, 1),
            widths=(8, 8, 8, 8),
            groups=4,
        ),
        "densenet": Example(
            build=_module(DenseNet, 3, 5, growth=4, blocks=(2, 2, 2), first=8, stem="cifar"),
            inputs=_images(8),
            published=_module(DenseNet, 3, 1000),
            published_inputs=_images(224),
        ),
        "mobilenet_v2": Example(
            build=_module(
                MobileNetV2,
                3,
                5,
                stages=((1, 4, 1, 1), (6, 4, 2, 2), (4, 6, 2, 2)),
                first=8,
                last=16,
            ),
            inputs=_images(16),
            published=_module(MobileNetV2, 3, 1000),
            published_inputs=_images(224),
        ),
        # The published layer scale of 1e-6 would hide the blocks of fresh weights.
        "convnext": Example(
            build=_module(ConvNeXt, 3, 5, blocks=(1, 2), channels=(4, 8), patch=2, layer_scale=0.5),
            inputs=_images(8),
            published=_module(ConvNeXt, 3, 1000),
            published_inputs=_images(224),
        ),
        "unet": _unet(),
        "unet_resize": _unet(upsample="resize"),
        "autoencoder": Example(
            build=_module(Autoencoder, (8, 8, 3), channels=(4, 6), code=5),
            inputs=_images(8),
            published=_module(Autoencoder, (32, 32, 3)),
            published_inputs=_images(32),
        ),
        "siamese": Example(
            build=_module(Siamese, (12, 12, 3), channels=(4, 6), kernels=(3, 3), embedding=8),
            inputs=_images(12, number=2),
            published=_module(Siamese),
            published_inputs=_images(105, 1, number=2),
        ),
    }
)
"""Small variants of dense and convolutional networks, by name; images are NHWC.

Hidden layers have 4 to 32 units, and every group normalisation four groups of two channels or more.
"""
