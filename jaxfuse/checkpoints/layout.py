"""Convert a feed-forward chain by the order of its layers, whatever they are called."""

from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxfuse.symmetry.chain import Chain, read_chain
from jaxfuse.symmetry.chain.layers import Kernel, Vector
from jaxfuse.symmetry.tree import map_named, named_leaves

PyTree = Any
_ROLES = {
    "bias": "bias",
    "beta": "bias",
    "b": "bias",
    "scale": "scale",
    "weight": "scale",
    "gamma": "scale",
    "mean": "mean",
    "running_mean": "mean",
    "var": "var",
    "running_var": "var",
}
Place = tuple[int, bool, str]


class Description(NamedTuple):
    """What a checkpoint of a feed-forward chain holds.

    Attributes:
        input_major: whether kernels are `[in, out]` (Flax) and not `[out, in]` (PyTorch).
        bias: whether its maps have biases.
        norm: "batch" or "layer" where it has normalisation layers with or without statistics,
            else None.
        widths: outputs of every map.
    """

    input_major: bool
    bias: bool
    norm: Literal["batch", "layer"] | None
    widths: tuple[int, ...]


def describe(params: PyTree) -> Description:
    """Tell the layout and the parts of a checkpoint.

    Raises:
        ValueError: if the tree is no feed-forward chain.

    Examples:
        >>> import jax.numpy as jnp
        >>> describe({"fc1.weight": jnp.ones((8, 4)), "fc2.weight": jnp.ones((3, 8))})
        Description(input_major=False, bias=False, norm=None, widths=(8, 3))
    """
    chain = read_chain(params)
    roles = {(own, role) for _, own, role in _places(chain)}
    norm = "batch" if (False, "mean") in roles else "layer" if (False, "scale") in roles else None
    widths = tuple(kernel.fan_out for kernel in chain.kernels)
    return Description(chain.input_major, (True, "bias") in roles, norm, widths)


def convert_chain(params: PyTree, like: PyTree, *, channels: int = 1) -> PyTree:
    """Bring the parameters of a feed-forward chain into the names and layout of a model.

    Layers are paired by their order in the chain, whatever they are called. Dense kernels
    `[out, in]` become `[in, out]`, convolutions OIHW become HWIO, and the inputs of a dense kernel
    behind a flatten go from channels-first to channels-last order; or the other way round.

    Args:
        params: a checkpoint, in either layout.
        like: the parameters of the model, or their shapes.
        channels: of the images that the network flattens before its first map, if that is dense:
            no parameter tells. One, as for vectors and grey images, has but one order.

    Returns:
        A tree like `like` with the values of `params`, in their own dtypes.

    Raises:
        ValueError: if one is no chain, with the leaf that could not be placed; if the two have
            different layers, with the leaf and both shapes; if the inputs of the first map are no
            images of so many channels.

    Examples:
        >>> import jax.numpy as jnp
        >>> torch = {"fc1.weight": jnp.zeros((8, 4)), "fc2.weight": jnp.zeros((3, 8))}
        >>> flax = {"dense": [{"kernel": jnp.ones((4, 8))}, {"kernel": jnp.ones((8, 3))}]}
        >>> jax.tree.map(jnp.shape, convert_chain(torch, flax))
        {'dense': [{'kernel': (4, 8)}, {'kernel': (8, 3)}]}
    """
    source, target = read_chain(params), read_chain(like)
    leaves = named_leaves(params)
    if len(source.kernels) != len(target.kernels):
        raise ValueError(
            f"the checkpoint has {len(source.kernels)} layers and the model "
            f"{len(target.kernels)}: is it another architecture?"
        )
    values: dict[str, Any] = {}
    for index, (kernel, wanted) in enumerate(zip(source.kernels, target.kernels, strict=True)):
        if kernel.is_convolution:
            groups = 1
        elif index == 0:
            groups = channels
        else:
            before = source.kernels[index - 1]
            groups = before.fan_out if before.is_convolution else 1
        if kernel.fan_in % groups:
            raise ValueError(
                f"leaf {kernel.path!r} has {kernel.fan_in} inputs, which are no flattened images "
                f"of {groups} channels: is it trained on other images?"
            )
        moved = _move_axes(
            as_array(leaves[kernel.path]),
            kernel,
            groups,
            source.input_major,
            target.input_major,
        )
        if moved.shape != wanted.shape:
            raise ValueError(
                f"leaf {kernel.path!r} of shape {kernel.shape} becomes {moved.shape}, and the "
                f"model's {wanted.path!r} is {wanted.shape}: is it another width?"
            )
        values[wanted.path] = moved
    places = _places(source)
    for place, vector in _places(target).items():
        if place not in places:
            raise ValueError(f"the checkpoint has nothing for the model's leaf {vector.path!r}")
        values[vector.path] = as_array(leaves[places.pop(place).path])
    if places:
        left = next(iter(places.values()))
        raise ValueError(f"the model has no place for the checkpoint's leaf {left.path!r}")
    return map_named(
        lambda path, leaf: values[path].reshape(leaf.shape) if path in values else leaf, like
    )


def as_array(leaf: Any) -> Any:
    """Return a JAX or NumPy array: JAX would round a 64-bit one of NumPy's."""
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _places(chain: Chain) -> dict[Place, Vector]:
    """Say of every vector its space, whether it belongs to a map itself, and its role."""
    own = {kernel.layer for kernel in chain.kernels}
    places: dict[Place, Vector] = {}
    for vector, space in chain.vectors:
        name = vector.path.replace(".", "/").rsplit("/", 1)[-1].rstrip("0123456789")
        place = (space, vector.layer in own, _ROLES.get(name, name))
        if place in places:
            raise ValueError(
                f"leaves {places[place].path!r} and {vector.path!r} both are the {place[2]} of "
                f"space {space}: can't tell which layer of the model they belong to"
            )
        places[place] = vector
    return places


def _move_axes(
    leaf: Any,
    kernel: Kernel,
    channels: int,
    from_input_major: bool,
    to_input_major: bool,
) -> Any:
    if from_input_major == to_input_major:
        return leaf
    taps = [axis for axis in range(leaf.ndim) if axis not in (kernel.axis_in, kernel.axis_out)]
    if kernel.is_convolution:
        ends = [kernel.axis_in, kernel.axis_out]
        return leaf.transpose(taps + ends if to_input_major else ends[::-1] + taps)
    positions = kernel.fan_in // channels
    if to_input_major:
        return leaf.reshape(-1, channels, positions).transpose(2, 1, 0).reshape(kernel.shape[::-1])
    return leaf.reshape(positions, channels, -1).transpose(2, 1, 0).reshape(kernel.shape[::-1])
