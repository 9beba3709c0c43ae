"""Infer the symmetry of a feed-forward chain from its parameter tree alone."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxfuse.symmetry.spec import Symmetry, TensorAxes, is_statistic
from jaxfuse.symmetry.tree import is_weight, leaf_name, named_leaves

PyTree = Any
_COLLECTIONS = ("params", "batch_stats")
_REMEDY = (
    "Only feed-forward chains (dense, convolution, normalisation, flatten) can be read off the "
    "tree: pass symmetry=, for example jaxfuse.Symmetry.from_axes({leaf: axes, ...}, params)."
)
_SEARCH_LIMIT = 20_000


@dataclass(frozen=True)
class Kernel:
    """One dense or convolutional map of the chain.

    Attributes:
        path: the leaf.
        layer: the container the leaf lies in, its own path where it shares the container.
        shape: the leaf's shape.
        axis_in: the axis of the inputs.
        axis_out: the axis of the outputs.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    axis_in: int
    axis_out: int

    @property
    def fan_in(self) -> int:
        """Number of inputs."""
        return self.shape[self.axis_in]

    @property
    def fan_out(self) -> int:
        """Number of outputs."""
        return self.shape[self.axis_out]

    @property
    def is_convolution(self) -> bool:
        """Whether the kernel has spatial taps."""
        return len(self.shape) > 2

    def feeds(self, other: "Kernel") -> bool:
        """Tell whether the shapes allow `other` to come next."""
        if self.is_convolution and not other.is_convolution:
            return other.fan_in % self.fan_out == 0
        return self.is_convolution == other.is_convolution and self.fan_out == other.fan_in


@dataclass(frozen=True)
class Vector:
    """A leaf with one entry per unit: a bias, a normalisation parameter or statistic."""

    path: str
    layer: str
    size: int


@dataclass(frozen=True)
class Chain:
    """The layers of a feed-forward network in order.

    Attributes:
        kernels: the maps, first to last.
        vectors: pairs of a vector and the space it lies in; space 0 is the input, space k the
            output of the k-th map.
        input_major: whether kernels are `[in, out]` with channels last (Flax) and not `[out, in]`
            with channels first (PyTorch, Equinox).
    """

    kernels: tuple[Kernel, ...]
    vectors: tuple[tuple[Vector, int], ...]
    input_major: bool


def infer_chain(params: PyTree) -> Symmetry:
    """Read the permutation groups of a feed-forward chain off its parameter tree.

    Dense and convolutional kernels are ordered by their shapes and the numbers in their names;
    biases, normalisation parameters and running statistics are placed at the space they act on; a
    dense kernel behind a convolution has a flatten in between, whose positions are kept. Both
    layouts are understood: `kernel` leaves are `[in, out]` and `[..., in, out]` (Flax), `weight`
    leaves `[out, in]` and `[out, in, ...]` (PyTorch, Equinox); other names are tried in this
    order. A normalisation layer with the number of a map is taken to follow that map. Skip
    connections have no parameters, so a tree can't show them: numbered blocks of several maps,
    as residual networks have, are refused.

    Args:
        params: a Linen dict, an NNX state, an Equinox module or nested dicts and lists of arrays,
            or their shapes.

    Returns:
        One group per hidden space, named after the layer that makes it.

    Raises:
        ValueError: if the tree is no such chain, with the leaf that could not be placed.

    Examples:
        >>> import jax.numpy as jnp
        >>> params = [{"kernel": jnp.ones((4, 8))}, {"kernel": jnp.ones((8, 2))}]
        >>> infer_chain(params).groups
        {'0': 8}
    """
    chain = read_chain(params)
    shapes = {path: np.shape(leaf) for path, leaf in named_leaves(params).items()}
    groups: list[str | None] = [None, *(k.layer for k in chain.kernels[:-1]), None]
    sizes = tuple((kernel.layer, kernel.fan_out) for kernel in chain.kernels[:-1])
    tensors = []
    for index, kernel in enumerate(chain.kernels):
        previous = chain.kernels[index - 1] if index else None
        tensors.append(
            _kernel_axes(kernel, previous, groups[index], groups[index + 1], chain.input_major)
        )
    for vector, space in chain.vectors:
        shape = shapes[vector.path]
        axes: list[str | None] = [None] * len(shape)
        axes[shape.index(vector.size)] = groups[space]
        tensors.append(TensorAxes(vector.path, shape, tuple(axes), (), is_statistic(vector.path)))
    return Symmetry(sizes, tuple(tensor for tensor in tensors if any(tensor.groups)))


