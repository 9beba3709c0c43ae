"""Match all networks of a round to each other at once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.affinity import Affinity
from jaxfuse.align import align_many
from jaxfuse.federated.aggregation.matched import kept_share
from jaxfuse.federated.aggregation.protocol import Aggregated
from jaxfuse.fusion import fuse
from jaxfuse.many import GAMF
from jaxfuse.methods import AnyMethod
from jaxfuse.symmetry import Symmetry

PyTree = Any


@dataclasses.dataclass(frozen=True)
class MatchedJointly:
    """Match the units of all clients jointly, and average.

    GAMF's federated algorithm for many networks (Liu et al., ICML 2022, algorithm 2), or any method
    for K networks. The anchor is among the matched networks, with no share in the average, so that
    the order of units is that of the round before. The program grows with the number of clients.

    Attributes:
        method: a method for K networks, as `align_many` takes it: GAMF by default.
        affinity: likewise.

    Examples:
        >>> from jaxfuse.symmetry import infer_chain
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> anchor = [jax.random.normal(k1, (4, 8)), jax.random.normal(k2, (8, 3))]
        >>> turned = [anchor[0][:, ::-1], anchor[1][::-1]]
        >>> clients = jax.tree.map(lambda *leaves: jnp.stack(leaves), turned, turned)
        >>> shares, key = jnp.array([0.5, 0.5]), jax.random.key(0)
        >>> made = MatchedJointly().aggregate(clients, shares, anchor, infer_chain(anchor), key)
        >>> bool(jnp.allclose(made.params[0], anchor[0], atol=1e-6)), float(made.kept)
        (True, 0.0)
    """

    method: AnyMethod = GAMF()
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
        count = len(weights)
        networks = [
            anchor,
            *(jax.tree.map(lambda leaf, k=k: leaf[k], clients) for k in range(count)),
        ]
        alignments = align_many(
            networks, method=self.method, symmetry=symmetry, affinity=self.affinity, key=key
        )
        shares = jnp.concatenate([jnp.zeros(1), weights])
        params = fuse(networks, shares, alignments, symmetry=symmetry, repair=None)
        if alignments.maps is not None:
            return Aggregated(params, jnp.float32(jnp.nan))
        kept = [
            kept_share({group: order[1 + k] for group, order in alignments.permutations.items()})
            for k in range(count)
        ]
        return Aggregated(params, weights @ jnp.stack(kept))
