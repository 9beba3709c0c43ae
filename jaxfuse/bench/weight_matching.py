"""The peer: Git Re-Basin's weight matching as a plain Python loop over NumPy and SciPy."""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxfuse.symmetry import Symmetry, TensorAxes

Named = Mapping[str, np.ndarray]
Permutations = dict[str, np.ndarray]
Block = tuple[TensorAxes, np.ndarray, np.ndarray]


def weight_matching(
    params_a: Named, params_b: Named, symmetry: Symmetry, *, seed: int, max_sweeps: int = 100
) -> tuple[Permutations, int]:
    """Match one layer at a time, in a new random order every sweep, until no layer gains.

    Algorithm 1 of Git Re-Basin (Ainsworth et al., ICLR 2023), with the stopping rule of its
    released code: a sweep in which no layer's score rose by more than 1e-12.

    Args:
        params_a: the leaves of the reference, by path.
        params_b: those of the network to reorder.
        symmetry: which axes must be permuted together; without groups that others index.
        seed: of the order of the layers.
        max_sweeps: most passes over all layers.

    Returns:
        Per group a permutation, and the number of sweeps.
    """
    rng = np.random.default_rng(seed)
    permutations = {group: np.arange(size) for group, size in symmetry.sizes}
    groups = list(permutations)
    blocks = weight_blocks(params_a, params_b, symmetry)
    sweeps, gained = 0, True
    while gained and sweeps < max_sweeps:
        sweeps, gained = sweeps + 1, False
        for index in rng.permutation(len(groups)):
            group = groups[index]
            scores = layer_scores(blocks, permutations, group)
            rows, columns = linear_sum_assignment(scores, maximize=True)
            gain = scores[rows, columns].sum() - scores[rows, permutations[group]].sum()
            gained |= bool(gain > 1e-12)
            permutations[group] = columns
    return permutations, sweeps


def weight_blocks(params_a: Named, params_b: Named, symmetry: Symmetry) -> list[Block]:
    """Return every tensor that counts, viewed by its groups, of A and of B."""
    return [
        (tensor, tensor.take(params_a[tensor.path]), tensor.take(params_b[tensor.path]))
        for tensor in symmetry.tensors
        if not tensor.statistic
    ]


def layer_scores(blocks: list[Block], permutations: Permutations, group: str) -> np.ndarray:
    """Compare every unit of a group of A with every unit of B, all other layers held."""
    size = len(permutations[group])
    scores = np.zeros((size, size))
    for tensor, block_a, block_b in blocks:
        if group not in tensor.groups:
            continue
        axis = tensor.groups.index(group)
        others = {name: order for name, order in permutations.items() if name != group}
        moved = reorder(block_b, tensor, others)
        flat_a, flat_b = (np.moveaxis(w, axis, 0).reshape(size, -1) for w in (block_a, moved))
        scores += flat_a @ flat_b.T
    return scores


def reorder(leaf: np.ndarray, tensor: TensorAxes, permutations: Permutations) -> np.ndarray:
    """Return a whole leaf, or its block, in the shape of its groups, the named ones reordered."""
    leaf = leaf.reshape(tensor.shape)
    for axis, group in enumerate(tensor.groups):
        if group in permutations:
            leaf = np.take(leaf, permutations[group], axis=axis)
    return leaf


def linear_objective(
    params_a: Named, params_b: Named, symmetry: Symmetry, permutations: Permutations
) -> float:
    """Return the inner product of A with the reordered B, over all tensors, in float64."""
    return float(
        sum(
            np.vdot(
                block_a.astype(np.float64),
                reorder(block_b, tensor, permutations).astype(np.float64),
            )
            for tensor, block_a, block_b in weight_blocks(params_a, params_b, symmetry)
        )
    )
