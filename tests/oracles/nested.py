"""Nested permutations written out: entry by entry, and all there are."""

import itertools

import numpy as np

from jaxfuse.symmetry.permute import context_axes


def permute_block(block, tensor, symmetry, permutations):
    """Return the block whose entry at i is the old entry where the units of i come from."""
    new = np.empty_like(block)
    for index in np.ndindex(*tensor.shape):
        source = list(index)
        for axis, group in enumerate(tensor.groups):
            if group in permutations:
                entries = [index[other] for other in context_axes(symmetry, tensor, axis)]
                source[axis] = np.asarray(permutations[group])[(*entries, index[axis])]
        new[index] = block[tuple(source)]
    return new


def objective(params_a, params_b, symmetry, permutations):
    """Return the inner product of A and the reordered B over all blocks, in float64."""
    total = 0.0
    for tensor in symmetry.tensors:
        if any(tensor.groups) and not tensor.statistic:
            a, b = (tensor.take(np.float64(tree[tensor.path])) for tree in (params_a, params_b))
            total += np.vdot(a, permute_block(b, tensor, symmetry, permutations))
    return total


def draw(symmetry, seed):
    """Return random nested permutations, NumPy alone."""
    rng = np.random.default_rng(seed)
    return {
        group: rng.permuted(np.broadcast_to(np.arange(n), symmetry.shape(group)), axis=-1)
        for group, n in symmetry.sizes
    }


def every(symmetry):
    """Return all nested permutations of a symmetry."""
    choices = []
    for group, n in symmetry.sizes:
        *outer, _ = symmetry.shape(group)
        orders = list(itertools.permutations(range(n)))
        choices.append(
            [
                np.reshape(np.array(combined, np.int32), symmetry.shape(group))
                for combined in itertools.product(orders, repeat=int(np.prod(outer)))
            ]
        )
    names = list(symmetry.groups)
    return [dict(zip(names, choice, strict=True)) for choice in itertools.product(*choices)]


def multilinear(a, b, axes, matchings):
    """Return the sum over all pairs of entries of A and of B, `[..., r]`, one by one."""
    total, shape = 0.0, a.shape[:-1]
    for x in np.ndindex(*shape):
        for y in np.ndindex(*shape):
            weight = np.vdot(a[x], b[y])
            for own, matching in zip(axes, matchings, strict=True):
                sizes = [shape[axis] for axis in own]
                row, column = (
                    np.ravel_multi_index([z[axis] for axis in own], sizes) for z in (x, y)
                )
                weight = weight * matching[row, column]
            total += weight
    return total
