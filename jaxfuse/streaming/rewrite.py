"""The tensors of a checkpoint in a new order, piece by piece."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from jaxfuse.streaming.pieces import rows_of
from jaxfuse.streaming.scores import Scorer
from jaxfuse.symmetry.permute import reorder_block


class Rewrite:
    """The tensors of network B with its units reordered.

    Attributes:
        scorer: which reads the network, and knows how its tensors may be cut.
        permutations: per group of the symmetry its permutations, as `jaxfuse.permute` takes them.
        progress: told the share that is done.
    """

    def __init__(
        self,
        scorer: Scorer,
        permutations: Mapping[str, np.ndarray],
        progress: Callable[[float], None],
    ) -> None:
        self.plan, self.reader = scorer.plan, scorer.reader
        self.memory, self.work = scorer.memory, scorer.work
        self.permutations, self.progress = permutations, progress
        self._done = 0

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Return a tensor in the new order, in pieces along its first axis."""
        rows = self.plan.rows(name)
        step = rows
        while step > 1 and self.plan.write_bytes(name, step) > self.work:
            step = -(-step // 2)
        with ExitStack() as held:
            held.enter_context(self.memory.holding(self.plan.write_bytes(name, step)))
            if self.plan.whole[1]:
                held.enter_context(self.reader.keeping(1, name))
            for begin in range(0, rows, step):
                yield self._piece(name, rows, slice(begin, min(begin + step, rows)))
        self._done += 1
        self.progress(self._done / len(self.plan.leaves[1]))

    def _piece(self, name: str, rows: int, part: slice) -> np.ndarray:
        """Return a part of the rows of a tensor in the new order."""
        tensors = self.plan.tensors(name)
        if part == slice(0, rows):
            array, cut = self.reader.entries(1, name, {}), None
        else:
            entries = np.arange(part.start, part.stop)
            if tensors and tensors[0].groups[0] is not None:
                entries = self.permutations[tensors[0].groups[0]][part]
            width = self.plan.leaves[1][name].shape[0] // rows
            array, cut = self.reader.entries(1, name, {0: rows_of(entries, width)}), (0, part)
        for tensor in tensors:
            if cut is not None:
                tensor = replace(tensor, shape=(part.stop - part.start, *tensor.shape[1:]))
            block = tensor.take(array)
            block = reorder_block(block, tensor, self.plan.symmetry, self.permutations, np, cut)
            array = tensor.put(array, block)
        return array
