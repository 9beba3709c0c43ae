"""Infer the symmetry of a feed-forward chain from its parameter tree alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxfuse.symmetry.axes import TensorAxes, is_statistic
from jaxfuse.symmetry.chain.layers import Kernel, Vector, collect_layers, layouts
from jaxfuse.symmetry.chain.order import order_kernels
from jaxfuse.symmetry.chain.placement import place_vectors
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import is_weight, named_leaves

PyTree = Any


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
    as residual networks have, are refused, and so are recurrent cells, by their names.

    Equal trees can compute different functions: a flat residual network of one width has the tree
    of a chain. The result is right if the network is the chain that its tree looks like;
    `jaxfuse.verify` proves it on the network's own function.

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
    for input_major in layouts(leaves):
        try:
            kernels, vectors = collect_layers(leaves, input_major)
            ordered = order_kernels(kernels)
            return Chain(ordered, place_vectors(vectors, ordered), input_major)
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
