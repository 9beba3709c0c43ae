"""Try to move what is said to be pinned: swap two entries and see whether the outputs change."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxfuse.symmetry.proof.evaluate import Evaluation

if TYPE_CHECKING:
    from jaxfuse.symmetry.axes import TensorAxes
    from jaxfuse.symmetry.spec import Symmetry

Entries = Sequence[int] | np.ndarray

# Swaps per pinned axis. A conclusive one settles it; more of them find an axis that is pinned in
# part.
_SWAPS = 3
# A swap that changes nothing is told from one of entries that barely matter by this ratio.
_CONTRAST = 100.0


class Pin(NamedTuple):
    """Where a pinned name occurs.

    Attributes:
        size: the number of its entries.
        places: pairs of a leaf block and the axes of its view that carry the name.
    """

    size: int
    places: tuple[tuple["TensorAxes", tuple[int, ...]], ...]


class Findings(NamedTuple):
    """What swapping two entries of each pinned axis did.

    Attributes:
        changes: per pinned name the smallest change of a conclusive swap.
        movable: per name that could be moved the pairs of entries whose swap changed nothing.
        inconclusive: the names of which no entry that was tried has influence.
    """

    changes: dict[str, float]
    movable: dict[str, tuple[tuple[int, int], ...]]
    inconclusive: tuple[str, ...]


def find_pins(symmetry: "Symmetry", evaluation: Evaluation, by_hand: str) -> dict[str, Pin]:
    """Collect the pinned axes of two entries and more on leaves that can be changed.

    Args:
        symmetry: the symmetry.
        evaluation: tells which leaves are real.
        by_hand: the reason of the pins that are left out.
    """
    skipped = {name for name, _, reason in symmetry.pinned if reason == by_hand}
    found: dict[str, Pin] = {}
    for tensor in symmetry.tensors:
        if tensor.path not in evaluation.paths:
            continue
        for name in dict.fromkeys(tensor.pins):
            axes = tuple(axis for axis, pin in enumerate(tensor.pins) if pin == name)
            if name is None or name in skipped or tensor.shape[axes[0]] < 2:
                continue
            places = found[name].places if name in found else ()
            found[name] = Pin(tensor.shape[axes[0]], (*places, (tensor, axes)))
    return found


def probe(
    pins: dict[str, Pin], evaluation: Evaluation, tolerance: float, rng: np.random.Generator
) -> Findings:
    """Swap pairs of entries of every pinned axis, on all leaves that carry it at once.

    Args:
        pins: the pinned axes.
        evaluation: the function.
        tolerance: the largest relative change that counts as rounding.
        rng: the source of the pairs and of the noise.
    """
    findings = Findings({}, {}, ())
    inconclusive = []
    for name, pin in pins.items():
        search = _Search(pin, evaluation, tolerance, rng)
        verdicts = {pair: search.swap(pair) for pair in search.pairs()}
        if all(change is None for change, _ in verdicts.values()):
            entry = search.influential()
            if entry is not None:
                other = int(rng.choice([k for k in range(pin.size) if k != entry]))
                verdicts[entry, other] = search.swap((entry, other))
        changes = [change for change, _ in verdicts.values() if change is not None]
        moved = tuple(pair for pair, (_, moves) in verdicts.items() if moves)
        if changes:
            findings.changes[name] = min(changes)
        else:
            inconclusive.append(name)
        if moved:
            findings.movable[name] = moved
    return findings._replace(inconclusive=tuple(inconclusive))


class _Search:
    """Swaps and disturbances of one pinned axis."""

    def __init__(
        self, pin: Pin, evaluation: Evaluation, tolerance: float, rng: np.random.Generator
    ) -> None:
        self.pin, self.evaluation, self.tolerance, self.rng = pin, evaluation, tolerance, rng

    def pairs(self) -> list[tuple[int, int]]:
        """Draw pairs of entries, all there are of three entries and fewer."""
        size = self.pin.size
        if size <= _SWAPS:
            return list(itertools.combinations(range(size), 2))
        drawn: dict[tuple[int, int], None] = {}
        while len(drawn) < _SWAPS:
            i, j = sorted(self.rng.choice(size, 2, replace=False).tolist())
            drawn[i, j] = None
        return list(drawn)

    def swap(self, pair: tuple[int, int]) -> tuple[float | None, bool]:
        """Return the change, None if nothing can be concluded, and whether the pair moves."""
        order = np.arange(self.pin.size)
        order[list(pair)] = order[list(pair[::-1])]
        leaves = dict(self.evaluation.leaves)
        for tensor, axes in self.pin.places:
            block = tensor.take(leaves[tensor.path])
            for axis in axes:
                block = np.take(block, order, axis=axis)
            leaves[tensor.path] = tensor.put(leaves[tensor.path], block)
        change = self.evaluation.change(leaves)
        if not change <= self.tolerance:
            return change, False
        if self.evaluation.is_discrete:
            return None, False
        influence = self.influence(pair)
        if influence <= self.tolerance or change * _CONTRAST > influence:
            return None, False
        return change, True

    def influence(self, entries: Entries) -> float:
        """Return the change that noise on these entries makes, of the size of their differences."""
        leaves = dict(self.evaluation.leaves)
        for tensor, axes in self.pin.places:
            block = tensor.take(leaves[tensor.path])
            for axis in axes:
                block = self._disturbed(block, axis, entries)
            leaves[tensor.path] = tensor.put(leaves[tensor.path], block)
        return self.evaluation.change(leaves)

    def influential(self) -> int | None:
        """Find an entry that the outputs depend on by halving the axis, None if there is none."""
        entries = np.arange(self.pin.size)
        if self.evaluation.is_discrete or self.influence(entries) <= self.tolerance:
            return None
        while len(entries) > 1:
            first, second = np.array_split(entries, 2)
            entries = second if self.influence(first) <= self.tolerance else first
        return int(entries[0])

    def _disturbed(self, block: np.ndarray, axis: int, entries: Entries) -> np.ndarray:
        noise = self.rng.uniform(0.5, 1.5, block.shape) * self.rng.choice([-1, 1], block.shape)
        noise *= np.std(block, axis=axis, keepdims=True)
        along = [-1 if k == axis else 1 for k in range(block.ndim)]
        chosen = np.isin(np.arange(block.shape[axis]), entries).reshape(along)
        disturbed = block + noise * chosen
        if np.all(block > 0) or np.all(block < 0):  # a variance stays one
            return np.sign(block) * np.abs(disturbed)
        return disturbed
