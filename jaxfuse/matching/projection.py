"""Project the scores of all groups: on permutations, or on doubly stochastic matrices."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.assignment import Potentials, hungarian, sinkhorn
from jaxfuse.matching.problem import Backend


def assign(scores: Mapping[str, jax.Array], backend: Backend = "auto") -> dict[str, jax.Array]:
    """Return the best permutation, int32 `[n]`, for the scores `[n, n]` of every group.

    Groups of one size go to the host in one call.
    """
    return _by_size(lambda stacked: hungarian(stacked, backend=backend).columns, scores)


def soften(
    scores: Mapping[str, jax.Array],
    tau: Mapping[str, jax.Array],
    potentials: Mapping[str, Potentials],
    iterations: int,
) -> tuple[dict[str, jax.Array], dict[str, Potentials]]:
    """Return the doubly stochastic matrix of every group at temperature tau.

    Args:
        scores: per group `[n, n]`.
        tau: per group a temperature.
        potentials: per group the potentials to start from.
        iterations: Sinkhorn iterations.

    Returns:
        The plans, and the potentials they end with.
    """

    def project(
        stacked: jax.Array, taus: jax.Array, start: Potentials
    ) -> tuple[jax.Array, Potentials]:
        result = sinkhorn(stacked, taus, iterations=iterations, initial=start)
        return result.plan, result.potentials

    both = _by_size(project, scores, tau, potentials)
    return {g: plan for g, (plan, _) in both.items()}, {g: f for g, (_, f) in both.items()}


def _by_size(
    function: Callable[..., Any], scores: Mapping[str, jax.Array], *others: Mapping[str, Any]
) -> dict[str, Any]:
    """Call a batched function once for all the groups of one size."""
    results: dict[str, Any] = {}
    for size in sorted({matrix.shape[-1] for matrix in scores.values()}):
        groups = [group for group, matrix in scores.items() if matrix.shape[-1] == size]
        stacked = [_stack(tree[group] for group in groups) for tree in (scores, *others)]
        result = function(*stacked)
        for index, group in enumerate(groups):
            results[group] = jax.tree.map(lambda array, i=index: array[i], result)
    return {group: results[group] for group in scores}


def _stack(trees: Iterable[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
