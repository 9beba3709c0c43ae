"""Tell the replies of a round that can be used from those that cannot."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from jaxfuse.federated.flower.records import named_arrays
from jaxfuse.federated.screen import screen

_logger = logging.getLogger(__name__)

Named = Mapping[str, np.ndarray]


class ClientUpdate(NamedTuple):
    """What one client brings back from a round, screened.

    Attributes:
        node: the id of its node.
        arrays: its arrays by the name of the record, then by the name of the leaf, in the dtypes of
            the global network.
        examples: how many examples it trained on.
        content: all its records, with metrics.
    """

    node: int
    arrays: dict[str, dict[str, np.ndarray]]
    examples: float
    content: RecordDict


class Sifted(NamedTuple):
    """The replies of a round.

    Attributes:
        used: one entry a client whose reply is sound, ordered by node.
        refused: why, for each node whose reply is not.
        failed: why, for each node that sent none.
    """

    used: list[ClientUpdate]
    refused: dict[int, str]
    failed: dict[int, str]


class Sieve(NamedTuple):
    """What a sound reply looks like.

    Attributes:
        records: names, shapes and dtypes of the arrays of each record; the network's comes first.
        optional: names of leaves of the network that are dropped where a reply has them.
        weighted_by: the metric that counts examples.
    """

    records: dict[str, dict[str, np.ndarray]]
    optional: frozenset[str]
    weighted_by: str

    def sift(self, replies: Iterable[Message], asked: Mapping[str, int], number: int) -> Sifted:
        """Sort the replies of a round, and log which nodes it goes on without, and why.

        Args:
            replies: the replies.
            asked: the node of each message that was sent, by the id of the message.
            number: of the round.
        """
        sifted = Sifted([], {}, {})
        for reply in replies:
            node = node_of(reply, asked)
            if reply.has_error():
                sifted.failed[node] = error_of(reply)
                continue
            update = self._read(node, reply.content)
            if isinstance(update, str):
                sifted.refused[node] = update
            else:
                sifted.used.append(update)
        sifted.used.sort(key=lambda update: update.node)
        answered = {*sifted.failed, *sifted.refused, *(update.node for update in sifted.used)}
        for node in asked.values():
            if node not in answered:
                sifted.failed[node] = "no reply before the round's timeout"
        for node, reason in sorted({**sifted.refused, **sifted.failed}.items()):
            verb = "refuses the reply of" if node in sifted.refused else "goes on without"
            _logger.warning("round %d %s node %d: %s", number, verb, node, reason)
        return sifted

    def _read(self, node: int, content: RecordDict) -> ClientUpdate | str:
        """Return a client's update, or why it cannot be used."""
        flaw = flaw_of_metrics(content, self.weighted_by)
        if flaw is not None:
            return flaw
        records = dict(content.array_records)
        network, *others = self.records
        if not others and network not in records and len(records) == 1:
            records = {network: next(iter(records.values()))}
        arrays = {}
        for name, like in self.records.items():
            if name not in records:
                return f"record {name!r} is missing; there are {sorted(records)}"
            try:
                found = named_arrays(records[name])
            except ValueError as error:
                return str(error)
            found = {leaf: found[leaf] for leaf in found if leaf not in self.optional}
            flaw = screen(found, like)
            if flaw is not None:
                return flaw if name == network else f"record {name!r}: {flaw}"
            arrays[name] = {leaf: found[leaf].astype(like[leaf].dtype, copy=False) for leaf in like}
        return ClientUpdate(node, arrays, _count(content, self.weighted_by), content)


def asked(messages: Iterable[Message]) -> dict[str, int]:
    """Return whom messages went to by their ids, which Flower gives them when they go out."""
    return {each.metadata.message_id: each.metadata.dst_node_id for each in messages}


def node_of(reply: Message, asked: Mapping[str, int]) -> int:
    """Return the node that a reply is about.

    Where a node is gone the SuperLink replies with an error, which has the SuperLink's own id.
    """
    return asked.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)


def error_of(reply: Message) -> str:
    """Return the error of a reply in one line, as another process worded it."""
    return f"error {reply.error.code}: {' '.join(str(reply.error.reason).split())}"


def flaw_of_metrics(content: RecordDict, weighted_by: str) -> str | None:
    """Return why the metrics of a reply cannot be weighted, or None."""
    records = list(content.metric_records.values())
    if len(records) != 1:
        return f"there are {len(records)} metric records, not one"
    if weighted_by not in records[0]:
        return f"metric {weighted_by!r} is missing; there are {sorted(records[0])}"
    count = records[0][weighted_by]
    if isinstance(count, list) or not (math.isfinite(count) and count > 0):
        return f"metric {weighted_by!r} is {count}, not a positive number"
    return None


def comparable(contents: list[RecordDict]) -> list[RecordDict]:
    """Return the replies whose metrics have the names and lengths that most have.

    Flower averages metrics by name, and stops a run over lists of unequal lengths.

    Args:
        contents: replies with one metric record each.
    """
    shapes = [_shape(next(iter(content.metric_records.values()))) for content in contents]
    if not shapes:
        return []
    ((usual, _),) = Counter(shapes).most_common(1)
    kept = [each for each, shape in zip(contents, shapes, strict=True) if shape == usual]
    if len(kept) < len(contents):
        _logger.warning(
            "metrics of %d of %d replies have other names than those of the rest, and are left out",
            len(contents) - len(kept),
            len(contents),
        )
    return kept


def _count(content: RecordDict, name: str) -> float:
    return float(cast(float, next(iter(content.metric_records.values()))[name]))


def _shape(metrics: MetricRecord) -> frozenset[tuple[str, int]]:
    """Return the names of metrics, with the lengths of lists and -1 for scalars."""
    return frozenset(
        (name, len(value) if isinstance(value, list) else -1) for name, value in metrics.items()
    )
