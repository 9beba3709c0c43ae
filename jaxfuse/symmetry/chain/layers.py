"""The layers in a parameter tree: kernels and per-unit vectors, by name and shape."""

import re
from dataclasses import dataclass

from jaxfuse.symmetry.tree import leaf_name

_COLLECTIONS = ("params", "batch_stats")
REMEDY = (
    "Only feed-forward chains (dense, convolution, normalisation, flatten) can be read off the "
    "tree: pass symmetry=, for example jaxfuse.Symmetry.from_axes({leaf: axes, ...}, params)."
)


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


def layouts(leaves: dict[str, tuple[int, ...]]) -> tuple[bool, ...]:
    """Return the layouts to try, True for `[in, out]`, as the names of the leaves tell."""
    names = {leaf_name(path) for path in leaves}
    if "kernel" in names:
        return (True,)
    return (False,) if "weight" in names else (True, False)


def collect_layers(
    leaves: dict[str, tuple[int, ...]], input_major: bool
) -> tuple[list[Kernel], list[Vector]]:
    """Sort leaves into kernels and vectors, and say which layer each belongs to.

    A container with one kernel is a layer; where several kernels share one, each leaf is a layer
    of its own.
    """
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


def stem_of(name: str) -> str:
    """Return a name with its numbers blotted out: layers of one kind share it."""
    return re.sub(r"\d+", "#", name)


def numbers_of(name: str) -> tuple[int, ...]:
    """Return the numbers in a name."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def natural_order(name: str) -> tuple[str, tuple[int, ...]]:
    """Return a sorting key that puts layer 10 after layer 9."""
    return stem_of(name), numbers_of(name)
