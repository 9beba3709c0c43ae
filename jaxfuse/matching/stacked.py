"""Tensors of one shape side by side, so that a program has one operation for all of them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Link = tuple[str, ...]
Indices = Sequence[int] | jax.Array
Block = TypeVar("Block")


def alike(
    blocks: Sequence[Any], links: Sequence[Link], lead: int = 0
) -> tuple[tuple[int, ...], ...]:
    """Return the indices of blocks of one structure and shape, which can be put side by side.

    Args:
        blocks: pytrees of arrays. One whose `batched` is False stays alone.
        links: per block its nodes, or those of one of its tensors.
        lead: number of first axes of the arrays that may differ.

    Examples:
        >>> arrays = [jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.zeros((2, 3))]
        >>> alike(arrays, [("a", "b"), ("c", "b"), ("b", "a")])
        ((0, 2), (1,))
    """
    members: dict[object, list[int]] = {}
    for index, block in enumerate(blocks):
        leaves, structure = jax.tree.flatten(block)
        shape = tuple((leaf.shape[lead:], leaf.dtype) for leaf in leaves)
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


def concatenate(stacks: Sequence[Block], members: Sequence[Sequence[int]]) -> tuple[Block, ...]:
    """Join stacks that are alike along their first axis.

    Args:
        stacks: pytrees of arrays.
        members: the indices of those of one stack, as `alike` finds them.
    """
    return tuple(
        jax.tree.map(lambda *own: jnp.concatenate(own), *(stacks[i] for i in chosen))
        if len(chosen) > 1
        else stacks[chosen[0]]
        for chosen in members
    )


def pick(stack: jax.Array, indices: Indices) -> jax.Array:
    """Return entries of a stack; where they are known beforehand and adjacent, without a gather."""
    if isinstance(indices, jax.Array):
        if len(indices) == 1:
            return lax.dynamic_slice_in_dim(stack, indices[0], 1)
        return jnp.take(stack, indices, axis=0, mode="clip")
    first, count = indices[0], len(indices)
    if tuple(indices) != tuple(range(first, first + count)):
        return stack[np.asarray(indices)]
    return stack if count == len(stack) else lax.slice_in_dim(stack, first, first + count)


def put(stack: jax.Array, indices: Indices, values: jax.Array) -> jax.Array:
    """Return a stack with other values at some entries, all of them different."""
    if isinstance(indices, jax.Array):
        if len(indices) == 1:
            return lax.dynamic_update_slice_in_dim(stack, values, indices[0], 0)
        return stack.at[indices].set(values, unique_indices=True)
    if tuple(indices) == tuple(range(len(stack))):
        return values
    return stack.at[np.asarray(indices)].set(values, unique_indices=True)


def entries(table: Sequence[int], indices: Indices) -> Indices:
    """Return entries of a table of int, known beforehand where the indices are."""
    if isinstance(indices, jax.Array):
        return jnp.asarray(table, jnp.int32)[indices]
    return tuple(table[index] for index in indices)


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
