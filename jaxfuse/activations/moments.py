"""Joint means and covariances of the units of K networks, in one pass over the data."""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.activations.batches import fold_batches
from jaxfuse.affinity.block import HIGHEST
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.networks import Networks
from jaxfuse.symmetry import record_activations
from jaxfuse.symmetry.spec import Symmetry

PyTree = Any
Role = Literal["input", "output"]


class Site(NamedTuple):
    """Joint moments at one place of the program, of the units of K networks side by side.

    Attributes:
        count: number of samples, float32.
        mean: `[n_0 + ... + n_{K-1}]`.
        scatter: sum over the samples of the products of deviations from the mean,
            `[sum n_k, sum n_k]`.
    """

    count: jax.Array
    mean: jax.Array
    scatter: jax.Array

    @property
    def covariance(self) -> jax.Array:
        """The covariance, the sum over samples divided by their number."""
        return self.scatter / self.count


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Joint moments of the activations of K networks on the same samples.

    A node is a group, or one entry of a stacked group, with the units of all entries that index
    it side by side, as in `jaxfuse.matching.nodes`.

    Attributes:
        sites: per node the places of the program where its units are seen, in its order.
        widths: per node the number of units of each network.
    """

    sites: dict[str, tuple[Site, ...]]
    widths: tuple[tuple[str, tuple[int, ...]], ...] = field(metadata={"static": True})

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of samples together."""
        sites = {
            node: tuple(_merge(a, b) for a, b in zip(own, other.sites[node], strict=True))
            for node, own in self.sites.items()
        }
        return Moments(sites, self.widths)

    def split(self, node: str, array: jax.Array, axis: int = -1) -> list[jax.Array]:
        """Cut an axis over the units of all networks into one part for each network."""
        ends = np.cumsum(dict(self.widths)[node])[:-1]
        return jnp.split(array, ends, axis=axis)

    def covariance(self, node: str) -> jax.Array:
        """Return the covariance `[sum n_k, sum n_k]` of a node, the mean over its sites."""
        return _mean([site.covariance for site in self.sites[node]])

    def correlation(self, node: str) -> jax.Array:
        """Return the correlation `[sum n_k, sum n_k]`, the mean over sites; 0 for dead units."""
        return _mean([_correlation(site) for site in self.sites[node]])

    def between(self, node: str, array: jax.Array, k: int, l: int) -> jax.Array:  # noqa: E741
        """Return the part `[n_k, n_l]` of a joint matrix that belongs to two networks."""
        return self.split(node, self.split(node, array, axis=0)[k], axis=1)[l]


def measure_moments(
    networks: Networks, *, role: Role = "output", batch_size: int | None = 100
) -> Moments:
    """Run K networks on a batch and measure the joint moments of their units.

    One pass: every network runs on a part of the batch, the products of its units with those of
    all networks are added up, and the activations are forgotten. Batch, positions and time steps
    are samples. Batches that come one by one are joined with `Moments.merge`.

    Args:
        networks: the networks, their function and the data.
        role: "output" for what layers compute, before bias and nonlinearity; "input" for what
            layers take, after it.
        batch_size: examples that are in flight at once; None for all inputs as they are, as where
            they are no examples but one graph.

    Returns:
        The moments. Groups that no layer's activation carries are missing.

    Raises:
        ValueError: without a function and data, and where the inputs disagree on the number of
            examples.

    Works under `jit`; differentiable.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.symmetry import infer_symmetry
        >>> mlp = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> params = {"in": jnp.ones((4, 8)), "out": jnp.ones((8, 2))}
        >>> x = jnp.ones((5, 4))
        >>> symmetry = infer_symmetry(mlp, params, x)
        >>> both = Networks((params, params), (symmetry, symmetry), (x,), None, mlp)
        >>> measure_moments(both).covariance("in").shape
        (16, 16)
    """
    networks.function("measure_moments")
    return _measure(networks, role, batch_size)


@functools.partial(jax.jit, static_argnames=("role", "batch_size"))
def _measure(networks: Networks, role: Role, batch_size: int | None) -> Moments:
    def part(inputs: tuple[PyTree, ...], networks: Networks) -> Moments:
        return _moments_of(networks, role, inputs)

    return fold_batches(part, Moments.merge, networks.inputs, batch_size, networks)


def _moments_of(networks: Networks, role: Role, inputs: tuple[PyTree, ...]) -> Moments:
    recorded = [
        record_nodes(symmetry, networks.function("measure_moments"), params, inputs, role)
        for params, symmetry in zip(networks.params, networks.symmetries, strict=True)
    ]
    sites, widths = {}, []
    for node, first in recorded[0].items():
        arrays = [each[node] for each in recorded]
        widths.append((node, tuple(each[0].shape[1] for each in arrays)))
        sites[node] = tuple(
            _site(jnp.concatenate([each[place] for each in arrays], axis=1))
            for place in range(len(first))
        )
    return Moments(sites, tuple(widths))


def record_nodes(
    symmetry: Symmetry,
    apply_fn: Any,
    params: PyTree,
    inputs: Sequence[PyTree],
    role: Role = "output",
) -> dict[str, tuple[jax.Array, ...]]:
    """Run one network and return per node its activations, `[samples, n]` for every place.

    Args:
        symmetry: the groups.
        apply_fn: `apply_fn(params, *inputs)`.
        params: its parameters.
        inputs: a batch.
        role: as in `measure_moments`.

    Returns:
        Per node that layers compute or take, its activations in the order of the program, float32.
    """
    recorded = record_activations(symmetry, apply_fn, params, *inputs, role=role)
    return _by_node(symmetry, recorded)


def _by_node(
    symmetry: Symmetry, recorded: Mapping[str, tuple[jax.Array, ...]]
) -> dict[str, tuple[jax.Array, ...]]:
    result: dict[str, tuple[jax.Array, ...]] = {}
    for name, node in list_nodes(symmetry).items():
        if node.group not in recorded:
            continue
        entries = iter(node.entries)
        contexts = symmetry.contexts(node.group)
        at = tuple(slice(None) if c in symmetry.groups else next(entries) for c in contexts)
        result[name] = tuple(
            array[(slice(None), *at)].reshape(-1, math.prod(node.shape)).astype(jnp.float32)
            for array in recorded[node.group]
        )
    return result


def _site(samples: jax.Array) -> Site:
    mean = jnp.mean(samples, axis=0)
    centred = samples - mean[None, :]
    scatter = jnp.dot(centred.T, centred, precision=HIGHEST)
    return Site(jnp.float32(len(samples)), mean, scatter)


def _merge(a: Site, b: Site) -> Site:
    """Join the moments of two sets of samples (Chan, Golub and LeVeque, 1979)."""
    count = a.count + b.count
    shift = b.mean - a.mean
    scatter = a.scatter + b.scatter + jnp.outer(shift, shift) * (a.count * b.count / count)
    return Site(count, a.mean + shift * (b.count / count), scatter)


def _correlation(site: Site) -> jax.Array:
    variance = jnp.diagonal(site.scatter)
    floor = 1e-6 * jnp.mean(variance)
    alive = variance > floor
    scale = jnp.where(alive, jax.lax.rsqrt(jnp.where(alive, variance, 1.0)), 0.0)
    return site.scatter * scale[:, None] * scale[None, :]


def _mean(arrays: Sequence[jax.Array]) -> jax.Array:
    return sum(itertools.islice(arrays, 1, None), start=arrays[0]) / len(arrays)
