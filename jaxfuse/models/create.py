"""Reference models by name."""

import math
from types import MappingProxyType
from typing import Any, Literal

import jax
from flax import nnx

from jaxfuse.models.layers import Norm
from jaxfuse.models.lenet import LeNet
from jaxfuse.models.mlp import MLP
from jaxfuse.models.vgg import VGG11

Width = float | Literal["half", "double", "quad"]
"""Multiplier of the hidden widths, or a variant of VGG11 by its name in `VGG11_WIDTHS`."""

_BUILDERS = MappingProxyType(
    {
        "mlp": lambda shape, classes, **options: MLP(math.prod(shape), classes, **options),
        "lenet": LeNet,
        "vgg11": lambda shape, classes, **options: VGG11(shape[-1], classes, **options),
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
    """Create a reference model with fresh weights.

    Args:
        name: One of `MODEL_NAMES`: "mlp", "lenet", "vgg11".
        input_shape: `(h, w, c)` of one image.
        classes: Number of outputs.
        width: Multiplier of the hidden widths; for "vgg11" also "half", "double" or "quad", the
            variants of GAMF (`VGG11_WIDTHS`), which scale the inner widths only.
        bias: Whether linear maps have biases. Off by default, as in GAMF and OTFusion.
        norm: Normalisation after every hidden linear map: None, "batch", "layer" or "group".
        key: Key of the initial weights. Models of two keys are two independent draws.

    Returns:
        The model; `functional` turns it into a pure function and a dict of arrays.

    Raises:
        ValueError: The name is unknown, the shape is not `(h, w, c)`, the width is a name and the
            model not "vgg11", or the model refuses it.

    Examples:
        >>> model = create("mlp", input_shape=(8, 8, 1), classes=10, key=jax.random.key(0))
        >>> model.dense[0].kernel.shape
        (64, 400)
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(MODEL_NAMES)}")
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (height, width, channels), got {input_shape}")
    size: dict[str, Any] = {"width": width}
    if isinstance(width, str):
        if name != "vgg11":
            raise ValueError(f"width {width!r} is a variant of vgg11: give {name} a number")
        size = {"widths": width}
    return _BUILDERS[name](input_shape, classes, **size, bias=bias, norm=norm, rngs=nnx.Rngs(key))
