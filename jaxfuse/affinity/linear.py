"""The linear affinity: edges are compared by their inner product."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxfuse.affinity.block import FeatureBlock
from jaxfuse.affinity.products import Products, check_products, dot


@jax.tree_util.register_static
@dataclass(frozen=True)
class Linear:
    """The kernel k(x, y) = <x, y>, whose objective is Git Re-Basin's weight matching.

    Maximising it minimises the Euclidean distance between the weights of A and those of the
    reordered B (Ainsworth et al., ICLR 2023, eq. 1).

    Attributes:
        normalised: divide every tensor by the root of its mean square. Where networks differ by
            noise in proportion to each tensor, this weighs the tensors as the likelihood does.
            `GraduatedAssignment` anneals on such tensors in any case.
        products: "bfloat16" rounds the factors of the products of a block to bfloat16 and sums in
            float32, for devices that have units for it; the objective of a matching stays float32.
            `align_many` takes float32 in any case.

    Raises:
        ValueError: for unknown products.

    Examples:
        >>> import jax.numpy as jnp
        >>> edges = jnp.arange(6.0).reshape(2, 3, 1)
        >>> Linear().node_scores(edges, edges)
        Array([[ 5., 14.],
               [14., 50.]], dtype=float32)
    """

    normalised: bool = False
    products: Products = "float32"

    def __post_init__(self) -> None:
        check_products(self.products)

    def block(self, edges_a: jax.Array, edges_b: jax.Array) -> FeatureBlock:
        """Compare edges `[n, m, e]` of a tensor that joins two groups; r = e features."""
        return FeatureBlock(*self.features(edges_a, edges_b), products=self.products)

    def node_scores(self, edges_a: jax.Array, edges_b: jax.Array) -> jax.Array:
        """Compare edges `[n, pinned, e]` to units matched to themselves; return `[n, n]`."""
        scaled = self._scaled(edges_a, edges_b)
        flat_a, flat_b = (edges.reshape(len(edges), -1) for edges in scaled)
        return dot(flat_a, flat_b.T, self.products)

    def features(self, *edges: jax.Array) -> tuple[jax.Array, ...]:
        """Return the edges `[n, m, e]` of any number of networks as features `[n, e, m]`."""
        return tuple(jnp.swapaxes(each, 1, 2) for each in self._scaled(*edges))

    def mean_square(self, *edges: jax.Array) -> jax.Array:
        """Return the geometric mean over networks of the mean square of their edges."""
        squares = [jnp.mean(jnp.square(each)) for each in self._scaled(*edges)]
        return jnp.exp(jnp.mean(jnp.log(jnp.stack(squares))))

    def _scaled(self, *edges: jax.Array) -> tuple[jax.Array, ...]:
        if not self.normalised:
            return edges
        square = Linear().mean_square(*edges)
        scale = jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))
        return tuple(each * scale for each in edges)
