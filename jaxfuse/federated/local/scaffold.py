"""SCAFFOLD: control variates against the drift of clients."""

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
class Scaffold(LocalSGD):
    """Correct every gradient by the difference of the global and the client's mean gradient.

    Karimireddy et al., ICML 2020, algorithm 1, with option II for the control variates:

        y <- y - lr (g - c_i + c),
        c_i <- c_i - c + (x - y) / length,
        c <- c + (sum over the round's clients of the change of c_i) / N.

    `length` is steps times learning rate in the paper, which has no momentum. With momentum b a
    constant gradient moves the weights up to 1 / (1 - b) times as far; divided by the paper's
    length, control variates come out that much too long and training collapses, as published runs
    did (10 % in NIID-Bench's table for 100 clients). Here `length` is what the steps add up to.

    With an aggregator that reorders units, control variates stay in the order that the client
    started from.

    Attributes:
        server_rate: step of the server towards the aggregate; 1, as in the paper's experiments.

    Raises:
        ValueError: the rate is not positive.

    Examples:
        >>> Scaffold().announce({"w": jnp.ones(2)})["w"].tolist()
        [0.0, 0.0]
    """

    server_rate: float = 1.0

    def __post_init__(self) -> None:
        if not self.server_rate > 0:
            raise ValueError(f"server_rate must be positive, got {self.server_rate}")

    def remember(self, weights: Params, statistics: Params) -> PyTree:
        """Begin with a control variate of zero."""
        return jax.tree.map(jnp.zeros_like, weights)

    def announce(self, weights: Params) -> PyTree:
        """Begin with a global control variate of zero."""
        return jax.tree.map(jnp.zeros_like, weights)

    def direction(self, gradients: Params, weights: Params, start: Start) -> Params:
        """Return `g - c_i + c`."""
        return jax.tree.map(
            lambda g, own, shared: g - own + shared, gradients, start.memory, start.server
        )

    def finish(self, start: Start, journey: Journey) -> PyTree:
        """Return `c_i - c + (x - y) / length`."""
        return jax.tree.map(
            lambda own, shared, x, y: own - shared + (x - y) / journey.length,
            start.memory,
            start.server,
            start.weights,
            journey.weights,
        )

    def serve(self, weights: Params, server: PyTree, back: Returned) -> tuple[Params, PyTree]:
        """Step towards the aggregate, and move the global variate by the clients' mean change."""
        moved = jax.tree.map(lambda x, w: x + self.server_rate * (w - x), back.start, weights)
        shared = jax.tree.map(
            lambda c, old, new: (
                c + jnp.tensordot(back.present, new - old, 1, precision=HIGHEST) / back.clients
            ),
            server,
            back.before,
            back.after,
        )
        return moved, shared
