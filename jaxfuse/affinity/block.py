"""One tensor's share of the objective: the affinity of its edges, never as a 4-D array."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxfuse.affinity.products import HIGHEST, Products, dot


class SecondMoment(NamedTuple):
    """The mean square of the affinity of unrelated edges, as a product of unit energies.

    For edges (i, a) of A and (j, b) of B that have nothing to do with each other, the square of
    the double-centred k is about `scale * row_a[i] * column_a[a] * row_b[j] * column_b[b]`.

    Attributes:
        scale: the mean over all pairs of edges.
        row_a: energy of every row unit of A relative to the mean, `[n]`.
        column_a: the same of its column units, `[m]`.
        row_b: the same of the row units of B, `[n]`.
        column_b: the same of its column units, `[m]`.
    """

    scale: jax.Array
    row_a: jax.Array
    column_a: jax.Array
    row_b: jax.Array
    column_b: jax.Array


class Block(Protocol):
    """The affinity of the edges of one tensor that joins two groups g and h.

    For matchings P `[n, n]` of g and Q `[m, m]` of h the block's share of the objective is
    `J(P, Q) = sum_ij sum_ab P[i, j] k(A[i, a], B[j, b]) Q[a, b]`.
    """

    def value(self, p: jax.Array, q: jax.Array) -> jax.Array:
        """Return J(P, Q), differentiable in both."""
        ...

    def value_at(self, p: jax.Array, q: jax.Array) -> jax.Array:
        """Return J at two permutations, int32 `[n]` and `[m]`."""
        ...

    def row_scores(self, q: jax.Array) -> jax.Array:
        """Return dJ/dP `[n, n]` where Q is a permutation, int32 `[m]`."""
        ...

    def column_scores(self, p: jax.Array) -> jax.Array:
        """Return dJ/dQ `[m, m]` where P is a permutation, int32 `[n]`."""
        ...

    def second_moment(self) -> SecondMoment:
        """Return how large k is between unrelated edges: the noise of the scores."""
        ...


class Affinity(Protocol):
    """A kernel k on edges, that turns the edges of two networks into blocks and node scores."""

    def block(self, edges_a: jax.Array, edges_b: jax.Array) -> Block:
        """Compare edges `[n, m, e]` of a tensor that joins two groups."""
        ...

    def node_scores(self, edges_a: jax.Array, edges_b: jax.Array) -> jax.Array:
        """Compare edges `[n, pinned, e]` to units matched to themselves; return `[n, n]`."""
        ...


@runtime_checkable
class FeatureAffinity(Affinity, Protocol):
    """An affinity whose kernel is an inner product of features, as many networks need it."""

    def features(self, *edges: jax.Array) -> tuple[jax.Array, ...]:
        """Return the features `[n, r, m]` of the edges `[n, m, e]` of two networks or more."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FeatureBlock:
    """A block whose kernel is an inner product of r features: r pairs of matrix products.

    `J(P, Q) = sum_r <P, A_r Q B_r^T>`. The features lie between the two unit axes, so that every
    contraction is one matrix product of contiguous arrays.

    Attributes:
        a: features of the edges of A, `[n, r, m]`.
        b: features of the edges of B, `[n, r, m]`.
        products: whether the factors of products are rounded to bfloat16; `value_at` has none.
    """

    a: jax.Array
    b: jax.Array
    products: Products = field(default="float32", metadata={"static": True})

    def value(self, p: jax.Array, q: jax.Array) -> jax.Array:
        """Return J(P, Q), differentiable in both."""
        n, r, m = self.a.shape
        moved = dot(self.a.reshape(n * r, m), q, self.products)
        scores = dot(moved.reshape(n, r * m), self.b.reshape(n, r * m).T, self.products)
        return jnp.vdot(p, scores, precision=HIGHEST)

    def value_at(self, p: jax.Array, q: jax.Array) -> jax.Array:
        """Return J at two permutations, int32 `[n]` and `[m]`."""
        rows = jnp.take(self.b, p, axis=0, mode="clip")
        return jnp.sum(self.a * jnp.take(rows, q, axis=2, mode="clip"))

    def row_scores(self, q: jax.Array) -> jax.Array:
        """Return dJ/dP `[n, n]` where Q is a permutation, int32 `[m]`."""
        n, r, m = self.a.shape
        moved = jnp.take(self.b, q, axis=2, mode="clip")
        return dot(self.a.reshape(n, r * m), moved.reshape(n, r * m).T, self.products)

    def column_scores(self, p: jax.Array) -> jax.Array:
        """Return dJ/dQ `[m, m]` where P is a permutation, int32 `[n]`."""
        n, r, m = self.a.shape
        moved = jnp.take(self.b, p, axis=0, mode="clip")
        return dot(self.a.reshape(n * r, m).T, moved.reshape(n * r, m), self.products)

    def second_moment(self) -> SecondMoment:
        """Return how large k is between unrelated edges: the noise of the scores."""
        # One program for both.
        covariances, rows, columns = jax.vmap(_moments)(jnp.stack([self.a, self.b]))
        scale = jnp.vdot(*covariances, precision=HIGHEST)
        return SecondMoment(scale, rows[0], columns[0], rows[1], columns[1])


def _moments(features: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the covariance of features `[n, r, m]` and the relative energy of rows and columns.

    The covariance is that of the edges between at most 128 even units a side, so that no copy of
    the features is made.
    """
    rows, columns = (_every(size) for size in (features.shape[0], features.shape[2]))
    sample = features[::rows, :, ::columns]
    mean = jnp.mean(sample, axis=(0, 2))
    sample = sample - mean[None, :, None]
    count = sample.shape[0] * sample.shape[2]
    covariance = jnp.einsum("irj,isj->rs", sample, sample, precision=HIGHEST) / count
    energy = jnp.sum(jnp.square(features - mean[None, :, None]), axis=1)
    total = jnp.mean(energy)
    energy = energy / jnp.where(total > 0, total, 1.0)
    return covariance, jnp.mean(energy, axis=1), jnp.mean(energy, axis=0)


def _every(size: int) -> int:
    """Return the stride that leaves at most 128 of `size` units."""
    return -(-size // 128)
