"""Plain local training, as in FedAvg."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.federated.local.protocol import Features, Journey, Returned, Start
from jaxfuse.models.functional import Params

PyTree = Any


@dataclasses.dataclass(frozen=True)
class LocalSGD:
    """Train every client by gradient descent on its own examples, and remember nothing.

    FedAvg's clients (McMahan et al., AISTATS 2017). The other methods inherit from this one and
    change what they must.

    Examples:
        >>> LocalSGD().remember({}, {})
        ()
    """

    features = False

    def remember(self, weights: Params, statistics: Params) -> PyTree:
        """Remember nothing."""
        return ()

    def announce(self, weights: Params) -> PyTree:
        """Send nothing along."""
        return ()

    def loss(self, start: Start, weights: Params, own: jax.Array, represent: Features) -> jax.Array:
        """Add nothing to the cross entropy."""
        return jnp.float32(0)

    def direction(self, gradients: Params, weights: Params, start: Start) -> Params:
        """Follow the gradients."""
        return gradients

    def finish(self, start: Start, journey: Journey) -> PyTree:
        """Remember what was remembered."""
        return start.memory

    def serve(self, weights: Params, server: PyTree, back: Returned) -> tuple[Params, PyTree]:
        """Go on from what the aggregator made."""
        return weights, server
