"""Align two checkpoints that stay on disk, within a budget of memory."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxfuse.checkpoints.source import Source, open_source
from jaxfuse.checkpoints.stream import check_stream_output, write_stream
from jaxfuse.matching.nodes import nest
from jaxfuse.status import Status
from jaxfuse.streaming.ascent import Ascent, State
from jaxfuse.streaming.memory import Memory, Reader
from jaxfuse.streaming.plan import MEGABYTE, Plan
from jaxfuse.streaming.resume import Progress, fingerprint
from jaxfuse.streaming.rewrite import Rewrite
from jaxfuse.streaming.scores import Permutations, Scorer
from jaxfuse.symmetry.chain import infer_chain
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import check_same_trees

Report = Callable[[str, float], None]


class CheckpointAlignment(NamedTuple):
    """The matching of two checkpoints.

    Attributes:
        permutations: per group NumPy int32 of shape `symmetry.shape(group)`, as `jaxfuse.permute`
            takes them: unit i of A corresponds to unit `permutation[i]` of B.
        objective: the similarity at the matching, summed in float64.
        before: the similarity in the order that B had.
        status: CONVERGED, NOT_CONVERGED, or ALREADY_ALIGNED where no matching beats that order.
        sweeps: passes over all groups, those of a call that was interrupted included.
        bytes_read: of the arrays that this call read from disk.
        peak: the most bytes of arrays that it held at once, as it counts them.
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
    start: Literal["known", "identity"] = "known",
    max_sweeps: int = 100,
    tolerance: float = 1e-6,
    progress: Report | None = None,
    force: bool = False,
) -> CheckpointAlignment:
    """Write network B in the order of network A, without holding either of them in memory.

    Coordinate ascent on the similarity of the weights (Git Re-Basin's weight matching, as
    `jaxfuse.CoordinateAscent` with `jaxfuse.Linear`), whose state is the permutations alone: the
    scores of one group after another are summed over tensors that are read in pieces and dropped.
    What the budget leaves is a cache of tensors, so networks that fit are read once.

    The budget counts arrays: tensors, their float32 pieces, the scores and the copies that their
    assignment makes. It must hold the scores of the largest group, `20 n^2` bytes with its
    assignment, and one entry of an axis of each tensor: `jaxfuse.needed_memory` tells from shapes.
    Two Llama networks of 6.7 billion weights (32 blocks, width 4096, hidden 11,008) need 2311.25
    megabytes, all of it for the scores of one MLP. The interpreter, JAX and compiled programs come
    on top, and pages of the files that the system maps while a piece is read.

    After every group the permutations are written beside the output, to
    `.{output name}-progress.npz`. If the call is cut off, the same call goes on from there, as long
    as files, symmetry and options are the same; the budget may be another one.

    Args:
        path_a: the reference: a `.safetensors` file, a folder of several with
            `model.safetensors.index.json`, or the folder of an orbax checkpoint, whose tensors are
            held whole.
        path_b: the network to reorder, likewise, with the same names and shapes.
        output: a `.safetensors` file; or, if B is a folder of safetensors files, a folder for as
            many, with its index. Names, dtypes and metadata are those of B; other files in its
            folder are not copied. It is written whole or not at all.
        symmetry: which axes must be permuted together, over the names in the checkpoints; by
            default read off them as a feed-forward chain (`jaxfuse.infer_chain`).
            `jaxfuse.infer_symmetry` traces that of any model on shapes alone.
        memory: megabytes (2**20 bytes) that arrays may take.
        start: where the first sweep begins. "known" matches each group by the tensors that join it
            to inputs, outputs and groups that are matched already; "identity" takes the others to
            be in order, as Git Re-Basin does, and recovers fewer planted pairs
            (`benchmarks/planted_recovery.py`).
        max_sweeps: most passes over all groups (100, as Git Re-Basin's code).
        tolerance: relative gain of a group below which it stays as it is.
        progress: called with the name of the step and the share of it that is done, 0 to 1. An
            exception that it raises cuts the call off.
        force: whether an output that exists may be replaced.

    Returns:
        A `CheckpointAlignment`, whose similarity is never below that of the order B had.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        FileExistsError: if the output exists, and `force` is not set or it is something else.
        ValueError: for checkpoints that can't be read or differ in names or shapes, a symmetry that
            does not fit them, a budget that is too small, with what it is too small for; for a
            tensor that carries a group and holds NaN or infinity.

    Not differentiable, and not for `jit`: it reads and writes files.

    Examples:
        >>> import tempfile, jax, jax.numpy as jnp
        >>> from jaxfuse.checkpoints import read, write
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> first, last = jax.random.normal(k1, (8, 4)), jax.random.normal(k2, (3, 8))
        >>> order = jnp.array([3, 1, 4, 7, 5, 2, 6, 0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     a, b, out = (f"{folder}/{name}.safetensors" for name in ("a", "b", "out"))
        ...     write(a, {"fc1.weight": first, "fc2.weight": last})
        ...     write(b, {"fc1.weight": first[order], "fc2.weight": last[:, order]})
        ...     found = align_checkpoints(a, b, out, memory=1.0)
        ...     bool(jnp.array_equal(read(out)["fc1.weight"], first))
        True
        >>> found.status.name, found.peak <= 2**20
        ('CONVERGED', True)
    """
    if start not in ("known", "identity") or max_sweeps < 0 or not memory > 0:
        raise ValueError(
            "start is 'known' or 'identity', max_sweeps not negative and memory positive: got "
            f"start={start!r}, max_sweeps={max_sweeps} and memory={memory}"
        )
    output, report = Path(output), progress or _report_to_nobody
    sources = open_source(path_a), open_source(path_b)
    check_stream_output(output, sources[1], force=force)
    check_same_trees(sources[0].leaves, sources[1].leaves, (str(path_a), str(path_b)))
    symmetry = infer_chain(sources[0].leaves) if symmetry is None else symmetry
    for source in sources:
        symmetry.check(source.leaves)
    scorer = _make_scorer(sources, symmetry, int(memory * MEGABYTE))
    ascent = Ascent(scorer, max_sweeps, tolerance)
    saved = Progress(output, fingerprint(sources, symmetry, (start, tolerance)))
    state = _climb(ascent, saved, start, report)
    flat, objective, status = _keep_better(scorer, state)
    nested = nest(symmetry, {node: jnp.asarray(each) for node, each in flat.items()})
    permutations = {group: np.asarray(each) for group, each in nested.items()}
    rewrite = Rewrite(scorer, permutations, lambda share: report("writing", share))
    write_stream(output, sources[1], rewrite.pieces, force=force)
    saved.remove()
    read, peak = scorer.reader.bytes_read, scorer.memory.peak
    return CheckpointAlignment(
        permutations, objective, state.before, status, state.sweep, read, peak
    )


