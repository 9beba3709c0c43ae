"""Convert a checkpoint of any architecture by the names of its leaves."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxfuse.checkpoints.layout import as_array
from jaxfuse.symmetry.tree import is_weight, leaf_name, map_named, named_leaves

PyTree = Any

_COLLECTIONS = ("params", "batch_stats")  # Linen's
_ROLES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "gamma": "weight",
    "beta": "bias",
    "running_mean": "mean",
    "running_var": "var",
}
_SHOWN = 3


class CanonicalLeaf(NamedTuple):
    """A leaf with its name in both frameworks' common form.

    Attributes:
        path: the leaf's own path.
        value: the array, or its shape.
        layer: the canonical name of the container.
    """

    path: str
    value: Any
    layer: str

    @property
    def input_major(self) -> bool | None:
        """Whether it is a kernel `[..., in, out]`; None if it has no such axes, or none known."""
        name = leaf_name(self.path)
        if len(np.shape(self.value)) < 2 or name not in ("kernel", "weight"):
            return None
        return name == "kernel"

    @property
    def fan_in(self) -> int:
        """Number of inputs of a kernel; a vector's length."""
        shape = np.shape(self.value)
        if self.input_major is None:
            return max(shape, default=1)
        return shape[-2] if self.input_major else shape[1]

    @property
    def fan_out(self) -> int:
        """Number of outputs of a kernel; a vector's length."""
        shape = np.shape(self.value)
        if self.input_major is None:
            return max(shape, default=1)
        return shape[-1] if self.input_major else shape[0]


def convert_by_names(params: PyTree, like: PyTree) -> PyTree:
    """Bring the parameters of any network into the layout of a model with the same layer names.

    Names are the same if they are once separators and the words of the frameworks are: the leaf
    `layer1.0.bn1.running_mean` of PyTorch is `layer1/0/bn1/mean` in Flax, and `weight` is a kernel,
    a scale or an embedding. Linen's collections and a prefix that all leaves share do not count.
    Kernels `[out, in, ...]` become `[..., in, out]` or the other way round, depthwise ones too;
    arrays of other names stay as they are. Counters and other leaves that are no real numbers are
    dropped from the checkpoint, and kept in the model.

    No name tells that a dense kernel reads a flattened image, whose order differs between the
    layouts. Where they differ, such a kernel is refused if no other layer has as many units as it
    has inputs. Transposed convolutions, which PyTorch writes as `[in, out, ...]`, are beyond names.

    Args:
        params: a checkpoint, in either layout.
        like: the parameters of the model, or their shapes.

    Returns:
        A tree like `like` with the values of `params`, in their own dtypes.

    Raises:
        ValueError: for leaves that only one of the two has, or that have other shapes.

    Examples:
        >>> import jax
        >>> weights = {"block.0.conv.weight": np.ones((8, 4, 3, 3)), "block.0.steps": np.array(7)}
        >>> model = {"block": [{"conv": {"kernel": np.zeros((3, 3, 4, 8))}}]}
        >>> jax.tree.map(np.shape, convert_by_names(weights, model))
        {'block': [{'conv': {'kernel': (3, 3, 4, 8)}}]}
    """
    source, target = canonical_leaves(params), canonical_leaves(like)
    missing = [leaf.path for name, leaf in target.items() if name not in source]
    unknown = [leaf.path for name, leaf in source.items() if name not in target]
    if missing:
        raise ValueError(
            f"the checkpoint has nothing for the model's {_list(missing)}"
            + (f", and the model no place for the checkpoint's {_list(unknown)}" if unknown else "")
            + ": is it another architecture, or another normalisation?"
        )
    if unknown:
        raise ValueError(f"the model has no place for the checkpoint's {_list(unknown)}")
    values = {leaf.path: _moved(source[name], leaf, source) for name, leaf in target.items()}
    return map_named(lambda path, leaf: values.get(path, leaf), like)


def canonical_leaves(tree: PyTree) -> dict[str, CanonicalLeaf]:
    """Return the arrays of real numbers by names that Flax and PyTorch have in common.

    Args:
        tree: the parameters, or their shapes.

    Raises:
        ValueError: if two leaves get one name.

    Examples:
        >>> list(canonical_leaves({"fc.weight": np.ones((2, 2)), "bn.running_var": np.ones(2)}))
        ['bn/var', 'fc/weight']
    """
    parts = {
        path: re.split(r"[/.]", path)
        for path, leaf in named_leaves(tree).items()
        if is_weight(leaf)
    }
    for words in parts.values():
        if words[0] in _COLLECTIONS and len(words) > 1:
            del words[0]
    # As DataParallel's "module": all leaves lie in it, and only one side has it.
    while parts and _share_a_prefix(parts.values()):
        for words in parts.values():
            del words[0]
    leaves: dict[str, CanonicalLeaf] = {}
    for path, value in named_leaves(tree).items():
        if path not in parts:
            continue
        *containers, last = parts[path]
        layer = "/".join(containers)
        name = "/".join((*containers, _ROLES.get(last, last)))
        if name in leaves:
            raise ValueError(
                f"leaves {leaves[name].path!r} and {path!r} both are {name!r} once the words of "
                "the frameworks are the same: rename one"
            )
        leaves[name] = CanonicalLeaf(path, value, layer)
    return leaves


def _share_a_prefix(names: Iterable[list[str]]) -> bool:
    return all(len(words) > 1 for words in names) and len({words[0] for words in names}) == 1


def _moved(leaf: CanonicalLeaf, wanted: CanonicalLeaf, others: Mapping[str, CanonicalLeaf]) -> Any:
    """Return the array in the layout that is wanted."""
    value = as_array(leaf.value)
    shape = np.shape(wanted.value)
    if None not in (leaf.input_major, wanted.input_major) and (
        leaf.input_major != wanted.input_major
    ):
        _refuse_flatten(leaf, others.values())
        axes = range(value.ndim)
        *taps, fan_in, fan_out = axes
        value = value.transpose(
            (*axes[2:], 1, 0) if wanted.input_major else (fan_out, fan_in, *taps)
        )
    if value.shape != shape and not _are_one_vector(value.shape, shape):
        raise ValueError(
            f"leaf {leaf.path!r} of shape {np.shape(leaf.value)} becomes {value.shape}, and the "
            f"model's {wanted.path!r} is {shape}: is it another width?"
        )
    return value.reshape(shape)


def _refuse_flatten(leaf: CanonicalLeaf, others: Iterable[CanonicalLeaf]) -> None:
    """Refuse a dense kernel whose inputs may be a flattened image."""
    if len(np.shape(leaf.value)) != 2:
        return
    if leaf.fan_in not in {other.fan_out for other in others if other.layer != leaf.layer}:
        raise ValueError(
            f"leaf {leaf.path!r} has {leaf.fan_in} inputs, which are the units of no other layer. "
            "If they are a flattened image, the two layouts have them in different orders, and no "
            "name tells: convert it yourself, or give a checkpoint of the model's own layout"
        )


def _are_one_vector(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Tell whether two shapes are of one vector: Equinox has [c, 1, 1] where others have [c]."""
    lengths = [tuple(size for size in each if size != 1) for each in (shape, other)]
    return lengths[0] == lengths[1] and len(lengths[0]) <= 1


def _list(paths: list[str]) -> str:
    """Name a few leaves, and say how many more there are."""
    names = ", ".join(repr(path) for path in paths[:_SHOWN])
    rest = len(paths) - _SHOWN
    noun = "leaf" if len(paths) == 1 else "leaves"
    return f"{noun} {names}" + (f" and {rest} more" if rest > 0 else "")
