"""Tensors of one shape side by side, so that a program has one operation for all of them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Link = tuple[str, ...]
Block = TypeVar("Block")


def alike(blocks: Sequence[Any], links: Sequence[Link]) -> tuple[tuple[int, ...], ...]:
    """Return the indices of blocks of one structure and shape, which can be put side by side.

    Args:
        blocks: one per tensor, pytrees of arrays. One whose `batched` is False stays alone.
        links: per block its nodes.

    Examples:
        >>> arrays = [jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.zeros((2, 3))]
        >>> alike(arrays, [("a", "b"), ("c", "b"), ("b", "a")])
        ((0, 2), (1,))
    """
    members: dict[object, list[int]] = {}
    for index, block in enumerate(blocks):
        leaves, structure = jax.tree.flatten(block)
        shape = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        alone = index if getattr(block, "batched", True) is False else None
        members.setdefault((structure, shape, len(links[index]), alone), []).append(index)
    return tuple(map(tuple, members.values()))


def stack(
    blocks: Sequence[Block], members: Sequence[Sequence[int]], axis: int = 0
) -> tuple[Block, ...]:
    """Put blocks that are alike side by side: what is compiled grows with the shapes.

    Args:
        blocks: one per tensor, pytrees of arrays.
        members: the indices of those of one stack, as `alike` finds them.
        axis: the new axis of every array, over the tensors.
    """
    return tuple(
        jax.tree.map(lambda *own: jnp.stack(own, axis=axis), *(blocks[i] for i in chosen))
        for chosen in members
    )


def grouped(
    links: Sequence[Link], members: Sequence[Sequence[int]]
) -> tuple[tuple[Link, ...], ...]:
    """Return the nodes of every tensor, stack by stack."""
    return tuple(tuple(links[i] for i in chosen) for chosen in members)


def stack_slots(
    values: Mapping[str, jax.Array], links: Sequence[Link], axis: int = 0
) -> tuple[jax.Array, ...]:
    """Return per slot of a link the values of its nodes in all tensors of a stack.

    Args:
        values: per node an array.
        links: per tensor its nodes.
        axis: the new axis, over the tensors.
    """
    slots = range(len(links[0]))
    return tuple(jnp.stack([values[link[slot]] for link in links], axis=axis) for slot in slots)


def tensor_of(stack: Block, index: int) -> Block:
    """Return the block of one tensor of a stack."""
    return jax.tree.map(lambda array: array[index], stack)
