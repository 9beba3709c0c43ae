"""What the server does with the networks of a round."""

from typing import Any, NamedTuple, Protocol

import jax

from jaxfuse.symmetry import Symmetry

PyTree = Any


class Aggregated(NamedTuple):
    """The network that the server makes.

    Attributes:
        params: one tree.
        kept: float32 scalar, the share of units that the matching left in place, over all groups
            and networks: 1 where nothing is matched, NaN where units are merged or mixed.
    """

    params: PyTree
    kept: jax.Array


class Aggregator(Protocol):
    """A way of making one network of the clients': frozen, hashable, without arrays."""

    def aggregate(
        self,
        clients: PyTree,
        weights: jax.Array,
        anchor: PyTree,
        symmetry: Symmetry | None,
        key: jax.Array,
    ) -> Aggregated:
        """Make one network.

        Args:
            clients: one tree whose leaves have a leading axis `[K]`.
            weights: float32 `[K]`, the networks' shares, that sum to one.
            anchor: the global network that the round began with.
            symmetry: of one network; None where nothing is to be matched.
            key: for methods that draw.

        Returns:
            The network, with the shapes of the anchor. Works under `jit`.
        """
        ...
