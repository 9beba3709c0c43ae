"""FedProx: stay near the global network."""

import dataclasses

import jax

from jaxfuse.federated.local.protocol import Start
from jaxfuse.federated.local.sgd import LocalSGD
from jaxfuse.models.functional import Params


@dataclasses.dataclass(frozen=True)
class FedProx(LocalSGD):
    """Add `mu / 2 |w - w_global|^2` to the loss of every client.

    Li et al., MLSys 2020, equation 2. With mu = 0 it is FedAvg's client.

    Attributes:
        mu: weight of the term. The paper takes the best of 0.001, 0.01, 0.1 and 1; 0.01 is in the
            middle of them.

    Raises:
        ValueError: mu is negative.

    Examples:
        >>> FedProx(mu=0.1).mu
        0.1
    """

    mu: float = 0.01

    def __post_init__(self) -> None:
        if not self.mu >= 0:
            raise ValueError(f"mu must not be negative, got {self.mu}")

    def direction(self, gradients: Params, weights: Params, start: Start) -> Params:
        """Add `mu (w - w_global)` to the gradients."""
        return jax.tree.map(
            lambda g, w, w0: g + self.mu * (w - w0), gradients, weights, start.weights
        )
