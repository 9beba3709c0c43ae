"""Tensors of one shape side by side, so that a program has one operation for all of them."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

Link = tuple[str, ...]
Block = TypeVar("Block")


def stack_blocks(
    blocks: Sequence[Block], links: Sequence[Link], axis: int = 0
) -> tuple[tuple[Block, ...], tuple[tuple[Link, ...], ...]]:
    """Put blocks of one structure and shape side by side: what is compiled grows with the shapes.

    Args:
        blocks: one per tensor, pytrees of arrays. One whose `batched` is False stays alone.
        links: per block its nodes.
        axis: the new axis of every array, over the tensors.

    Returns:
        The stacks, and per stack and tensor its nodes.

    Examples:
        >>> arrays = [jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.zeros((2, 3))]
        >>> stacks, links = stack_blocks(arrays, [("a", "b"), ("c", "b"), ("b", "a")])
        >>> [stack.shape for stack in stacks], links
        ([(2, 2, 3), (1, 4, 3)], ((('a', 'b'), ('b', 'a')), (('c', 'b'),)))
    """
    members: dict[object, list[int]] = {}
    for index, block in enumerate(blocks):
        leaves, structure = jax.tree.flatten(block)
        shape = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        alone = index if getattr(block, "batched", True) is False else None
        members.setdefault((structure, shape, len(links[index]), alone), []).append(index)
    stacks = tuple(
        jax.tree.map(lambda *own: jnp.stack(own, axis=axis), *(blocks[i] for i in chosen))
        for chosen in members.values()
    )
    return stacks, tuple(tuple(links[i] for i in chosen) for chosen in members.values())


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
