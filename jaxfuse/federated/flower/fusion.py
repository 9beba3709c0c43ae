"""Any of jaxfuse's aggregators as a strategy."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flwr.serverapp import Grid

from jaxfuse.align.search import resolve
from jaxfuse.federated.aggregation import AGGREGATORS, Aggregated, Aggregator
from jaxfuse.federated.flower.base import JaxStrategy
from jaxfuse.federated.flower.replies import ClientUpdate
from jaxfuse.models.functional import Params
from jaxfuse.symmetry import Symmetry, infer_chain, infer_symmetry

_logger = logging.getLogger(__name__)


class FusionStrategy(JaxStrategy):
    """Make one network of a round's by any of jaxfuse's aggregators.

    The aggregation is one compiled program, compiled once for a number of clients. Before the first
    round it is traced for as many as are asked, so that an aggregator that cannot read the model is
    refused before anybody trains.

    Args:
        aggregator: an aggregator, or its name in `jaxfuse.federated.AGGREGATORS`. One that comes
            in phases (FedMA's) does them all at once here, at the end of the round.
        symmetry: what may be permuted in the model.
        apply_fn: in place of `symmetry`, the model's function `(params, *inputs)`, from which it is
            inferred. Without both, a chain of layers is read off the names of the leaves; a model
            that is none is left to the aggregator, of which plain averages need no symmetry.
        inputs: inputs of `apply_fn`, arrays or their shapes.
        weighted: whether a client counts by its "examples", or all are "uniform".
        key: source of randomness; round r has `fold_in(key, r)`. Default: `jax.random.key(0)`.
        **options: those of `JaxStrategy` and of Flower's `FedAvg`.

    Raises:
        ValueError: the aggregator or the weighting is unknown, or there is both a symmetry and a
            function.

    Examples:
        >>> strategy = FusionStrategy("average", weighted="uniform", min_train_nodes=4)
        >>> strategy.min_train_nodes
        4
    """

    def __init__(
        self,
        aggregator: Aggregator | str = "average",
        *,
        symmetry: Symmetry | None = None,
        apply_fn: Callable[..., Any] | None = None,
        inputs: Sequence[Any] = (),
        weighted: Literal["examples", "uniform"] = "examples",
        key: jax.Array | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        if weighted not in ("examples", "uniform"):
            raise ValueError(f"weighted must be 'examples' or 'uniform', got {weighted!r}")
        if symmetry is not None and apply_fn is not None:
            raise ValueError("give symmetry, or apply_fn with inputs to infer it from, not both")
        self._aggregator = resolve("aggregator", aggregator, AGGREGATORS)
        self._symmetry = symmetry
        self._apply_fn = apply_fn
        self._inputs = tuple(inputs)
        self._weighted = weighted
        self._key = jax.random.key(0) if key is None else key
        self._ready = False

    def begin(self, server_round: int, params: Params, grid: Grid) -> None:
        """Before the first round, see that the aggregator can do with the model."""
        if self._ready:
            return
        if self._apply_fn is not None:
            self._symmetry = infer_symmetry(self._apply_fn, params, *self._inputs)
        elif self._symmetry is None:
            self._symmetry = _chain_or_none(params)
        connected = int(len(list(grid.get_node_ids())) * self.fraction_train)
        count = max(connected, self.min_train_nodes, 1)
        stack = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), params
        )
        shares = jax.ShapeDtypeStruct((count,), jnp.float32)
        _aggregate.eval_shape(self._aggregator, self._symmetry, stack, shares, params, self._key)
        self._ready = True

    def serve(
        self, server_round: int, params: Params, updates: list[ClientUpdate]
    ) -> tuple[Params, dict[str, float]]:
        """Aggregate the round's networks."""
        networks = [self.network_of(update) for update in updates]
        stack = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
        counts = np.array([update.examples for update in updates])
        if self._weighted == "uniform":
            counts = np.ones_like(counts)
        # A client may claim any number: their sum must not overflow.
        counts /= counts.max()
        shares = (counts / counts.sum()).astype(np.float32)
        key = jax.random.fold_in(self._key, server_round)
        made = _aggregate(self._aggregator, self._symmetry, stack, shares, params, key)
        kept = float(made.kept)
        # Shares in float32 sum to one up to rounding; a unit that moved counts for more.
        if self._statistics == "keep" and not kept > 1 - 1e-6:
            _logger.warning(
                "round %d: the matching moved units, and statistics that clients keep did not move "
                "with them: average the statistics, or use an aggregator that leaves the order",
                server_round,
            )
        return jax.tree.map(np.asarray, made.params), {} if np.isnan(kept) else {"units-kept": kept}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _aggregate(
    aggregator: Aggregator,
    symmetry: Symmetry | None,
    clients: Params,
    weights: jax.Array,
    anchor: Params,
    key: jax.Array,
) -> Aggregated:
    return aggregator.aggregate(clients, weights, anchor, symmetry, key)


def _chain_or_none(params: Params) -> Symmetry | None:
    try:
        return infer_chain(params)
    except ValueError:
        return None
