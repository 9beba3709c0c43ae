"""Choose the rank of the Gaussian features by the error they leave on the edges at hand."""

import functools
from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.affinity.exact_gaussian import ExactGaussian
from jaxfuse.affinity.gaussian import Gaussian
from jaxfuse.affinity.terms import list_terms
from jaxfuse.symmetry.spec import Symmetry

RANKS = (8, 16, 32, 64, 128, 256)
_UNITS = 48


def resolve_rank(
    affinity: Gaussian,
    weights_a: Mapping[str, jax.Array],
    weights_b: Mapping[str, jax.Array],
    symmetry: Symmetry,
    tolerance: float = 0.01,
) -> Gaussian:
    """Return the affinity with the fewest features that keep a tolerance on every tensor.

    The error is measured on the edges between at most 48 units of each group, spread evenly, with
    both kernels at the same bandwidth. Looks at values, so it is for use outside jit.

    Args:
        affinity: the affinity; its `rank` and `terms` do not count.
        weights_a: the leaves of A by path, with values.
        weights_b: those of B.
        symmetry: which axes carry groups.
        tolerance: double-centred relative error of the scores that is allowed.

    Returns:
        The affinity with `rank` set for its vector edges and `terms` for its scalar ones, each of
        8, 16, ..., 256; 256 where even that leaves a larger error.
    """
    needed = {"rank": RANKS[0], "terms": RANKS[0]}
    for term in list_terms(symmetry):
        sample_a = _subsample(term.edges(weights_a[term.tensor.path]))
        sample_b = _subsample(term.edges(weights_b[term.tensor.path]))
        kind = "terms" if sample_a.shape[-1] == 1 else "rank"
        for features in RANKS[RANKS.index(needed[kind]) :]:
            needed[kind] = features
            if score_error(replace(affinity, **needed), sample_a, sample_b) <= tolerance:
                break
    return replace(affinity, **needed)


def score_error(affinity: Gaussian, edges_a: jax.Array, edges_b: jax.Array) -> float:
    """Return the double-centred relative error of the scores against the exact kernel.

    Args:
        affinity: Gaussian features of a given rank.
        edges_a: `[n, m, e]`, small enough for the exact kernel.
        edges_b: `[n, m, e]`.
    """
    return float(_score_error(affinity, edges_a, edges_b))


@functools.partial(jax.jit, static_argnames="affinity")
def _score_error(affinity: Gaussian, edges_a: jax.Array, edges_b: jax.Array) -> jax.Array:
    exact = _centred(ExactGaussian(affinity.bandwidth).node_scores(edges_a, edges_b))
    short = _centred(affinity.node_scores(edges_a, edges_b))
    size = jnp.linalg.norm(exact)
    return jnp.where(size > 0, jnp.linalg.norm(exact - short) / jnp.where(size > 0, size, 1.0), 0.0)


def _centred(scores: jax.Array) -> jax.Array:
    rows = jnp.mean(scores, axis=1, keepdims=True)
    return scores - rows - jnp.mean(scores, axis=0, keepdims=True) + jnp.mean(scores)


def _subsample(array: jax.Array) -> jax.Array:
    rows, columns = (
        np.unique(np.linspace(0, size - 1, min(size, _UNITS)).astype(int))
        for size in array.shape[:2]
    )
    return array[rows][:, columns]
