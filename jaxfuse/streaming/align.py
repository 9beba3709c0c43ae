"""Align two checkpoints that stay on disk, within a budget of memory."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxfuse.affinity import Affinity, Linear
from jaxfuse.checkpoints.source import Source, open_source
from jaxfuse.checkpoints.stream import check_stream_output, write_stream
from jaxfuse.matching.nodes import nest
from jaxfuse.status import Status
from jaxfuse.streaming.ascent import Ascent, State
from jaxfuse.streaming.memory import Memory, Reader
from jaxfuse.streaming.plan import MEGABYTE, Plan
from jaxfuse.streaming.resume import Progress, fingerprint
from jaxfuse.streaming.scores import Permutations, Scorer
from jaxfuse.symmetry.chain import infer_chain
from jaxfuse.symmetry.permute import reorder_block
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import check_same_trees, is_weight

Report = Callable[[str, float], None]


class CheckpointAlignment(NamedTuple):
    """The matching of two checkpoints.

    Attributes:
        permutations: per group NumPy int32 `symmetry.shape(group)`, as `jaxfuse.permute` takes
            them: unit i of A corresponds to unit `permutation[i]` of B.
        objective: J at the matching.
        before: J in the order that B had.
        status: CONVERGED, NOT_CONVERGED, or ALREADY_ALIGNED where no matching beats that order.
        sweeps: passes over all groups.
        bytes_read: of the arrays that were read from disk, by this call.
        peak: the most bytes of arrays that were held at once, as counted.
    """

    permutations: dict[str, np.ndarray]
    objective: float
    before: float
    status: Status
    sweeps: int
    bytes_read: int
    peak: int


def align_checkpoints(
    path_a: str | os.PathLike[str],
    path_b: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    symmetry: Symmetry | None = None,
    memory: float = 4096.0,
    affinity: Affinity | None = None,
    start: Literal["known", "identity"] = "known",
    max_sweeps: int = 100,
    tolerance: float = 1e-6,
    progress: Report | None = None,
    force: bool = False,
) -> CheckpointAlignment:
    """Write network B in the order of network A, without ever holding either network."""
    if start not in ("known", "identity") or max_sweeps < 0 or not memory > 0:
        raise ValueError(
            "start is 'known' or 'identity', max_sweeps not negative and memory positive: got "
            f"{start!r}, {max_sweeps} and {memory}"
        )
    output, affinity = Path(output), affinity or Linear()
    sources = open_source(path_a), open_source(path_b)
    check_stream_output(output, sources[1], force=force)
    check_same_trees(sources[0].leaves, sources[1].leaves, (str(path_a), str(path_b)))
    if symmetry is None:
        symmetry = infer_chain(sources[0].leaves)
    for source in sources:
        symmetry.check(source.leaves)
    plan = Plan(
        symmetry,
        (sources[0].leaves, sources[1].leaves),
        (sources[0].whole, sources[1].whole),
        affinity,
    )
    limit = int(memory * MEGABYTE)
    work = plan.work(limit)
    count = Memory(limit)
    reader = Reader(sources, count, limit - work)
    ascent = Ascent(Scorer(plan, reader, count, work), max_sweeps, tolerance)
    options = (affinity, start, tolerance)
    saved = Progress(output, fingerprint(sources, symmetry, options))
    state = _climb(ascent, saved, start, progress or _silent)
    permutations, objective, status = _keep_better(ascent, state)
    nested = {
        group: np.asarray(columns) for group, columns in nest(symmetry, permutations).items()
    }
    rewrite = Rewrite(plan, reader, count, work, nested, progress or _silent)
    write_stream(output, sources[1], rewrite.pieces, force=force)
    saved.remove()
    return CheckpointAlignment(
        nested, objective, state.before, status, state.sweep, reader.bytes_read, count.peak
    )


def _climb(ascent: Ascent, saved: Progress, start: str, progress: Report) -> State:
    """Climb from the start, or from where an earlier call has come to."""
    problem = ascent.scorer.plan.problem
    state = saved.load()
    if state is None:
        identity = {node: np.arange(n, dtype=np.int32) for node, n in problem.sizes.items()}
        (before,) = ascent.scorer.value(
            [identity], progress=lambda share: progress("reading", share), check=True
        )
        known = frozenset(problem.nodes) if start == "identity" else frozenset()
        state = State(identity, known, before=before)
        saved.save(state)

    def visit(state: State) -> None:
        saved.save(state)
        progress(f"sweep {state.sweep + 1}", state.tree / len(problem.trees))

    return ascent.climb(state, visit)


def _keep_better(ascent: Ascent, state: State) -> tuple[Permutations, float, Status]:
    """Return the better of a matching and the identity, which wins ties."""
    (objective,) = ascent.scorer.value([state.permutations])
    if state.before >= objective:
        identity = {
            node: np.arange(len(columns), dtype=np.int32)
            for node, columns in state.permutations.items()
        }
        return identity, state.before, Status.ALREADY_ALIGNED
    return (
        state.permutations,
        objective,
        Status.NOT_CONVERGED if state.gained else Status.CONVERGED,
    )


class Rewrite:
    """The tensors of network B in a new order, piece by piece."""

    def __init__(
        self,
        plan: Plan,
        reader: Reader,
        memory: Memory,
        work: int,
        permutations: Mapping[str, np.ndarray],
        progress: Report,
    ) -> None:
        self._plan, self._reader, self._memory, self._work = plan, reader, memory, work
        self._permutations, self._progress, self._done = permutations, progress, 0

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Return a tensor in the new order, in pieces of its first axis."""
        rows = self._plan.rows(name)
        step = rows
        if rows is not None:
            fits = [n for n in _halvings(rows) if self._plan.write_bytes(name, n) <= self._work]
            step = fits[0]
        for begin in range(0, rows or 1, step or 1):
            with self._memory.holding(self._plan.write_bytes(name, step or 1)):
                yield self._piece(name, begin, min(begin + (step or 1), rows or 1))
        self._done += 1
        self._progress("writing", self._done / len(self._plan.leaves[1]))

    def _piece(self, name: str, begin: int, end: int) -> np.ndarray:
        plan, tensors = self._plan, self._plan.tensors(name)
        leaf = plan.leaves[1][name]
        rows = plan.rows(name)
        if rows is None:
            array = self._reader.entries(1, name, {})
            for tensor in tensors:
                block = reorder_block(
                    tensor.take(array), tensor, plan.symmetry, self._permutations, np
                )
                array = tensor.put(array, block)
            return array
        entries = np.arange(begin, end)
        if tensors and tensors[0].groups[0] is not None:
            entries = self._permutations[tensors[0].groups[0]][begin:end]
        width = leaf.shape[0] // rows
        flat = (entries[:, None] * width + np.arange(width)).ravel()
        array = self._reader.entries(1, name, {0: flat})
        for tensor in tensors:
            own = replace(
                tensor,
                shape=(end - begin, *tensor.shape[1:]),
            )
            block = reorder_block(
                own.take(array), own, plan.symmetry, self._permutations, np,
                cut=(0, slice(begin, end)),
            )
            array = own.put(array, block)
        return array


def _halvings(count: int) -> Iterator[int]:
    while count > 1:
        yield count
        count = -(-count // 2)
    yield 1


def _silent(name: str, share: float) -> None:
    """Report to nobody."""
