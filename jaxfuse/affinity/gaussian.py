"""The Gaussian affinity by short features: Hermite terms for scalars, Nystrom for vectors."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxfuse.affinity.bandwidth import squared_bandwidth, squared_distances, strided_sample
from jaxfuse.affinity.block import HIGHEST, FeatureBlock
from jaxfuse.affinity.products import Products, check_products, dot

_LANDMARK_SAMPLE = 4096
_LLOYD_STEPS = 5


@jax.tree_util.register_static
@dataclass(frozen=True)
class Gaussian:
    """The kernel k(x, y) = exp(-|x - y|^2 / sigma) by r features, in O(r n^3) instead of O(n^4).

    The affinity of GAMF (Liu et al., ICML 2022, section 3.2). Scalar edges get the Hermite terms
    `phi_t(w) = exp(-w^2 / sigma) (w sqrt(2 / sigma))^t / sqrt(t!)`, centred on the mean edge;
    vector edges the Nystrom features of k-means landmarks of the edges themselves. The error
    falls with the bandwidth: narrow kernels need many features.

    Attributes:
        bandwidth: sigma as a multiple of each tensor's median squared distance between edges. On
            the OTFusion pair 1 is far worse than 8, 32 and 128, which differ by less than their
            spread (`benchmarks/fusion_pair.py`); a wide kernel tends to the linear one.
        rank: number r of features of a vector edge. 64 leave a double-centred relative error of
            the scores of 3x3 kernels of 0.06 at a bandwidth of 1, and of 0.003 at 10;
            `resolve_rank` chooses it from a tolerance and the edges at hand.
        terms: number r of features of a scalar edge; few do, as the kernel is wide.
        products: "bfloat16" rounds the factors of the products of a block to bfloat16 and sums in
            float32, for devices that have units for it; the objective of a matching stays float32.
            `align_many` takes float32 in any case.
    """

    bandwidth: float = 32.0
    rank: int = 64
    terms: int = 24
    products: Products = "float32"

    def __post_init__(self) -> None:
        if self.bandwidth <= 0 or min(self.rank, self.terms) < 1:
            raise ValueError(f"bandwidth, rank and terms must be positive, got {self}")
        check_products(self.products)

    def block(self, edges_a: jax.Array, edges_b: jax.Array) -> FeatureBlock:
        """Compare edges `[n, m, e]` of a tensor that joins two groups."""
        return FeatureBlock(*self.features(edges_a, edges_b), products=self.products)

    def node_scores(self, edges_a: jax.Array, edges_b: jax.Array) -> jax.Array:
        """Compare edges `[n, pinned, e]` to units matched to themselves; return `[n, n]`."""
        flat_a, flat_b = (f.reshape(len(f), -1) for f in self.features(edges_a, edges_b))
        return dot(flat_a, flat_b.T, self.products)

    def features(self, *edges: jax.Array) -> tuple[jax.Array, ...]:
        """Return features `[n, r, m]` whose inner products over r are the kernel.

        Args:
            *edges: of two networks or more, `[n, m, e]` each.

        Returns:
            The features of each, under one sigma and one set of landmarks.

        Examples:
            >>> import jax.numpy as jnp
            >>> edges = jnp.array([[[0.0], [1.0]]])
            >>> a, b = Gaussian(bandwidth=1.0).features(edges, edges)
            >>> print(f"{jnp.vdot(a[0, :, 0], b[0, :, 1]):.3f} {jnp.exp(-1 / 0.5):.3f}")
            0.135 0.135
        """
        sigma = squared_bandwidth(edges, self.bandwidth)
        if edges[0].shape[-1] == 1:
            means = [jnp.mean(each) for each in edges]
            centre = sum(means[1:], start=means[0]) / len(edges)
            scale = jnp.sqrt(2 / sigma)
            return tuple(
                _by_row(lambda x: hermite_features((x[:, 0] - centre) * scale, self.terms), each)
                for each in edges
            )
        scale = 1 / jnp.sqrt(sigma)
        share = -(-_LANDMARK_SAMPLE // len(edges))
        landmarks = kmeans(
            jnp.concatenate([strided_sample(each, share) * scale for each in edges]), self.rank
        )
        root = inverse_root(landmarks)
        return tuple(
            _by_row(lambda x: nystrom_features(x * scale, landmarks, root), each) for each in edges
        )


def _by_row(function: Callable[[jax.Array], jax.Array], edges: jax.Array) -> jax.Array:
    """Map edges `[m, e]` to features `[m, r]` row by row, into `[n, r, m]`: no copy is made."""
    return jax.lax.map(lambda row: function(row).T, edges)


def hermite_features(x: jax.Array, terms: int) -> jax.Array:
    """Return `exp(-x^2 / 2) x^t / sqrt(t!)` for t < terms, on a new last axis.

    Their inner products are the Taylor series of exp(-(x - y)^2 / 2), exact to float32 where
    |x y| is below terms / e or so.
    """
    first = jnp.exp(-jnp.square(x) / 2)
    rates = 1 / jnp.sqrt(jnp.arange(1, terms, dtype=x.dtype))

    def next_term(term: jax.Array, rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        term = term * x * rate
        return term, term

    _, rest = jax.lax.scan(next_term, first, rates)
    return jnp.moveaxis(jnp.concatenate([first[None], rest]), 0, -1)


def inverse_root(landmarks: jax.Array) -> jax.Array:
    """Return `K_ZZ^(-1/2)` `[s, s]` for k(x, y) = exp(-|x - y|^2) between landmarks `[s, e]`.

    Directions in which the landmarks' own kernel is numerically zero are dropped.
    """
    values, vectors = jnp.linalg.eigh(jnp.exp(-squared_distances(landmarks, landmarks)))
    keep = values > 1e-6 * values[-1]
    scale = jnp.where(keep, 1 / jnp.sqrt(jnp.where(keep, values, 1.0)), 0.0)
    return vectors * scale[None, :]


def nystrom_features(edges: jax.Array, landmarks: jax.Array, root: jax.Array) -> jax.Array:
    """Return `k(x, Z) K_ZZ^(-1/2)` `[m, s]` for edges `[m, e]`."""
    kernel = jnp.exp(-squared_distances(edges, landmarks))
    return jnp.dot(kernel, root, precision=HIGHEST)


def kmeans(points: jax.Array, count: int) -> jax.Array:
    """Return `count` centres `[count, e]` of points `[s, e]` by a few steps of Lloyd's algorithm.

    The start is an even choice among the points sorted by norm, so that the few large edges, which
    matter most, have landmarks of their own.
    """
    count = min(count, len(points))
    by_norm = jnp.argsort(jnp.sum(jnp.square(points), axis=-1))
    chosen = by_norm[jnp.linspace(0, len(points) - 1, count).astype(jnp.int32)]

    def step(centres: jax.Array, _: None) -> tuple[jax.Array, None]:
        nearest = jnp.argmin(squared_distances(points, centres), axis=-1)
        members = jax.nn.one_hot(nearest, count, dtype=points.dtype)
        sizes = jnp.sum(members, axis=0)[:, None]
        means = jnp.dot(members.T, points, precision=HIGHEST) / jnp.maximum(sizes, 1)
        return jnp.where(sizes > 0, means, centres), None

    return jax.lax.scan(step, points[chosen], None, length=_LLOYD_STEPS)[0]