def _make_scorer(sources: tuple[Source, Source], symmetry: Symmetry, limit: int) -> Scorer:
    first, second = sources
    plan = Plan(symmetry, (first.leaves, second.leaves), (first.whole, second.whole))
    work, memory = plan.work(limit), Memory()
    return Scorer(plan, Reader(sources, memory, limit - work), memory, work)


def _climb(ascent: Ascent, saved: Progress, start: str, report: Report) -> State:
    """Climb from the start, or from where an earlier call has come to."""
    problem = ascent.scorer.plan.problem
    state = saved.load()
    if state is None:
        identity = {node: np.arange(n, dtype=np.int32) for node, n in problem.sizes.items()}
        (before,) = ascent.scorer.value(
            [identity], progress=lambda share: report("reading", share), check=True
        )
        known = frozenset(problem.nodes) if start == "identity" else frozenset()
        state = State(identity, known, before)

    def visit(state: State) -> None:
        saved.save(state)
        report(f"sweep {state.sweep + 1}", state.tree / len(problem.trees))

    return ascent.climb(state, visit)


def _keep_better(scorer: Scorer, state: State) -> tuple[Permutations, float, Status]:
    """Return the better of a matching and the identity, which wins ties."""
    (objective,) = scorer.value([state.permutations])
    if state.before < objective:
        status = Status.NOT_CONVERGED if state.gained else Status.CONVERGED
        return state.permutations, objective, status
    identity = {
        node: np.arange(len(columns), dtype=np.int32)
        for node, columns in state.permutations.items()
    }
    return identity, state.before, Status.ALREADY_ALIGNED


def _report_to_nobody(name: str, share: float) -> None:
    """Say nothing."""
