"""Which bundled model a checkpoint is of: its options, its function and its shapes."""

import functools
import itertools
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxfuse.checkpoints import describe
from jaxfuse.checkpoints.names import CanonicalLeaf, canonical_leaves
from jaxfuse.models import InferenceFunction, create, functional
from jaxfuse.models.create import Shape, Width
from jaxfuse.models.layers import Norm
from jaxfuse.symmetry.chain import read_chain
from jaxfuse.symmetry.chain.layers import REMEDY

PyTree = Any

# The layers that read the image and write the logits, in models that are no chains.
_ENDS = MappingProxyType(
    {
        "resnet20": ("conv1", "linear"),
        "resnet32": ("conv1", "linear"),
        "resnet56": ("conv1", "linear"),
        "resnet18": ("conv1", "fc"),
        "resnet50": ("conv1", "fc"),
        "mobilenet_v2": ("stem", "classifier"),
        "densenet121": ("conv0", "classifier"),
        "convnext_tiny": ("stem", "head"),
    }
)
# Sides of images for which `create` gives the first convolution so many taps; 32 for others.
_SIDES = MappingProxyType({1: 16, 4: 64, 7: 224})
_SIDE = 32


class Model(NamedTuple):
    """A bundled model with the options of a checkpoint.

    Attributes:
        apply_fn: its function.
        template: the shapes of its parameters.
        input_shape: `(h, w, c)` of one image.
    """

    apply_fn: InferenceFunction
    template: PyTree
    input_shape: Shape


def fit_model(
    name: str,
    checkpoint: PyTree,
    *,
    width: Width,
    norm: Norm | None,
    input_shape: Shape | None = None,
    classes: int | None = None,
) -> Model:
    """Make the function of a bundled model with the options that a checkpoint shows.

    Args:
        name: one of `jaxfuse.models.MODEL_NAMES`.
        checkpoint: the parameters, in either layout.
        width: multiplier of the model's hidden widths.
        norm: kind of the normalisation; None to read it off the checkpoint.
        input_shape: `(h, w, c)` of one image; by default one that fits the first kernel.
        classes: number of outputs; by default that of the last kernel.

    Returns:
        The model.

    Raises:
        ValueError: if the checkpoint lacks the first or the last layer of the model, or holds a
            normalisation of a kind that nothing tells.
    """
    if name in _ENDS:
        leaves = canonical_leaves(checkpoint)
        bias, found = False, _find_norm(leaves)
        read_shapes = functools.partial(_read_ends, name, leaves)
    else:
        bias, found = _describe_chain(name, checkpoint)
        read_shapes = functools.partial(_read_chain_ends, checkpoint)
    if input_shape is None or classes is None:
        if norm is None and found == "layer" and name != "convnext_tiny":
            raise ValueError(
                "the parameters of layer and of group normalisation look alike, and their "
                "symmetries differ: say which with --norm layer or --norm group"
            )
        input_shape, classes = read_shapes()
    build = functools.partial(
        create,
        name,
        input_shape=input_shape,
        classes=classes,
        width=width,
        bias=bias,
        norm=norm or found,
        key=jax.random.key(0),
    )
    # The weights come from the checkpoints: to draw others would take seconds.
    return Model(*functional(nnx.eval_shape(build)), input_shape)


def _describe_chain(name: str, checkpoint: PyTree) -> tuple[bool, Norm | None]:
    try:
        description = describe(checkpoint)
    except ValueError as error:
        reason = str(error).removesuffix(REMEDY).strip()
        raise ValueError(f"the checkpoint is no {name}: {reason}") from None
    return description.bias, description.norm


def _find_norm(leaves: dict[str, CanonicalLeaf]) -> Norm | None:
    """Tell the normalisation by what it keeps: statistics, scales alone, or nothing."""
    words = {(path.rsplit("/", 1)[-1], len(np.shape(leaf.value))) for path, leaf in leaves.items()}
    if ("mean", 1) in words:
        return "batch"
    return "layer" if ("weight", 1) in words else None


def _read_chain_ends(checkpoint: PyTree) -> tuple[Shape, int]:
    """Return the shape of an image and the number of classes that fit a chain."""
    kernels = read_chain(checkpoint).kernels
    first, last = kernels[0], kernels[-1]
    if not first.is_convolution:
        return (1, first.fan_in, 1), last.fan_out
    pixels = 1
    for before, kernel in itertools.pairwise(kernels):
        if before.is_convolution and not kernel.is_convolution:
            pixels = kernel.fan_in // before.fan_out
    # LeNet turns 4 n + 12 rows into n, and 16 columns into one; VGG takes the mean of any number.
    return (4 * pixels + 12, 16, first.fan_in), last.fan_out


def _read_ends(name: str, leaves: dict[str, CanonicalLeaf]) -> tuple[Shape, int]:
    """Return the shape of an image and the number of classes that fit another network."""
    first, last = (leaves.get(f"{layer}/weight") for layer in _ENDS[name])
    if first is None or last is None or len(np.shape(first.value)) != 4:
        raise ValueError(
            f"the checkpoint is no {name}: it has no kernels of the names "
            f"{' and '.join(_ENDS[name])}"
        )
    taps = max(np.shape(first.value)[:2] if first.input_major else np.shape(first.value)[2:])
    side = _SIDES.get(taps, _SIDE)
    return (side, side, first.fan_in), last.fan_out
