"""The symmetry of a network as data: which tensor axes must be permuted together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxfuse.symmetry.tree import is_weight, leaf_name, named_leaves

PyTree = Any
AxisSpec = str | None | tuple["int | str | None", ...]


@dataclass(frozen=True)
class TensorAxes:
    """The groups that the axes of one leaf carry.

    Attributes:
        path: the leaf, as `jaxfuse.symmetry.tree.leaf_path` writes it.
        shape: the shape the leaf is viewed in. It differs from the leaf's own where one axis is a
            product of several, as the input axis of a dense layer behind a flatten is.
        groups: per axis of `shape` the group it carries, or None where it is pinned.
        edge: the pinned axes whose entries make up the vector on one edge (the taps of a
            convolution, the positions of a flatten). The other pinned axes count as units that
            are matched to themselves: inputs and outputs.
        statistic: whether the leaf is a running statistic: permuted with its group, and left out
            of every similarity.
        output: for a kernel the axis of the units that it computes, None for any other leaf.
    """

    path: str
    shape: tuple[int, ...]
    groups: tuple[str | None, ...]
    edge: tuple[int, ...] = ()
    statistic: bool = False
    output: int | None = None


@jax.tree_util.register_static
@dataclass(frozen=True)
class Symmetry:
    """All permutation groups of a model, frozen and hashable, so static under `jit`.

    It is a pytree without leaves: a jitted function takes it as an argument like any other.

    Attributes:
        sizes: pairs of group name and number of units, in the order of the network.
        tensors: one entry per leaf that carries a group.
    """

    sizes: tuple[tuple[str, int], ...]
    tensors: tuple[TensorAxes, ...]

    @property
    def groups(self) -> dict[str, int]:
        """Number of units of every group, by name."""
        return dict(self.sizes)

    @classmethod
    def from_axes(cls, axes: Mapping[str, Sequence[AxisSpec]], params: PyTree) -> "Symmetry":
        """Build a symmetry from a hand-written table.

        Args:
            axes: per leaf path one entry per axis: a group name, None for a pinned axis, or a
                tuple of factors for an axis that is a product, with a number for the size of a
                pinned factor: `(49, "conv5")` is 49 positions of the channels of `conv5`, the
                channels varying fastest. Leaves named `mean`, `var`, `running_mean` or
                `running_var` are taken as statistics, those named `kernel` as `[..., in, out]` and
                `weight` as `[out, in, ...]`. Of other names, leaves of two axes and more whose last
                axis carries a group are taken as `[..., in, out]`, biases and statistics apart.
                Which axis is `out` matters to the correction of `fuse` alone, which scales the
                units that a leaf computes.
            params: the parameters, or their shapes.

        Returns:
            The symmetry.

        Raises:
            ValueError: if a leaf is missing, an axis has the wrong size, or a group has two sizes.

        Examples:
            >>> import jax.numpy as jnp
            >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
            >>> Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, params).groups
            {'h': 8}
        """
        leaves = named_leaves(params)
        tensors = []
        for path, entries in axes.items():
            if path not in leaves:
                raise ValueError(f"no leaf {path!r} in the parameters, which hold {list(leaves)}")
            tensors.append(_read_axes(path, entries, np.shape(leaves[path])))
        sizes = _group_sizes(tensors, leaves)
        tensors = [_resolve(tensor, sizes, np.shape(leaves[tensor.path])) for tensor in tensors]
        symmetry = cls(tuple(sizes.items()), tuple(t for t in tensors if any(t.groups)))
        symmetry.check(params)
        return symmetry

    def check(self, params: PyTree) -> None:
        """Refuse parameters that this symmetry does not describe.

        Raises:
            ValueError: with the leaf path, both shapes and the remedy.
        """
        leaves = named_leaves(params)
        groups = self.groups
        for tensor in self.tensors:
            if tensor.path not in leaves:
                raise ValueError(
                    f"the symmetry speaks of leaf {tensor.path!r}, which the parameters do not "
                    f"have: they hold {list(leaves)}. Was it made for another model?"
                )
            shape = np.shape(leaves[tensor.path])
            if not _is_merged(tensor.shape, shape):
                raise ValueError(
                    f"the symmetry views leaf {tensor.path!r} as {tensor.shape}, and its shape is "
                    f"{shape}, which joining neighbouring axes of the view does not give. Was it "
                    "made for another width or layout?"
                )
            for axis, group in enumerate(tensor.groups):
                if group is not None and groups.get(group) != tensor.shape[axis]:
                    raise ValueError(
                        f"axis {axis} of leaf {tensor.path!r}, viewed as {tensor.shape}, carries "
                        f"group {group!r}, whose size is {groups.get(group)}"
                    )
        carried = {tensor.path for tensor in self.tensors}
        for path, leaf in leaves.items():
            if path in carried and not is_weight(leaf):
                raise ValueError(f"leaf {path!r} carries a group, and is no array of real numbers")


_STATISTICS = {"mean", "var", "running_mean", "running_var"}
_UNKNOWN = -1


def is_statistic(path: str) -> bool:
    """Tell by its name whether a leaf is a running statistic."""
    return leaf_name(path) in _STATISTICS


def _read_axes(path: str, entries: Sequence[AxisSpec], shape: tuple[int, ...]) -> TensorAxes:
    if len(entries) != len(shape):
        raise ValueError(f"leaf {path!r} has shape {shape}, and {len(entries)} axes were described")
    sizes: list[int] = []
    groups: list[str | None] = []
    edge: list[int] = []
    for size, entry in zip(shape, entries, strict=True):
        if not isinstance(entry, tuple):
            sizes.append(size)
            groups.append(entry)
            continue
        for factor in entry:
            if isinstance(factor, int):
                edge.append(len(sizes))
            sizes.append(factor if isinstance(factor, int) else _UNKNOWN)
            groups.append(None if isinstance(factor, int) else factor)
    name = leaf_name(path)
    if len(shape) > 2:
        carried = sum(group is not None for group in groups)
        spatial = [axis for axis, group in enumerate(groups) if group is None]
        # Where the input or output is pinned, it counts as units: the last pinned axis of a kernel
        # [kh, kw, in, out], the first of a weight [out, in, kh, kw].
        if carried < 2:
            taps = len(shape) - 2
            spatial = spatial[-taps:] if name == "weight" else spatial[:taps]
        edge += spatial
    output = {"kernel": len(sizes) - 1, "weight": 0}.get(name)
    per_unit = "bias" in name or is_statistic(path)
    if output is None and not per_unit and groups and groups[-1] is not None:
        output = len(sizes) - 1
    return TensorAxes(
        path,
        tuple(sizes),
        tuple(groups),
        tuple(sorted(set(edge))),
        is_statistic(path),
        output if len(shape) > 1 else None,
    )


def _is_merged(view: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Tell whether joining neighbouring axes of the view gives the shape."""
    rest = list(view)
    for size in shape:
        if not rest:
            return False
        product = rest.pop(0)
        while product != size and rest:
            product *= rest.pop(0)
        if product != size:
            return False
    return math.prod(rest) == 1


def _group_sizes(tensors: Sequence[TensorAxes], leaves: Mapping[str, Any]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    unknown = []
    for tensor in tensors:
        for size, group in zip(tensor.shape, tensor.groups, strict=True):
            if group is None:
                continue
            if size == _UNKNOWN:
                unknown.append((group, tensor.path))
            elif sizes.setdefault(group, size) != size:
                raise ValueError(
                    f"group {group!r} has size {sizes[group]}, and leaf {tensor.path!r} of shape "
                    f"{np.shape(leaves[tensor.path])} gives it an axis of {size}"
                )
    for group, path in unknown:
        if group not in sizes:
            raise ValueError(
                f"the size of group {group!r} in leaf {path!r} is unknown: it occurs only as a "
                "factor of an axis; name an axis that carries it alone"
            )
    return sizes


def _resolve(tensor: TensorAxes, sizes: Mapping[str, int], shape: tuple[int, ...]) -> TensorAxes:
    view = tuple(
        sizes[group] if group is not None else size
        for size, group in zip(tensor.shape, tensor.groups, strict=True)
    )
    if math.prod(view) != math.prod(shape):
        raise ValueError(f"leaf {tensor.path!r} of shape {shape} can't be viewed as {view}")
    return replace(tensor, shape=view)
