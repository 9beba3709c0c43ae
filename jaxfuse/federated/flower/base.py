"""What all strategies share: who is asked, whose reply counts, and what is logged."""

import logging
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from flax import traverse_util
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from jaxfuse.federated.flower.records import from_record, named_arrays, to_record
from jaxfuse.federated.flower.replies import (
    ClientUpdate,
    Sieve,
    asked,
    comparable,
    error_of,
    flaw_of_metrics,
    node_of,
)
from jaxfuse.federated.screen import screen
from jaxfuse.models.functional import Params
from jaxfuse.symmetry.axes import is_statistic
from jaxfuse.symmetry.tree import named_leaves

_logger = logging.getLogger(__name__)


class _Round(NamedTuple):
    """A round that is on its way.

    Attributes:
        params: the global network that it started from.
        sieve: what a sound reply looks like.
        messages: what was sent; Flower gives a message its id when it goes out.
    """

    params: Params
    sieve: Sieve
    messages: list[Message]


class JaxStrategy(FedAvg):
    """Base of strategies whose server, clients or both keep more than the network.

    A subclass says what the server makes of a round (`serve`), and where it needs them: what it
    sends along (`announce`), what else clients send back (`expect`), and what it does before a
    round (`begin`). Arrays that clients keep are in the state of their node (`remember`, `recall`).

    A round goes on without the clients that died, that sent an error, or whose reply is refused:
    leaves missing or unknown, other shapes, entries that are not finite, metrics without a count of
    examples. The log says who was left out and why, as a warning of the logger
    `jaxfuse.federated.flower`, and the metrics of the round count them: "clients-used",
    "clients-refused", "clients-failed". A round that nobody is left of, or whose result is not
    finite, keeps the network: it returns no arrays, upon which Flower goes on with those it has.

    Sampling, timeouts and the averages of metrics are Flower's, as in its `FedAvg`.

    Args:
        statistics: "average" treats running statistics of normalisation layers as weights; "keep"
            leaves them with the clients (as FedBN does, Li et al., ICLR 2021): they are neither
            sent nor expected, and those of the global network stay as they are. A client restores
            its own, see `recall`.
        **options: those of Flower's `FedAvg`, such as `fraction_train` and `min_train_nodes`.

    Raises:
        ValueError: the policy is unknown.
    """

    def __init__(self, *, statistics: Literal["average", "keep"] = "average", **options: Any):
        super().__init__(**options)
        if statistics not in ("average", "keep"):
            raise ValueError(f"statistics must be 'average' or 'keep', got {statistics!r}")
        self._statistics = statistics
        self._round: _Round | None = None
        self._evaluating: list[Message] = []

    @abstractmethod
    def serve(
        self, server_round: int, params: Params, updates: list[ClientUpdate]
    ) -> tuple[Params, dict[str, float]]:
        """Make the next global network.

        Args:
            server_round: number of the round, from 1.
            params: the network that the round started from, nested dict of NumPy arrays.
            updates: the screened updates of one client or more, ordered by node.

        Returns:
            A network of the same leaves, which get the dtypes they had, and metrics to report with
            the round's.
        """

    def begin(self, server_round: int, params: Params, grid: Grid) -> None:
        """Do what comes before a round, such as a question to the nodes; by default nothing."""

    def announce(self, server_round: int, params: Params, node: int) -> dict[str, Params]:
        """Return what a node is sent besides the network, by record name; by default nothing."""
        return {}

    def expect(self, params: Params) -> dict[str, Params]:
        """Return what replies hold besides the network, as trees of the same shapes, by record."""
        return {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose the nodes of a round, and write to each."""
        params = from_record(arrays)
        self.begin(server_round, params, grid)
        sent = self._sent(arrays)
        messages = list(super().configure_train(server_round, sent, config, grid))
        for message in messages:
            more = self.announce(server_round, params, message.metadata.dst_node_id)
            if more:
                records = {name: to_record(tree) for name, tree in more.items()}
                message.content = RecordDict({**message.content, **records})
        expected = {self.arrayrecord_key: named_arrays(sent)}
        for name, tree in self.expect(params).items():
            expected[name] = {leaf: np.asarray(each) for leaf, each in named_leaves(tree).items()}
        kept = frozenset(arrays) - frozenset(sent)
        sieve = Sieve(expected, kept, self.weighted_by_key)
        self._round = _Round(params, sieve, messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen the replies of a round, and make the next network of those that are sound."""
        if self._round is None:
            raise RuntimeError("aggregate_train needs the round that configure_train starts")
        params, sieve, messages = self._round
        self._round = None
        if not messages:
            return None, None
        sifted = sieve.sift(replies, asked(messages), server_round)
        counts = {
            "clients-used": len(sifted.used),
            "clients-refused": len(sifted.refused),
            "clients-failed": len(sifted.failed),
        }
        if not sifted.used:
            _logger.error("round %d has no reply to use: the global network stays", server_round)
            return None, MetricRecord(dict(counts))
        whole = {name: np.asarray(leaf) for name, leaf in named_leaves(params).items()}
        kept = {name: whole[name] for name in sieve.optional}
        for update in sifted.used:
            update.arrays[self.arrayrecord_key].update(kept)
        made, more = self.serve(server_round, params, sifted.used)
        contents = comparable([update.content for update in sifted.used])
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        metrics.update({**counts, **more})
        result = {name: np.asarray(leaf) for name, leaf in named_leaves(made).items()} | kept
        flaw = screen(result, whole)
        if flaw is not None:
            _logger.error("round %d: the network stays: in the new one, %s", server_round, flaw)
            return None, metrics
        return to_record({name: result[name].astype(whole[name].dtype) for name in whole}), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose the nodes that evaluate, and write to each."""
        sent = self._sent(arrays)
        self._evaluating = list(super().configure_evaluate(server_round, sent, config, grid))
        return self._evaluating

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average the metrics of those who evaluated."""
        contents, nodes = [], asked(self._evaluating)
        self._evaluating = []
        for reply in replies:
            if reply.has_error():
                flaw = error_of(reply)
            else:
                flaw = flaw_of_metrics(reply.content, self.weighted_by_key)
            if flaw is None:
                contents.append(reply.content)
            else:
                node = node_of(reply, nodes)
                _logger.warning("round %d: no evaluation by node %d: %s", server_round, node, flaw)
        if not contents:
            return None
        return self.evaluate_metrics_aggr_fn(comparable(contents), self.weighted_by_key)

    def network_of(self, update: ClientUpdate) -> Params:
        """Return the network that a client sent, nested dict of NumPy arrays."""
        return traverse_util.unflatten_dict(update.arrays[self.arrayrecord_key], sep="/")

    def _sent(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return what clients get of the global network."""
        if self._statistics == "average":
            return arrays
        return ArrayRecord({name: each for name, each in arrays.items() if not is_statistic(name)})