def read_chain(params: PyTree) -> Chain:
    """Order the layers of a feed-forward network.

    Raises:
        ValueError: if the tree is empty or no chain, with the leaf that could not be placed.
    """
    leaves = {
        path: np.shape(leaf) for path, leaf in named_leaves(params).items() if is_weight(leaf)
    }
    if not leaves:
        raise ValueError("the parameter tree holds no arrays of real numbers: nothing to align")
    error = None
    for input_major in _layouts(leaves):
        try:
            kernels, vectors = _collect(leaves, input_major)
            ordered = _order(kernels)
            return Chain(ordered, _place(vectors, ordered), input_major)
        except ValueError as failure:
            error = error or failure
    assert error is not None
    raise error


def _kernel_axes(
    kernel: Kernel, previous: Kernel | None, g_in: str | None, g_out: str | None, input_major: bool
) -> TensorAxes:
    if previous is not None and previous.is_convolution and not kernel.is_convolution:
        channels = previous.fan_out
        positions = kernel.fan_in // channels
        if input_major:
            shape, groups, edge = (positions, channels, kernel.fan_out), (None, g_in, g_out), (0,)
        else:
            shape, groups, edge = (kernel.fan_out, channels, positions), (g_out, g_in, None), (2,)
        return TensorAxes(kernel.path, shape, groups, edge, output=2 if input_major else 0)
    axes: list[str | None] = [None] * len(kernel.shape)
    axes[kernel.axis_in], axes[kernel.axis_out] = g_in, g_out
    taps = set(range(len(axes))) - {kernel.axis_in, kernel.axis_out}
    edge = tuple(sorted(taps))
    return TensorAxes(kernel.path, kernel.shape, tuple(axes), edge, output=kernel.axis_out)


def _layouts(leaves: dict[str, tuple[int, ...]]) -> tuple[bool, ...]:
    names = {leaf_name(path) for path in leaves}
    if "kernel" in names:
        return (True,)
    return (False,) if "weight" in names else (True, False)


def _collect(
    leaves: dict[str, tuple[int, ...]], input_major: bool
) -> tuple[list[Kernel], list[Vector]]:
    container = {path: _container(path) for path in leaves}
    wide = [
        path for path, shape in leaves.items() if len(shape) >= 2 and not _is_vector(path, shape)
    ]
    shared = [container[path] for path in wide]
    kernels = []
    for path in wide:
        rank = len(leaves[path])
        layer = container[path] if shared.count(container[path]) == 1 else ""
        axis_in, axis_out = (rank - 2, rank - 1) if input_major else (1, 0)
        kernels.append(Kernel(path, layer or path, leaves[path], axis_in, axis_out))
    crowded = {layer for layer in shared if shared.count(layer) > 1} | {""}
    vectors = [
        Vector(path, path if container[path] in crowded else container[path], max(shape, default=0))
        for path, shape in leaves.items()
        if path not in wide and shape
    ]
    return kernels, vectors


def _is_vector(path: str, shape: tuple[int, ...]) -> bool:
    """Tell a per-unit leaf from a kernel: Equinox keeps the bias of a convolution as [c, 1, 1]."""
    name = leaf_name(path)
    return name not in ("kernel", "weight") and "bias" in name and sum(s > 1 for s in shape) <= 1


def _container(path: str) -> str:
    parts = re.split(r"[/.]", path)[:-1]
    if parts and parts[0] in _COLLECTIONS:
        parts = parts[1:]
    return "/".join(parts)


