"""What a method changes in the training of a client, and what it remembers."""

from typing import Any, NamedTuple, Protocol

import jax

from jaxfuse.models.functional import Params

PyTree = Any


class Start(NamedTuple):
    """What a client knows when its round begins.

    Attributes:
        weights: of the global network.
        statistics: of its normalisation layers.
        memory: what the client remembers of the rounds before.
        server: what the server sends along.
    """

    weights: Params
    statistics: Params
    memory: PyTree
    server: PyTree


class Journey(NamedTuple):
    """What a client has done when its round ends.

    Attributes:
        weights: where it arrived.
        statistics: of its normalisation layers.
        length: float32, the sum of the steps' lengths: a constant gradient g would have moved the
            weights by `-length * g`. With momentum it is more than steps times learning rate.
    """

    weights: Params
    statistics: Params
    length: jax.Array


class Returned(NamedTuple):
    """What the m clients of a round bring back.

    Attributes:
        start: the global weights that they set out from.
        weights: theirs, with a leading axis `[m]`.
        before: what they remembered when they set out, `[m, ...]`.
        after: what they remember now.
        present: float32 `[m]`, 1 for a client whose result counts, else 0.
        clients: how many clients there are, in the round or not.
    """

    start: Params
    weights: Params
    before: PyTree
    after: PyTree
    present: jax.Array
    clients: int


class Features(Protocol):
    """The representation of a batch by a network, and its logits."""

    def __call__(self, weights: Params, statistics: Params) -> jax.Array:
        """Return `[b, features]`, what the output layer takes."""
        ...


class LocalMethod(Protocol):
    """A way of training clients: frozen, hashable, without arrays.

    `LocalSGD` is the one that changes nothing, and the base of the others.
    """

    features: bool
    """Whether `loss` needs the representations of the batch."""

    def remember(self, weights: Params, statistics: Params) -> PyTree:
        """Return what a client remembers before its first round, given the first global network."""
        ...

    def announce(self, weights: Params) -> PyTree:
        """Return what the server sends along before the first round."""
        ...

    def loss(self, start: Start, weights: Params, own: jax.Array, represent: Features) -> jax.Array:
        """Return what is added to the cross entropy, given the representation of the batch."""
        ...

    def direction(self, gradients: Params, weights: Params, start: Start) -> Params:
        """Return what takes the place of the gradients."""
        ...

    def finish(self, start: Start, journey: Journey) -> PyTree:
        """Return what the client remembers after the round."""
        ...

    def serve(self, weights: Params, server: PyTree, back: Returned) -> tuple[Params, PyTree]:
        """Return the global weights of the next round, and what the server sends along then.

        Args:
            weights: what the aggregator made.
            server: what was sent along in this round.
            back: what the clients brought back.
        """
        ...
