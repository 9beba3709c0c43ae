"""FedDyn: dynamic regularisation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.federated.local.protocol import Journey, Returned, Start
from jaxfuse.federated.local.sgd import LocalSGD
from jaxfuse.models.functional import Params

PyTree = Any


@dataclasses.dataclass(frozen=True)
class FedDyn(LocalSGD):
    """Regularise every client so that the stationary points of clients and server agree.

    Acar et al., ICLR 2021, algorithm 1. Client i minimises

        L_i(w) - <g_i, w> + alpha / 2 |w - w_global|^2

    and then takes `g_i - alpha (w_i - w_global)` for g_i; the server keeps `h <- h - alpha / N sum
    over the round's clients of (w_i - w_global)` and goes on from the aggregate minus `h / alpha`.
    With alpha = 0 it is FedAvg.

    Attributes:
        alpha: 0.01, as the authors' code for CIFAR-10.

    Raises:
        ValueError: alpha is negative.

    Examples:
        >>> FedDyn().alpha
        0.01
    """

    alpha: float = 0.01

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ValueError(f"alpha must not be negative, got {self.alpha}")

    def remember(self, weights: Params, statistics: Params) -> PyTree:
        """Begin with `g_i = 0`."""
        return jax.tree.map(jnp.zeros_like, weights)

    def announce(self, weights: Params) -> PyTree:
        """Begin with `h / alpha = 0`, which is what the server keeps."""
        return jax.tree.map(jnp.zeros_like, weights)

    def direction(self, gradients: Params, weights: Params, start: Start) -> Params:
        """Return `g - g_i + alpha (w - w_global)`."""
        return jax.tree.map(
            lambda g, own, w, w0: g - own + self.alpha * (w - w0),
            gradients,
            start.memory,
            weights,
            start.weights,
        )

    def finish(self, start: Start, journey: Journey) -> PyTree:
        """Return `g_i - alpha (w_i - w_global)`."""
        return jax.tree.map(
            lambda own, w0, w: own - self.alpha * (w - w0),
            start.memory,
            start.weights,
            journey.weights,
        )

    def serve(self, weights: Params, server: PyTree, back: Returned) -> tuple[Params, PyTree]:
        """Return the aggregate minus `h / alpha`, and `h / alpha`."""
        if self.alpha == 0:
            return weights, server
        kept = jax.tree.map(
            lambda h, x, w: (
                h - jnp.tensordot(back.present, w - x[None], 1, precision=HIGHEST) / back.clients
            ),
            server,
            back.start,
            back.weights,
        )
        return jax.tree.map(jnp.subtract, weights, kept), kept
