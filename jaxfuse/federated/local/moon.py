"""MOON: contrast of representations between models."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.federated.local.protocol import Features, Journey, Start
from jaxfuse.federated.local.sgd import LocalSGD
from jaxfuse.models.functional import Params

PyTree = Any
_TINY = 1e-12


class Previous(NamedTuple):
    """The client's network at the end of its last round.

    Attributes:
        weights: its weights.
        statistics: of its normalisation layers.
        known: float32 scalar, 0 before the first round and then 1.
    """

    weights: Params
    statistics: Params
    known: jax.Array


@dataclasses.dataclass(frozen=True)
class Moon(LocalSGD):
    """Draw representations towards the global network's, away from the client's previous ones.

    Li, He and Song, CVPR 2021, equation 3: with z, z_glob and z_prev the representations of a batch
    by the network in training, the global one and the client's own of the last round,

        mu * mean of -log( e^near / (e^near + e^far) ),
        near = cos(z, z_glob) / T,  far = cos(z, z_prev) / T,

    is added to the cross entropy. In the first round of a client there is no previous network and
    the term is zero, as in the authors' code. The representation is what the output layer takes;
    the paper's projection head is a part of the model.

    Attributes:
        mu: weight of the term: 5, the authors' choice for CIFAR-10; 1 for CIFAR-100.
        temperature: T, 0.5 as the authors'.

    Raises:
        ValueError: mu is negative or the temperature not positive.

    Examples:
        >>> Moon(mu=1.0).temperature
        0.5
    """

    mu: float = 5.0
    temperature: float = 0.5
    features = True

    def __post_init__(self) -> None:
        if not (self.mu >= 0 and self.temperature > 0):
            raise ValueError(f"mu must not be negative, temperature positive: got {self}")

    def remember(self, weights: Params, statistics: Params) -> PyTree:
        """Know no previous network."""
        return Previous(weights, statistics, jnp.float32(0))

    def loss(self, start: Start, weights: Params, own: jax.Array, represent: Features) -> jax.Array:
        """Return mu times the contrastive loss."""
        previous: Previous = start.memory
        near = _cosine(own, represent(start.weights, start.statistics))
        far = _cosine(own, represent(previous.weights, previous.statistics))
        return self.mu * previous.known * jnp.mean(jax.nn.softplus((far - near) / self.temperature))

    def finish(self, start: Start, journey: Journey) -> PyTree:
        """Remember where the client arrived."""
        return Previous(journey.weights, journey.statistics, jnp.float32(1))


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    b = jax.lax.stop_gradient(b)
    squares = jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1)
    # Under the root: the slope of a root at zero is infinite.
    return jnp.sum(a * b, axis=-1) * jax.lax.rsqrt(jnp.maximum(squares, _TINY))
