"""The Gaussian affinity, exactly: a stream of tiles that never holds more than a stated budget."""

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast, get_args

import jax
import jax.numpy as jnp

from jaxfuse.affinity.bandwidth import sampled_distances, squared_bandwidth
from jaxfuse.affinity.block import HIGHEST, SecondMoment
from jaxfuse.affinity.gaussian_pallas import pallas_scores
from jaxfuse.affinity.gaussian_sums import LONGEST, paired_scores, tiled_scores

Kernel = Literal["auto", "tiles", "pallas"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ExactGaussianBlock:
    """A block with k(x, y) = exp(-|x - y|^2 / sigma), evaluated tile by tile.

    Attributes:
        a: the edges of A divided by sqrt(sigma), `[n, m, e]`.
        b: those of B, likewise.
        budget: bytes that the kernel values in flight may take.
        kernel: as of `ExactGaussian`.
        batched: False, as several at once would take several budgets.
    """

    a: jax.Array
    b: jax.Array
    budget: int = field(metadata={"static": True})
    kernel: Kernel = field(default="auto", metadata={"static": True})
    batched: ClassVar[bool] = False

    def value(self, p: jax.Array, q: jax.Array) -> jax.Array:
        """Return J(P, Q), differentiable in both.

        J and dJ/dP together take one pass over all pairs of edges, dJ/dQ one more.
        """
        scores = soft_scores(self.a, self.b, q, self.budget, self.kernel)
        return jnp.vdot(p, cast(jax.Array, scores), precision=HIGHEST)

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
        kernel: "tiles" of XLA on any device, or "pallas" for the scores at soft matchings: a
            kernel of its own for GPU (Triton) and TPU (Mosaic), interpreted on other devices. No
            accelerator has measured it yet, so "auto" takes the tiles everywhere.
        batched: False, as several tensors at once would take several budgets.

    Raises:
        ValueError: for a bandwidth or memory that is not positive, or an unknown kernel.
    """

    bandwidth: float = 32.0
    memory: float = 64.0
    kernel: Kernel = "auto"
    batched: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.bandwidth <= 0 or self.memory <= 0:
            raise ValueError(f"bandwidth and memory must be positive, got {self}")
        if self.kernel not in get_args(Kernel):
            raise ValueError(f"kernel must be one of {get_args(Kernel)}, got {self.kernel!r}")

    def block(self, edges_a: jax.Array, edges_b: jax.Array) -> ExactGaussianBlock:
        """Compare edges `[n, m, e]` of a tensor that joins two groups."""
        scale = jnp.sqrt(squared_bandwidth((edges_a, edges_b), self.bandwidth))
        return ExactGaussianBlock(edges_a / scale, edges_b / scale, self._budget, self.kernel)

    def node_scores(self, edges_a: jax.Array, edges_b: jax.Array) -> jax.Array:
        """Compare edges `[n, pinned, e]` to units matched to themselves; return `[n, n]`."""
        scale = jnp.sqrt(squared_bandwidth((edges_a, edges_b), self.bandwidth))
        return paired_scores(edges_a / scale, edges_b / scale, self._budget)

    @property
    def _budget(self) -> int:
        return int(self.memory * 2**20)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def soft_scores(
    a: jax.Array, b: jax.Array, q: jax.Array, budget: int, kernel: Kernel = "auto"
) -> jax.Array:
    """Return `S[i, j] = sum_ab Q[a, b] exp(-|A[i, a] - B[j, b]|^2)`, in one pass over all pairs.

    Args:
        a: edges of A over the root of sigma, `[n, m, e]`.
        b: those of B, `[l, k, e]`.
        q: weights `[m, k]`.
        budget: bytes that the sums in flight may take.
        kernel: as of `ExactGaussian`.

    Returns:
        float32 `[n, l]`. Its gradient by Q is one more pass, of the transposed edges; by the edges
        the passes are those of automatic differentiation, and of tiles whatever the kernel.
    """
    # Of long edges the products take the time, which XLA has faster.
    if kernel == "pallas" and a.shape[-1] <= LONGEST:
        return pallas_scores(a, b, q, budget)
    return tiled_scores(a, b, q, budget)


def _forward(a: Any, b: Any, q: Any, budget: int, kernel: Kernel) -> tuple[jax.Array, Any]:
    """Return the scores, and with the arguments which of them a gradient is asked for."""
    values = a.value, b.value, q.value
    # Static under jit: an empty tuple for yes and None for no.
    wanted = tuple(() if any(each.perturbed for each in of) else None for of in ((a, b), (q,)))
    return soft_scores(*values, budget, kernel), (values, wanted)


def _backward(budget: int, kernel: Kernel, kept: Any, slope: jax.Array) -> Any:
    (a, b, q), (of_edges, of_q) = kept
    by_a = by_b = by_q = None
    if of_q is not None:
        by_q = soft_scores(a.swapaxes(0, 1), b.swapaxes(0, 1), slope, budget, kernel)
    if of_edges is not None:
        _, pull = jax.vjp(lambda a, b: tiled_scores(a, b, q, budget), a, b)
        by_a, by_b = pull(slope)
    return by_a, by_b, by_q


soft_scores.defvjp(_forward, _backward, symbolic_zeros=True)
