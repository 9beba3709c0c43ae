"""The symmetry of a network as data: which tensor axes must be permuted together."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfuse.symmetry.axes import Activation, TensorAxes, is_statistic
from jaxfuse.symmetry.tree import is_weight, leaf_name, named_leaves

if TYPE_CHECKING:
    from jaxfuse.symmetry.proof.verify import Verification

PyTree = Any
AxisSpec = str | None | tuple["int | str | None", ...]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Symmetry:
    """All permutation groups of a model, frozen and hashable, so static under `jit`.

    It is a pytree without leaves: a jitted function takes it as an argument like any other.

    Attributes:
        sizes: pairs of group name and number of units, in the order of the network.
        tensors: one entry per leaf, or block of a leaf; those that carry no group may be left out.
        over: pairs of a group and what it is indexed by, outermost first, for the groups that have
            one permutation for each entry of something else: the units inside a head for each
            head, the units of a layer for each layer of a stack. What indexes is another group,
            which moves the entries as wholes, or a pinned axis of `pinned`.
        pinned: triples of name, size and reason of the axes of leaves that can't be permuted;
            empty where that is not known.
        activations: the arrays between the layers that carry the groups, in the order of the
            program; they depend on the inputs that were traced, and equality does not.
    """

    sizes: tuple[tuple[str, int], ...]
    tensors: tuple[TensorAxes, ...]
    over: tuple[tuple[str, tuple[str, ...]], ...] = ()
    pinned: tuple[tuple[str, int, str], ...] = ()
    activations: tuple[Activation, ...] = field(default=(), compare=False, repr=False)

    @property
    def groups(self) -> dict[str, int]:
        """Number of units of every group, by name."""
        return dict(self.sizes)

    def contexts(self, group: str) -> tuple[str, ...]:
        """Return the names of what a group is indexed by, outermost first."""
        return dict(self.over).get(group, ())

    def shape(self, group: str) -> tuple[int, ...]:
        """Return the shape of a group's permutations: `[n]`, or `[..., n]` with its contexts.

        Examples:
            >>> heads = Symmetry((("heads", 4), ("units", 8)), (), over=(("units", ("heads",)),))
            >>> heads.shape("units")
            (4, 8)
        """
        sizes = self.groups | {name: size for name, size, _ in self.pinned}
        return (*(sizes[name] for name in self.contexts(group)), sizes[group])

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
                Which axis is `out` matters to the repair of `fuse` alone, which scales the
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
            if not tensor.fits(shape):
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
        carried = {tensor.path for tensor in self.tensors if any(tensor.groups)}
        for path, leaf in leaves.items():
            if path in carried and not is_weight(leaf):
                raise ValueError(f"leaf {path!r} carries a group, and is no array of real numbers")

    def table(self, *, width: int = 100, groups: int = 60, leaves: int = 4, pins: int = 4) -> str:
        """Print the groups, what they lie on and what is pinned: `jaxfuse.symmetry.table`.

        Args:
            width: the columns to fill at most.
            groups: the most groups to print.
            leaves: the most places to print for each group.
            pins: the most pinned axes to print for each reason.

        Returns:
            Plain text.
        """
        from jaxfuse.symmetry.table import table

        return table(self, width=width, groups=groups, leaves=leaves, pins=pins)

    def to_json(self) -> str:
        """Write the symmetry as JSON text: `jaxfuse.symmetry.serialise`."""
        from jaxfuse.symmetry.serialise import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "Symmetry":
        """Read a symmetry from JSON text: `jaxfuse.symmetry.serialise`.

        Args:
            text: what `to_json` wrote.

        Raises:
            ValueError: for any other text, with the entry that is wrong.

        Examples:
            >>> symmetry = Symmetry((("h", 8),), ())
            >>> Symmetry.from_json(symmetry.to_json()) == symmetry
            True
        """
        from jaxfuse.symmetry.serialise import from_json

        return from_json(text)

    def pin(self, *patterns: str) -> "Symmetry":
        """Pin the groups whose names match: `jaxfuse.symmetry.editing.override.pin`.

        Args:
            *patterns: names, in which `*`, `?` and `[...]` stand for others as in a shell.

        Raises:
            ValueError: if a pattern matches no group.

        Examples:
            >>> Symmetry((("conv1", 8), ("conv2", 16), ("dense", 4)), ()).pin("conv*").groups
            {'dense': 4}
        """
        from jaxfuse.symmetry.editing.override import pin

        return pin(self, *patterns)

    def split(self, name: str, sizes: Sequence[int], params: PyTree) -> "Symmetry":
        """Make one group a direct sum of several: `jaxfuse.symmetry.editing.split`.

        Args:
            name: the group; its parts are called `name.0`, `name.1` and so on.
            sizes: the units of each part, in order.
            params: the parameters, or their shapes.

        Raises:
            ValueError: if the group can't be split so.
        """
        from jaxfuse.symmetry.editing.split import split

        return split(self, name, sizes, params)

    def add(self, axes: Mapping[str, Sequence[AxisSpec]], params: PyTree) -> "Symmetry":
        """Add groups on axes that carry none yet: `jaxfuse.symmetry.editing.override.add`.

        Args:
            axes: per leaf path one entry per axis, as `from_axes` takes it; None leaves an axis as
                it is.
            params: the parameters, or their shapes.

        Raises:
            ValueError: if an axis carries another group, or is a direct sum of blocks.
        """
        from jaxfuse.symmetry.editing.override import add

        return add(self, axes, params)

    def coverage(self, params: PyTree) -> float:
        """Return the share of the parameters on an axis with a group: `jaxfuse.symmetry.coverage`.

        Args:
            params: the parameters, or their shapes.
        """
        from jaxfuse.symmetry.coverage import coverage

        return coverage(self, params)

    def verify(
        self,
        apply_fn: Callable[..., PyTree],
        params: PyTree,
        *inputs: Any,
        key: jax.Array,
        tolerance: float | None = None,
    ) -> "Verification":
        """Prove the symmetry numerically, both ways: `jaxfuse.verify`.

        Args:
            apply_fn: `apply_fn(params, *inputs) -> outputs`.
            params: initialised or trained parameters.
            *inputs: a batch of inputs, drawn at random.
            key: source of the permutations, swaps and noise.
            tolerance: largest relative change that counts as rounding; by default by the dtype.
        """
        from jaxfuse.symmetry.proof.verify import verify

        return verify(self, apply_fn, params, *inputs, key=key, tolerance=tolerance)


_UNKNOWN = -1


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
