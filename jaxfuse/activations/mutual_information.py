"""The mutual information of the units of two networks."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

from jaxfuse.activations.batches import fold_batches
from jaxfuse.activations.moments import Moments, Role, Site, record_nodes
from jaxfuse.networks import Networks

PyTree = Any
Counts = dict[str, tuple[jax.Array, ...]]


def measure_mutual_information(
    networks: Networks,
    moments: Moments,
    *,
    role: Role = "output",
    bins: int = 10,
    batch_size: int | None = 100,
) -> dict[str, jax.Array]:
    """Measure the mutual information of the units of two networks, in bits.

    Every unit is cut into bins at the quantiles of the normal distribution with its own mean and
    standard deviation, and the pairs of bins that two units fall in are counted: products of
    matrices of zeros and ones, added up batch by batch. Li et al., "Convergent learning: do
    different neural networks learn the same representations?" (2015), match units by it as they do
    by correlation; unlike that, it sees dependence that is not linear and is blind to sign. From S
    samples it is too high by about `(bins - 1)^2 / (2 S ln 2)` bits for every pair alike.

    Args:
        networks: two networks of any widths, their function and the data.
        moments: theirs, on these inputs or a sample like them: they place the bins.
        role: as in `measure_moments`, and as there.
        bins: number of bins of a unit.
        batch_size: as in `measure_moments`.

    Returns:
        Per node float32 `[n_0, n_1]`: 0 for dead units, at most `log2(bins)`. Where a node is seen
        at several places the mean over them. The counts take `n_0 n_1 bins^2` floats for each.

    Raises:
        ValueError: for fewer than two bins, for other than two networks, and as `measure_moments`.

    Works under `jit`. Its derivative is zero: counts do not change with small changes.

    Examples:
        >>> from jaxfuse.activations.moments import measure_moments
        >>> from jaxfuse.symmetry import infer_symmetry
        >>> mlp = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> params = {"in": jnp.eye(4), "out": jnp.ones((4, 2))}
        >>> x = jax.random.normal(jax.random.key(0), (1000, 4))
        >>> symmetry = infer_symmetry(mlp, params, x)
        >>> both = Networks((params, params), (symmetry, symmetry), (x,), None, mlp)
        >>> bits = measure_mutual_information(both, measure_moments(both), bins=4)["in"]
        >>> bits.round(1)[0].tolist()
        [2.0, 0.0, 0.0, 0.0]
    """
    if bins < 2:
        raise ValueError(f"bins must be 2 or more, got {bins}")
    if networks.count != 2:
        raise ValueError(f"mutual information is of two networks, got {networks.count}")

    networks.function("mutual information")
    part = functools.partial(_count_part, role=role, bins=bins)
    total = fold_batches(part, _add, networks.inputs, batch_size, networks, moments)
    result = {}
    for node, counts in total.items():
        first, *rest = (_bits(each, bins) for each in counts)
        result[node] = sum(rest, start=first) / len(counts)
    return result


def _count_part(
    inputs: tuple[PyTree, ...], networks: Networks, moments: Moments, role: Role, bins: int
) -> Counts:
    recorded = [
        record_nodes(symmetry, networks.function("mutual information"), params, inputs, role)
        for params, symmetry in zip(networks.params, networks.symmetries, strict=True)
    ]
    return {
        node: tuple(
            _count_pairs(moments, node, site, [each[node][place] for each in recorded], bins)
            for place, site in enumerate(sites)
        )
        for node, sites in moments.sites.items()
    }


def _count_pairs(
    moments: Moments, node: str, site: Site, samples: Sequence[jax.Array], bins: int
) -> jax.Array:
    """Count the samples in every pair of bins of two units, `[n_0 * bins, n_1 * bins]`."""
    edges = jnp.asarray(ndtri(np.arange(1, bins) / bins), jnp.float32)
    variance = jnp.diagonal(site.covariance)
    scale = jnp.where(variance > 0, jax.lax.rsqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    parts = zip(samples, moments.split(node, site.mean), moments.split(node, scale), strict=True)
    marks = []
    for values, mean, factor in parts:
        standard = (values - mean[None, :]) * factor[None, :]
        codes = jnp.sum(standard[:, :, None] > edges[None, None, :], axis=-1)
        marks.append(jax.nn.one_hot(codes, bins).reshape(len(codes), -1))
    return jnp.dot(marks[0].T, marks[1])  # zeros and ones are exact in any precision


def _bits(counts: jax.Array, bins: int) -> jax.Array:
    n, m = (size // bins for size in counts.shape)
    joint = counts.reshape(n, bins, m, bins)
    joint = joint / jnp.sum(joint, axis=(1, 3), keepdims=True)
    alone = jnp.sum(joint, axis=3, keepdims=True) * jnp.sum(joint, axis=1, keepdims=True)
    ratio = jnp.where(joint > 0, joint / jnp.where(joint > 0, alone, 1.0), 1.0)
    return jnp.sum(joint * jnp.log2(ratio), axis=(1, 3))


def _add(left: Counts, right: Counts) -> Counts:
    return jax.tree.map(jnp.add, left, right)
