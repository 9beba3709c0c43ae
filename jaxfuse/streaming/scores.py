"""Scores and objective of two networks on disk, term by term."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from jaxfuse.affinity.terms import Term
from jaxfuse.status import Status
from jaxfuse.streaming.memory import Memory, Reader
from jaxfuse.streaming.pieces import below, images, piece_scores, piece_value, rows_of
from jaxfuse.streaming.plan import Cut, Plan, is_own

Permutations = Mapping[str, np.ndarray]


class Scorer:
    """Scores of nodes and the objective at permutations, within a budget.

    Attributes:
        plan: the terms.
        reader: their tensors.
        memory: the count of what is held.
        work: bytes that a step may take; the rest is the cache of the reader.
    """

    def __init__(self, plan: Plan, reader: Reader, memory: Memory, work: int) -> None:
        self.plan, self.reader, self.memory, self.work = plan, reader, memory, work

    def add_scores(
        self,
        totals: dict[str, np.ndarray],
        permutations: Permutations,
        known: Collection[str] | None = None,
    ) -> bool:
        """Add dJ/dP `[n, n]` of some nodes at permutations.

        Args:
            totals: per node what to add to.
            permutations: int32 `[n]` of every node.
            known: the nodes whose permutations mean something; terms with others are left out. By
                default all.

        Returns:
            Whether there was such a term.
        """
        base, found = self.plan.score_bytes(list(totals)), False
        for term, link in self.plan.terms:
            for slot, node in enumerate(link):
                others = link[:slot] + link[slot + 1 :]
                if node in totals and (known is None or set(others) <= set(known)):
                    columns = [permutations[other] for other in link]
                    self._add_term(term, slot, columns, totals[node], self.work - base)
                    found = True
        return found

    def value(
        self,
        permutations: Sequence[Permutations],
        nodes: Collection[str] | None = None,
        base: int = 0,
        progress: Callable[[float], None] | None = None,
        check: bool = False,
    ) -> list[float]:
        """Return J at some matchings, summed in float64.

        Args:
            permutations: the matchings, int32 `[n]` of every node each.
            nodes: of J only the terms that these take part in; by default all.
            base: bytes that the caller holds.
            progress: told the share that is done.
            check: whether to look for values that are no numbers.

        Raises:
            ValueError: if asked to check, for a tensor that holds NaN or infinity.
        """
        totals = [0.0] * len(permutations)
        for number, (term, link) in enumerate(self.plan.terms):
            if nodes is not None and not set(link) & set(nodes):
                continue
            cut = self._cut(term, None, self.work - base)
            with self._reading(term, cut):
                for begin in range(0, term.tensor.shape[cut.axis], cut.count):
                    entries = self._range(term, cut, begin)
                    a = self._block(0, term, cut, entries, check)
                    for index, matching in enumerate(permutations):
                        columns = [matching[node] for node in link]
                        theirs, local = self._matched(term, cut.axis, entries, columns)
                        b = self._block(1, term, cut, theirs, check)
                        totals[index] += piece_value(term, (a, b), local)
            if progress is not None:
                progress((number + 1) / len(self.plan.terms))
        return totals

    def _add_term(
        self,
        term: Term,
        slot: int,
        columns: list[np.ndarray],
        total: np.ndarray,
        available: int,
    ) -> None:
        cut = self._cut(term, slot, available)
        width, size = below(term, term.carriers[slot]), term.tensor.shape[cut.axis]
        in_slot = cut.axis in term.carriers[slot].axes
        with self._reading(term, cut):
            if is_own(term, slot, cut.axis):
                self._add_pairs(term, slot, columns, total, cut)
                return
            for begin in range(0, size, cut.count):
                entries = self._range(term, cut, begin)
                theirs, local = self._matched(term, cut.axis, entries, columns, slot)
                a, b = self._block(0, term, cut, entries), self._block(1, term, cut, theirs)
                scores = piece_scores(term, slot, (a, b), local)
                if in_slot:
                    total[np.ix_(rows_of(entries, width), rows_of(theirs, width))] += scores
                else:
                    total += scores

    def _add_pairs(
        self,
        term: Term,
        slot: int,
        columns: list[np.ndarray],
        total: np.ndarray,
        cut: Cut,
    ) -> None:
        """Compare every piece of A with every piece of B, all of one size."""
        width, size = below(term, term.carriers[slot]), term.tensor.shape[cut.axis]
        # The last piece overlaps the one before it: what both cover is not added again.
        begins = [(min(begin, size - cut.count), begin) for begin in range(0, size, cut.count)]
        for start, begin in begins:
            a = self._block(0, term, cut, np.arange(start, start + cut.count))
            for start_b, begin_b in begins:
                b = self._block(1, term, cut, np.arange(start_b, start_b + cut.count))
                scores = piece_scores(term, slot, (a, b), columns)
                rows = slice(begin * width, (start + cut.count) * width)
                images = slice(begin_b * width, (start_b + cut.count) * width)
                total[rows, images] += scores[
                    (begin - start) * width :, (begin_b - start_b) * width :
                ]

    def _matched(
        self,
        term: Term,
        axis: int,
        entries: np.ndarray,
        columns: list[np.ndarray],
        slot: int | None = None,
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the entries of B that match some of A, and the permutations among these alone."""
        theirs, local = entries, list(columns)
        for index, carrier in enumerate(term.carriers):
            if index != slot and carrier.axes[0] == axis:
                theirs, local[index] = images(columns[index], entries, below(term, carrier))
        return theirs, local

    def _cut(self, term: Term, slot: int | None, available: int) -> Cut:
        cut = self.plan.cut(term, slot, available)
        assert cut is not None, "the plan has seen to it that the least fits"
        return cut

    def _reading(self, term: Term, cut: Cut) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(self.memory.holding(cut.bytes))
        for k in cut.keep:
            stack.enter_context(self.reader.keeping(k, term.tensor.path))
        return stack

    def _range(self, term: Term, cut: Cut, begin: int) -> np.ndarray:
        return np.arange(begin, min(begin + cut.count, term.tensor.shape[cut.axis]))

    def _block(
        self, k: int, term: Term, cut: Cut, entries: np.ndarray, check: bool = False
    ) -> np.ndarray:
        select = {axis: np.array([entry]) for axis, entry in term.entries}
        block = self.reader.block(k, term.tensor, {**select, cut.axis: entries})
        if check and not np.isfinite(block).all():
            raise ValueError(
                f"leaf {term.tensor.path!r} of {self.reader.sources[k].path} holds NaN or "
                f"infinity: {Status.NON_FINITE.message}"
            )
        return block
