"""The Gaussian affinity, exactly: a stream of tiles that never holds more than a stated budget."""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxfuse.affinity.bandwidth import sampled_distances, squared_bandwidth
from jaxfuse.affinity.block import HIGHEST, SecondMoment


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ExactGaussianBlock:
    """A block with k(x, y) = exp(-|x - y|^2 / sigma), evaluated tile by tile.

    Attributes:
        a: the edges of A divided by sqrt(sigma), `[n, m, e]`.
        b: those of B, likewise.
        budget: bytes that the kernel values in flight may take.
        batched: False, as several at once would take several budgets.
    """

    a: jax.Array
    b: jax.Array
    budget: int = field(metadata={"static": True})
    batched: ClassVar[bool] = False

    def value(self, p: jax.Array, q: jax.Array) -> jax.Array:
        """Return J(P, Q), differentiable in both; the backward pass streams again."""
        return _soft_value(self.a, self.b, p, q, self.budget)

    def value_at(self, p: jax.Array, q: jax.Array) -> jax.Array:
        """Return J at two permutations, int32 `[n]` and `[m]`."""
        return jnp.sum(jnp.exp(-jnp.sum(jnp.square(self.a - self.b[p][:, q]), axis=-1)))

    def row_scores(self, q: jax.Array) -> jax.Array:
        """Return dJ/dP `[n, n]` where Q is a permutation, int32 `[m]`."""
        return paired_scores(self.a, self.b[:, q], self.budget)

    def column_scores(self, p: jax.Array) -> jax.Array:
        """Return dJ/dQ `[m, m]` where P is a permutation, int32 `[n]`."""
        return paired_scores(self.a.swapaxes(0, 1), self.b[p].swapaxes(0, 1), self.budget)

    def second_moment(self) -> SecondMoment:
        """Return the variance of k on an even sample of pairs, the same for every unit."""
        n, m, _ = self.a.shape
        scale = jnp.var(jnp.exp(-sampled_distances(self.a, self.b)))
        return SecondMoment(scale, jnp.ones(n), jnp.ones(m), jnp.ones(n), jnp.ones(m))


@jax.tree_util.register_static
@dataclass(frozen=True)
class ExactGaussian:
    """The kernel k(x, y) = exp(-|x - y|^2 / sigma) without approximation, in O(n^2 m^2) time.

    The oracle for `Gaussian`, and affordable up to some hundred units a layer: a 3x3 convolution
    of 128 by 128 channels takes 2.7e8 exponentials a gradient, one of 512 by 512 6.9e10.

    Attributes:
        bandwidth: sigma as a multiple of each tensor's median squared distance between edges.
        memory: megabytes that the kernel values in flight may take.
        batched: False, as several tensors at once would take several budgets.
    """

    bandwidth: float = 32.0
    memory: float = 64.0
    batched: ClassVar[bool] = False

    def block(self, edges_a: jax.Array, edges_b: jax.Array) -> ExactGaussianBlock:
        """Compare edges `[n, m, e]` of a tensor that joins two groups."""
        scale = jnp.sqrt(squared_bandwidth((edges_a, edges_b), self.bandwidth))
        return ExactGaussianBlock(edges_a / scale, edges_b / scale, self._budget)

    def node_scores(self, edges_a: jax.Array, edges_b: jax.Array) -> jax.Array:
        """Compare edges `[n, pinned, e]` to units matched to themselves; return `[n, n]`."""
        scale = jnp.sqrt(squared_bandwidth((edges_a, edges_b), self.bandwidth))
        return paired_scores(edges_a / scale, edges_b / scale, self._budget)

    @property
    def _budget(self) -> int:
        return int(self.memory * 2**20)


def paired_scores(a: jax.Array, b: jax.Array, budget: int) -> jax.Array:
    """Return `S[i, j] = sum_a exp(-|A[i, a] - B[j, a]|^2)`, `[n, n]`, one row of A at a time."""
    n, m, e = b.shape
    rows = max(1, min(len(a), budget // (4 * n * m * e)))

    def one_row(row: jax.Array) -> jax.Array:
        return jnp.sum(jnp.exp(-jnp.sum(jnp.square(row[None] - b), axis=-1)), axis=-1)

    return jax.lax.map(one_row, a, batch_size=rows)


def _soft_value(a: jax.Array, b: jax.Array, p: jax.Array, q: jax.Array, budget: int) -> jax.Array:
    """Return `sum_ij P[i, j] sum_ab Q[a, b] k(A[i, a], B[j, b])`, a few pairs (i, j) at a time."""
    n, m, _ = a.shape
    columns = max(1, min(n, budget // (4 * m * m)))

    def pair(x: jax.Array, y: jax.Array) -> jax.Array:
        cross = jnp.dot(x, y.T, precision=HIGHEST)
        squares = jnp.sum(x * x, axis=-1)[:, None] + jnp.sum(y * y, axis=-1)[None, :]
        return jnp.vdot(q, jnp.exp(-jnp.maximum(squares - 2 * cross, 0.0)), precision=HIGHEST)

    @jax.checkpoint
    def one_row(x: jax.Array) -> jax.Array:
        tile = jax.checkpoint(lambda y: pair(x, y))
        return jax.lax.map(tile, b, batch_size=columns)

    return jnp.vdot(p, jax.lax.map(one_row, a), precision=HIGHEST)
