"""FedMA: match, freeze and go on training, layer after layer."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxfuse.federated.aggregation.average import average_stack, choose_rows, finite_rows
from jaxfuse.federated.aggregation.matched import kept_share
from jaxfuse.federated.aggregation.protocol import Aggregated, Aggregator
from jaxfuse.federated.local import Start
from jaxfuse.models.functional import TrainingFunction
from jaxfuse.networks import Networks
from jaxfuse.symmetry import Symmetry, permute
from jaxfuse.symmetry.tree import leaf_path
from jaxfuse.transport.incoming import order_nodes
from jaxfuse.transport.pfnm import PFNM

PyTree = Any


@runtime_checkable
class Layerwise(Aggregator, Protocol):
    """An aggregator that has a say in the training: what the server does comes in phases."""

    def train(
        self,
        run: Callable[..., Any],
        start: Start,
        clients: Any,
        network: TrainingFunction,
        shares: jax.Array,
        symmetry: Symmetry,
        key: jax.Array,
    ) -> tuple[Any, jax.Array]:
        """Train all clients of a round, and match them on the way.

        Args:
            run: `run(start, clients, frozen=..., epochs=...)` trains all clients once.
            start: what all of them get.
            clients: what each has.
            network: splits and merges parameters.
            shares: float32 `[m]`, what each counts.
            symmetry: of the network.
            key: for methods that draw.

        Returns:
            What `run` returned last, and the share of units that stayed in place.
        """
        ...


@dataclasses.dataclass(frozen=True)
class FedMA:
    """Match one layer of all clients, average and freeze it, let them train the others, go on.

    Wang et al., ICLR 2020, algorithm 1, with the beta-process matching of PFNM. A round has one
    phase a layer: the units of the layer are matched by what computes them, whose inputs are common
    already; the layer becomes the average; the clients train the layers behind it. At the end the
    output layer is averaged. FedMA's networks grow by the units that match none; a compiled round
    has one shape, so here every unit is matched to one of as many common ones as a client has
    (`PFNM(max_width="widest")`).

    Outside a round, where clients cannot train between the phases, `aggregate` matches all layers
    at once.

    Attributes:
        retrain_epochs: passes over its examples that a client trains in every phase but the first,
            which has those of the round.
        matching: how units are matched.

    Examples:
        >>> from jaxfuse.symmetry import infer_chain
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> anchor = [10 * jax.random.normal(k1, (4, 8)), jax.random.normal(k2, (8, 3))]
        >>> turned = [anchor[0][:, ::-1], anchor[1][::-1]]
        >>> clients = jax.tree.map(lambda *leaves: jnp.stack(leaves), anchor, turned)
        >>> shares, key = jnp.array([0.5, 0.5]), jax.random.key(0)
        >>> made = FedMA().aggregate(clients, shares, anchor, infer_chain(anchor), key)
        >>> bool(jnp.allclose(made.params[0], anchor[0]))
        True
    """

    retrain_epochs: int = 1
    matching: PFNM = PFNM(max_width="widest")

    def __post_init__(self) -> None:
        if self.retrain_epochs < 1:
            raise ValueError(f"retrain_epochs must be 1 or more, got {self.retrain_epochs}")

    def train(
        self,
        run: Callable[..., Any],
        start: Start,
        clients: Any,
        network: TrainingFunction,
        shares: jax.Array,
        symmetry: Symmetry,
        key: jax.Array,
    ) -> tuple[Any, jax.Array]:
        """Train phase by phase; see `Layerwise.train`."""
        groups = order_nodes(symmetry)
        outcome = run(start, clients)
        if not groups:
            return outcome, jnp.float32(1)
        merge, split = jax.vmap(network.merge), jax.vmap(network.split)
        first = network.merge(start.weights, start.statistics)
        phases = _phases(first, symmetry, groups)

        def phase(carry: tuple[Any, jax.Array], index: jax.Array) -> tuple[Any, None]:
            outcome, kept = carry
            params = merge(outcome.journey.weights, outcome.journey.statistics)
            # One that is not finite would spoil what is common to all.
            finite = finite_rows(params)
            params = choose_rows(finite, params, first)
            present = shares * finite
            present /= jnp.maximum(jnp.sum(present), 1e-12)
            orders = self._match(params, symmetry, jax.random.fold_in(key, index))
            stay = jax.tree.map(
                lambda order: jax.lax.broadcasted_iota(order.dtype, order.shape, 1), orders
            )
            only = {
                group: jnp.where(index == number, orders[group], stay[group])
                for number, group in enumerate(groups)
            }
            params = jax.vmap(lambda tree, order: permute(tree, symmetry, order))(params, only)
            average = average_stack(params, present)
            params = jax.tree.map(
                # Of a client that was left out in between, what is common already too.
                lambda own, mean, turn: jnp.where(turn <= index, mean[None], own),
                params,
                average,
                phases,
            )
            moving = jax.tree.map(lambda turn: (turn > index).astype(jnp.float32), phases)
            weights, statistics = split(params)
            outcome = run(
                start,
                clients._replace(weights=weights, statistics=statistics),
                frozen=network.split(moving)[0],
                epochs=self.retrain_epochs,
            )
            units = sum(order.shape[-1] for order in orders.values())
            here = sum(
                jnp.where(index == number, kept_share({group: orders[group]}), 0.0)
                * (orders[group].shape[-1] / units)
                for number, group in enumerate(groups)
            )
            return (outcome, kept + here), None

        (outcome, kept), _ = jax.lax.scan(phase, (outcome, jnp.float32(0)), jnp.arange(len(groups)))
        return outcome, kept

    def aggregate(
        self,
        clients: PyTree,
        weights: jax.Array,
        anchor: PyTree,
        symmetry: Symmetry | None,
        key: jax.Array,
    ) -> Aggregated:
        """Match all layers and average; see `Aggregator.aggregate`. Not differentiable.

        Raises:
            ValueError: without a symmetry.
        """
        if symmetry is None:
            raise ValueError("FedMA matches units: pass the symmetry of the network")
        orders = self._match(clients, symmetry, key)
        moved = jax.vmap(lambda tree, order: permute(tree, symmetry, order))(clients, orders)
        return Aggregated(average_stack(moved, weights), kept_share(orders))

    def _match(self, clients: PyTree, symmetry: Symmetry, key: jax.Array) -> dict[str, jax.Array]:
        """Return per group the unit of every client that stands at every common unit, `[K, n]`."""
        count = len(jax.tree.leaves(clients)[0])
        each = tuple(jax.tree.map(lambda leaf, k=k: leaf[k], clients) for k in range(count))
        found = self.matching.align(Networks(each, (symmetry,) * count), key)
        assert found.orders is not None
        return {group: jnp.asarray(order) for group, order in found.orders.items()}


def _phases(params: PyTree, symmetry: Symmetry, groups: list[str]) -> PyTree:
    """Return for every leaf the phase in which it becomes common: when all its units are.

    The output layer, which makes no units, has a turn behind the last.
    """
    turns: dict[str, int] = {}
    for tensor in symmetry.tensors:
        carried = [groups.index(group) for group in tensor.groups if group is not None]
        # A kernel makes units where its output axis carries some, a bias or a statistic always.
        if tensor.output is None:
            makes = len(tensor.groups) == 1
        else:
            makes = tensor.groups[tensor.output] is not None
        # Not before its inputs are common too.
        turn = max(carried) if carried and makes else len(groups)
        turns[tensor.path] = max(turn, turns.get(tensor.path, 0))
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.int32(turns.get(leaf_path(path), len(groups))), params
    )
