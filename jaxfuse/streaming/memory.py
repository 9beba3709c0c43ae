"""What a streamed computation holds, counted; and its reads, with a cache in what is left."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from jaxfuse.checkpoints.source import Source, size_of, take
from jaxfuse.streaming.pieces import positions
from jaxfuse.symmetry.axes import TensorAxes


class Memory:
    """Count the bytes of the arrays that are held.

    Attributes:
        used: how many are.
        peak: how many were at most.
    """

    def __init__(self) -> None:
        self.used, self.peak = 0, 0

    def add(self, count: int) -> None:
        """Count bytes that stay."""
        self.used += count
        self.peak = max(self.peak, self.used)

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Count bytes for the length of a block."""
        self.add(count)
        try:
            yield
        finally:
            self.used -= count


class Reader:
    """Read blocks of the tensors of two checkpoints.

    Tensors are kept from the first read on while they fit in the cache, and none makes way for
    another: a sweep reads all of them in one order, where the last used would be the next to go.

    Attributes:
        sources: the checkpoints.
        bytes_read: of the arrays that were read from disk.
    """

    def __init__(self, sources: tuple[Source, Source], memory: Memory, cache: int) -> None:
        self.sources, self.bytes_read = sources, 0
        self._memory, self._room = memory, cache
        self._kept: dict[tuple[int, str], np.ndarray] = {}

    def block(self, k: int, tensor: TensorAxes, select: Mapping[int, np.ndarray]) -> np.ndarray:
        """Read of some axes of a tensor's view the given entries.

        Args:
            k: 0 for A, 1 for B.
            tensor: the view.
            select: per axis of the view that is not read as a whole the entries.

        Returns:
            The entries, in the dtype on disk.
        """
        leaf = self.sources[k].leaves[tensor.path]
        where = positions(tensor, leaf.shape, select)
        sizes = [len(select[axis]) if axis in select else n for axis, n in enumerate(tensor.shape)]
        return self.entries(k, tensor.path, where).reshape(sizes)

    def entries(self, k: int, name: str, where: Mapping[int, np.ndarray]) -> np.ndarray:
        """Read of some axes of a tensor the given entries."""
        if (k, name) not in self._kept:
            size = size_of(self.sources[k].leaves[name])
            if size > self._room:
                return self._read(k, name, where)
            self._room -= size
            self._memory.add(size)
            self._kept[k, name] = self._read(k, name, {})
        return take(self._kept[k, name], where)

    @contextmanager
    def keeping(self, k: int, name: str) -> Iterator[None]:
        """Keep a tensor for the length of a block, if it is not in the cache."""
        if (k, name) in self._kept or size_of(self.sources[k].leaves[name]) <= self._room:
            yield
            return
        self._kept[k, name] = self._read(k, name, {})
        try:
            yield
        finally:
            del self._kept[k, name]

    def _read(self, k: int, name: str, where: Mapping[int, np.ndarray]) -> np.ndarray:
        array = self.sources[k].read(name, where)
        self.bytes_read += array.nbytes
        return array
