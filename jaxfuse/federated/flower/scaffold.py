"""SCAFFOLD over Flower: control variates that live with the server and with the clients."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flwr.serverapp import Grid

from jaxfuse.federated.flower.base import JaxStrategy
from jaxfuse.federated.flower.replies import ClientUpdate
from jaxfuse.models.functional import Params

PyTree = Any

SHARED = "control"
"""Name of the record in which the server sends its control variate."""

CHANGE = "control-change"
"""Name of the record in which a client sends the change of its own."""


class ScaffoldStrategy(JaxStrategy):
    """SCAFFOLD (Karimireddy et al., ICML 2020, algorithm 1, option II).

    The server sends its control variate c as record "control". A client steps by
    `y <- y - lr (g - c_i + c)`, keeps `c_i+ = c_i - c + (x - y) / (K lr)` in the state of its node
    and sends `c_i+ - c_i` as record "control-change" (`train_scaffold` computes all three). The
    server sets `x <- x + server_rate mean(y - x)` and `c <- c + sum(c_i+ - c_i) / N` for the N
    nodes that are connected. Means are over the clients whose reply counts, with equal shares.

    Args:
        server_rate: step of the server towards the mean; 1, as in the paper's experiments.
        **options: those of `JaxStrategy` and of Flower's `FedAvg`.

    Raises:
        ValueError: the rate is not positive.
    """

    def __init__(self, *, server_rate: float = 1.0, **options: Any):
        super().__init__(**options)
        if not server_rate > 0:
            raise ValueError(f"server_rate must be positive, got {server_rate}")
        self._server_rate = server_rate
        self._nodes = 0
        self.control: Params | None = None

    def begin(self, server_round: int, params: Params, grid: Grid) -> None:
        """Start with a control variate of zero; count the nodes."""
        if self.control is None:
            self.control = jax.tree.map(np.zeros_like, params)
        self._nodes = len(list(grid.get_node_ids()))

    def announce(self, server_round: int, params: Params, node: int) -> dict[str, Params]:
        """Send the server's control variate."""
        return {SHARED: jax.tree.map(np.asarray, self.control)}

    def expect(self, params: Params) -> dict[str, Params]:
        """Expect the change of a client's control variate."""
        return {CHANGE: params}

    def serve(
        self, server_round: int, params: Params, updates: list[ClientUpdate]
    ) -> tuple[Params, dict[str, float]]:
        """Step towards the mean of the networks; move the control variate."""
        networks = [self.network_of(update) for update in updates]
        changes = [
            traverse_util.unflatten_dict(update.arrays[CHANGE], sep="/") for update in updates
        ]
        self.control = jax.tree.map(
            lambda c, *moves: c + sum(moves) / max(self._nodes, len(updates)),
            self.control,
            *changes,
        )
        moved = jax.tree.map(
            lambda x, *ys: x + self._server_rate * (sum(ys) / len(ys) - x), params, *networks
        )
        return moved, {}


class ScaffoldUpdate(NamedTuple):
    """What a client has after its steps.

    Attributes:
        params: where it arrived, to be sent as the network.
        own: its control variate, to be remembered.
        change: of its control variate, to be sent as "control-change".
    """

    params: Params
    own: Params
    change: Params


@functools.partial(jax.jit, static_argnums=0)
def train_scaffold(
    gradient: Callable[[Params, PyTree], Params],
    params: Params,
    batches: PyTree,
    shared: Params,
    own: Params,
    learning_rate: float | jax.Array,
) -> ScaffoldUpdate:
    """Do a client's steps of one round.

    Args:
        gradient: pure hashable function `(params, batch) -> gradients`, such as `jax.grad` of a
            loss.
        params: the global network.
        batches: tree of arrays with a leading axis `[K]`, one entry a step.
        shared: the server's control variate.
        own: the client's, zeros in its first round.
        learning_rate: of every step.

    Returns:
        The update. Compiled once for a gradient function and shapes; differentiable.

    Examples:
        >>> quadratic = jax.grad(lambda params, target: jnp.sum((params["w"] - target) ** 2) / 2)
        >>> zeros, targets = {"w": jnp.zeros(2)}, jnp.ones((1, 2))
        >>> made = train_scaffold(quadratic, zeros, targets, zeros, zeros, 0.5)
        >>> made.params["w"].tolist(), made.own["w"].tolist()
        ([0.5, 0.5], [-1.0, -1.0])
    """

    def step(weights: Params, batch: PyTree) -> tuple[Params, None]:
        moved = jax.tree.map(
            lambda y, g, mine, theirs: (y - learning_rate * (g - mine + theirs)).astype(y.dtype),
            weights,
            gradient(weights, batch),
            own,
            shared,
        )
        return moved, None

    steps = jax.tree.leaves(batches)[0].shape[0]
    last, _ = jax.lax.scan(step, jax.tree.map(jnp.asarray, params), batches)
    change = jax.tree.map(
        lambda x, y, theirs: ((x - y) / (steps * learning_rate) - theirs).astype(x.dtype),
        params,
        last,
        shared,
    )
    return ScaffoldUpdate(last, jax.tree.map(jnp.add, own, change), change)
