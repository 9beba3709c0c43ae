"""Bring every network to the anchor's order, then average."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.affinity import Affinity
from jaxfuse.align import align_params
from jaxfuse.federated.aggregation.average import average_stack
from jaxfuse.federated.aggregation.protocol import Aggregated
from jaxfuse.fusion import fuse
from jaxfuse.matching import Portfolio
from jaxfuse.methods import AnyMethod
from jaxfuse.symmetry import Symmetry

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Matched:
    """Match every client's units to the global network's, one by one, and average.

    GAMF's federated algorithm for two networks at a time (Liu et al., ICML 2022, section 4.3) with
    any matcher. Clients that set out from the same weights mostly stay where they were, and the
    result is then FedAvg's; matching matters where they drift far, or set out apart.

    Attributes:
        method: a matcher of two networks, as `align_params` takes it: the portfolio, which measures
            best, by default.
        affinity: likewise.

    Examples:
        >>> from jaxfuse.symmetry import infer_chain
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> anchor = [jax.random.normal(k1, (4, 8)), jax.random.normal(k2, (8, 3))]
        >>> turned = [anchor[0][:, ::-1], anchor[1][::-1]]
        >>> clients = jax.tree.map(lambda *leaves: jnp.stack(leaves), anchor, turned)
        >>> shares, key = jnp.array([0.5, 0.5]), jax.random.key(0)
        >>> made = Matched().aggregate(clients, shares, anchor, infer_chain(anchor), key)
        >>> bool(jnp.allclose(made.params[0], anchor[0])), float(made.kept)
        (True, 0.5)
    """

    method: AnyMethod = Portfolio()
    affinity: Affinity | str = "linear"

    def aggregate(
        self,
        clients: PyTree,
        weights: jax.Array,
        anchor: PyTree,
        symmetry: Symmetry | None,
        key: jax.Array,
    ) -> Aggregated:
        """Match and average; see `Aggregator.aggregate`. Differentiable with the matching fixed."""
        keys = jax.random.split(key, len(weights))

        def to_anchor(client: PyTree, key: jax.Array) -> tuple[PyTree, jax.Array]:
            alignment = align_params(
                anchor,
                client,
                method=self.method,
                symmetry=symmetry,
                affinity=self.affinity,
                key=key,
            )
            if alignment.maps is None:
                return alignment.params, kept_share(alignment.permutations)
            # All of the client's weight and none of the anchor's, in the anchor's space.
            moved = fuse([anchor, client], [0.0, 1.0], alignment, symmetry=symmetry, repair=None)
            return moved, jnp.float32(jnp.nan)

        moved, kept = jax.vmap(to_anchor)(clients, keys)
        return Aggregated(average_stack(moved, weights), weights @ kept)


def kept_share(permutations: dict[str, jax.Array]) -> jax.Array:
    """Return the share of units that stay where they are, float32; 1 for no groups."""
    units = sum(order.size for order in permutations.values())
    if not units:
        return jnp.float32(1)
    stay = sum(
        jnp.sum(order == lax.broadcasted_iota(order.dtype, order.shape, order.ndim - 1))
        for order in permutations.values()
    )
    return jnp.asarray(stay / units, jnp.float32)
