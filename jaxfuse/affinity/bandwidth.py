"""The width of a Gaussian kernel, chosen from the edges it compares."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_SAMPLE = 512


def strided_sample(edges: jax.Array, count: int) -> jax.Array:
    """Take about `count` edges `[count, e]` spread evenly over `[n, m, e]`, always the same ones.

    The stride is coprime with the number of edges, so that no row or column is preferred.
    """
    flat = edges.reshape(-1, edges.shape[-1])
    total = flat.shape[0]
    if total <= count:
        return flat
    step = int(total * 0.6180339887)
    while np.gcd(step, total) != 1:
        step += 1
    return flat[(np.arange(count, dtype=np.int64) * step) % total]


def squared_bandwidth(edges: Sequence[jax.Array], multiple: float) -> jax.Array:
    """Return sigma in k(x, y) = exp(-|x - y|^2 / sigma) as a multiple of the median |x - y|^2.

    Weights differ in scale from tensor to tensor by orders of magnitude; one fixed sigma would
    make the kernel constant on some and zero on the others. The median is over pairs of one edge
    of a network and one of the next, on an even sample of 512 each.

    Args:
        edges: of two networks or more, `[n, m, e]` each.
        multiple: sigma over the median squared distance.

    Returns:
        A positive float32 scalar; one where all the edges are equal.

    Examples:
        >>> import jax.numpy as jnp
        >>> squared_bandwidth([jnp.zeros((2, 2, 1)), jnp.full((2, 2, 1), 3.0)], 2.0)
        Array(18., dtype=float32)
    """
    distances = [sampled_distances(one, two).ravel() for one, two in itertools.pairwise(edges)]
    median = jnp.median(jnp.concatenate(distances))
    return multiple * jnp.where(median > 0, median, 1.0)


def sampled_distances(edges_a: jax.Array, edges_b: jax.Array) -> jax.Array:
    """Return |x - y|^2 between at most 512 edges of A and 512 of B."""
    return squared_distances(strided_sample(edges_a, _SAMPLE), strided_sample(edges_b, _SAMPLE))


def squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return |x - y|^2 `[n, m]` between vectors `[n, e]` and `[m, e]`, never negative."""
    x, y = centre_edges(x, y)
    cross = jnp.dot(x, y.T, precision=jax.lax.Precision.HIGHEST)
    square_x, square_y = jnp.sum(x * x, axis=-1), jnp.sum(y * y, axis=-1)
    return jnp.maximum(square_x[:, None] + square_y[None, :] - 2 * cross, 0.0)


def centre_edges(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Subtract the mean of the edges y `[..., e]` from both, which changes no distance.

    A common offset, as the scales of a normalisation layer have, would cost products digits.
    """
    centre = jnp.mean(y, axis=tuple(range(y.ndim - 1)), keepdims=True)
    return x - centre, y - centre