def _stem(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _natural(name: str) -> tuple[str, tuple[int, ...]]:
    return _stem(name), _numbers(name)


def _order(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """Find the one order in which every kernel's inputs are the outputs of the one before."""
    if not kernels:
        raise ValueError(f"the parameter tree holds no kernel, only vectors. {_REMEDY}")
    _refuse_blocks(kernels)
    kernels = sorted(kernels, key=lambda kernel: _natural(kernel.layer))
    search = _paths((), tuple(kernels), [_SEARCH_LIMIT])
    longest: tuple[Kernel, ...] = ()
    found: list[tuple[Kernel, ...]] = []
    for path in search:
        longest = max(longest, path, key=len)
        if len(path) == len(kernels):
            found.append(path)
        if len(found) == 2:
            break
    if not found:
        left = next(kernel for kernel in kernels if kernel not in longest)
        after = f" after {longest[-1].path!r} {longest[-1].shape}" if longest else ""
        raise ValueError(
            f"leaf {left.path!r} of shape {left.shape} could not be placed{after}: no order of the "
            f"layers lets every output feed the next input. {_REMEDY}"
        )
    if len(found) == 2:
        at = next(i for i, (p, q) in enumerate(zip(*found, strict=True)) if p != q)
        raise ValueError(
            f"leaves {found[0][at].path!r} and {found[1][at].path!r} could both come at place {at} "
            f"of the chain, and neither shapes nor numbers in the names tell. {_REMEDY}"
        )
    return found[0]


def _refuse_blocks(kernels: Sequence[Kernel]) -> None:
    """Refuse numbered blocks of several maps: they may hold skips that no tree shows."""
    parts = [kernel.layer.split("/") for kernel in kernels]
    shared = sum(len(set(level)) == 1 for level in zip(*parts, strict=False))
    blocks: dict[str, str] = {}
    for kernel, part in zip(kernels, parts, strict=True):
        for depth in range(shared + 1, len(part)):
            block = "/".join(part[:depth])
            if not part[depth - 1][-1:].isdigit():
                continue
            if block in blocks:
                raise ValueError(
                    f"leaves {blocks[block]!r} and {kernel.path!r} lie in one block {block!r}: a "
                    f"block may have a skip connection, which a parameter tree does not show. "
                    f"{_REMEDY}"
                )
            blocks[block] = kernel.path


def _paths(
    path: tuple[Kernel, ...], rest: tuple[Kernel, ...], budget: list[int]
) -> Iterator[tuple[Kernel, ...]]:
    """Yield every path that can't be continued; kernels of one stem come in order of number."""
    budget[0] -= 1
    stems: set[str] = set()
    extended = False
    for index, kernel in enumerate(rest):
        stem = _stem(kernel.layer)
        if stem in stems:
            continue
        stems.add(stem)
        if budget[0] > 0 and (not path or path[-1].feeds(kernel)):
            extended = True
            yield from _paths((*path, kernel), rest[:index] + rest[index + 1 :], budget)
    if not extended:
        yield path


def _place(
    vectors: Sequence[Vector], kernels: tuple[Kernel, ...]
) -> tuple[tuple[Vector, int], ...]:
    """Find the space of every vector: 0 the input, k the output of the k-th kernel."""
    own = {kernel.layer: space for space, kernel in enumerate(kernels, start=1)}
    sizes = [kernels[0].fan_in, *(kernel.fan_out for kernel in kernels)]
    placed = [(vector, own[vector.layer]) for vector in vectors if vector.layer in own]
    for vector, space in placed:
        if vector.size != sizes[space]:
            raise ValueError(
                f"leaf {vector.path!r} has {vector.size} entries beside a kernel with "
                f"{sizes[space]} outputs. {_REMEDY}"
            )
    free: dict[str, list[Vector]] = {}
    for vector in vectors:
        if vector.layer not in own:
            free.setdefault(vector.layer, []).append(vector)
    stems: dict[str, list[str]] = {}
    for layer in sorted(free, key=_natural):
        stems.setdefault(_stem(layer), []).append(layer)
    in_one_list = {_stem(layer) for layer in [*own, *free]}
    for stem, layers in stems.items():
        members = [free[layer] for layer in layers]
        if len(in_one_list) == 1:
            spaces = [sum(_numbers(k.layer) < _numbers(name) for k in kernels) for name in layers]
        else:
            spaces = _spaces_by_number(layers, members, kernels)
            spaces = spaces or _spaces_by_size([group[0].size for group in members], sizes)
        if spaces is None or any(
            vector.size != sizes[space]
            for group, space in zip(members, spaces, strict=True)
            for vector in group
        ):
            first = members[0][0]
            raise ValueError(
                f"leaf {first.path!r} with {first.size} entries could not be placed: the layers "
                f"named {stem!r} fit the chain's spaces of {sizes} units in no way or in several. "
                f"{_REMEDY}"
            )
        placed += [(v, s) for group, s in zip(members, spaces, strict=True) for v in group]
    return tuple(placed)


def _spaces_by_number(
    layers: Sequence[str], members: Sequence[Sequence[Vector]], kernels: tuple[Kernel, ...]
) -> list[int] | None:
    """Pair layers with kernels of equal number, where one stem of kernels has just as many."""
    candidates = []
    for stem in {_stem(kernel.layer) for kernel in kernels}:
        spaces = {
            _numbers(kernel.layer): space
            for space, kernel in enumerate(kernels, start=1)
            if _stem(kernel.layer) == stem
        }
        hidden = {number: space for number, space in spaces.items() if space < len(kernels)}
        for choice in {tuple(spaces.items()), tuple(hidden.items())}:
            paired = [dict(choice).get(_numbers(layer)) for layer in layers]
            fits = len(choice) == len(layers) and all(
                space is not None and kernels[space - 1].fan_out == group[0].size
                for space, group in zip(paired, members, strict=True)
            )
            if fits:
                candidates.append([space for space in paired if space is not None])
    return candidates[0] if len(candidates) == 1 else None


def _spaces_by_size(needed: Sequence[int], sizes: Sequence[int]) -> list[int] | None:
    """Find the only increasing choice of spaces with the needed sizes, if there is only one."""
    ways: list[list[int]] = [[]]
    for size in needed:
        ways = [
            [*way, space]
            for way in ways
            for space in range(way[-1] + 1 if way else 0, len(sizes))
            if sizes[space] == size
        ][:_SEARCH_LIMIT]
    return ways[0] if len(ways) == 1 else None
