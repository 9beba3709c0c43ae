"""Bring a checkpoint into the tree and the layout of a model."""

from typing import Any

from jaxfuse.checkpoints.layout import convert_chain
from jaxfuse.checkpoints.names import convert_by_names
from jaxfuse.symmetry.chain import read_chain
from jaxfuse.symmetry.chain.layers import REMEDY

PyTree = Any


def convert(params: PyTree, like: PyTree, *, channels: int = 1) -> PyTree:
    """Bring the parameters of a network into the names and layout of a model.

    Feed-forward chains are converted by the order of their layers, whatever they are called, with
    the inputs of a dense kernel behind a flatten in the order of the model's layout. All other
    networks, such as residual ones, are converted by the names of their leaves, which must be the
    model's up to the words of PyTorch and Flax (`layer1.0.conv1.weight` is `layer1/0/conv1/kernel`,
    `running_var` is `var`). Kernels `[out, in, ...]` become `[..., in, out]`, or the other way
    round; leaves that are no real numbers, such as counters, are the model's.

    Args:
        params: a checkpoint, in either layout.
        like: the parameters of the model, or their shapes.
        channels: of the images that a chain flattens before its first map, if that is dense: no
            parameter tells. One, as for vectors and grey images, has but one order.

    Returns:
        A tree like `like` with the values of `params`, in their own dtypes.

    Raises:
        ValueError: if the two do not fit each other, with the leaves that are missing or have
            another shape; for a dense kernel of another network than a chain that may read a
            flattened image of the other layout.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> torch = {"fc1.weight": jnp.zeros((8, 4)), "fc2.weight": jnp.zeros((3, 8))}
        >>> flax = {"dense": [{"kernel": jnp.ones((4, 8))}, {"kernel": jnp.ones((8, 3))}]}
        >>> jax.tree.map(jnp.shape, convert(torch, flax))
        {'dense': [{'kernel': (4, 8)}, {'kernel': (8, 3)}]}
    """
    try:
        return convert_chain(params, like, channels=channels)
    except ValueError as error:
        by_order = str(error).removesuffix(REMEDY).strip()
    # Names know nothing of a flatten: where the layouts of two chains differ, order has the say.
    if _are_chains_of_two_layouts(params, like):
        raise ValueError(by_order)
    try:
        return convert_by_names(params, like)
    except ValueError as error:
        by_names = str(error)
    raise ValueError(f"{by_names} (nor does it fit as a chain of layers: {by_order})")


def _are_chains_of_two_layouts(params: PyTree, like: PyTree) -> bool:
    try:
        return read_chain(params).input_major != read_chain(like).input_major
    except ValueError:
        return False
