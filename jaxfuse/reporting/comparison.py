"""Measure what fusion gives: parents, their ensemble, the plain average, aligned averages."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.affinity import Affinity
from jaxfuse.align import Alignment, align_params
from jaxfuse.connectivity import barrier
from jaxfuse.ensembles import mean_probabilities
from jaxfuse.fusion import average, fuse
from jaxfuse.methods import AnyMethod
from jaxfuse.status import Status
from jaxfuse.symmetry import Symmetry, infer_symmetry, verify
from jaxfuse.training.metrics import ApplyFn, Metrics, evaluate

PyTree = Any
Progress = Callable[[str, float], None]
_TRACED = 2  # examples that the function is traced on
_VERIFIED = 4  # examples on which the symmetry is verified


@dataclass(frozen=True)
class Row:
    """One network, or combination of networks, of a comparison.

    Attributes:
        name: what it is.
        accuracy: share of correct test examples.
        loss: mean cross entropy on the test examples, in nats.
        barrier: rise of the loss over the line between the parents (`Barrier.linear`), for two.
        seconds: time to make it, compilation included; None where nothing is computed.
        status: what the matchings behind it say of themselves, where one is not CONVERGED.
    """

    name: str
    accuracy: float
    loss: float
    barrier: float | None = None
    seconds: float | None = None
    status: str | None = None


@dataclass(frozen=True)
class Curve:
    """The loss along a path between two networks.

    Attributes:
        name: which path.
        ts: positions, 0 to 1.
        losses: the loss at each.
        barrier: its largest rise over the straight line between the end points.
    """

    name: str
    ts: list[float]
    losses: list[float]
    barrier: float


@dataclass(frozen=True)
class Comparison:
    """All rows and curves, and the fused networks by name."""

    rows: list[Row]
    curves: list[Curve]
    fused: dict[str, PyTree]


def compare(
    params: Sequence[PyTree],
    apply_fn: ApplyFn,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    affinities: Mapping[str, Affinity],
    method: AnyMethod | str = "portfolio",
    symmetry: Symmetry | None = None,
    inputs: PyTree = None,
    weights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    points: int = 25,
    progress: Progress | None = None,
) -> Comparison:
    """Fuse networks in every way and evaluate each on labelled examples.

    Args:
        params: K networks of one architecture.
        apply_fn: `apply_fn(params, images) -> logits`, hashable.
        images: `[n, ...]` test images, normalised.
        labels: `[n]` integer labels.
        affinities: the affinities to align with, by name.
        method: as in `align_params`.
        symmetry: which axes must be permuted together; traced from `apply_fn` by default
            (`jaxfuse.infer_symmetry`).
        inputs: examples whose activations the alignment looks at, and on which the average is
            repaired, as in `fuse`.
        weights: the shares of the networks; equal by default.
        names: what to call the networks.
        points: positions on each barrier curve.
        progress: called with a description and the share of the work that is done.

    Returns:
        The comparison. Barriers and curves are measured for two networks.

    Raises:
        ValueError: if permuting a group changes what the first network computes, as where the
            symmetry is another model's.
    """
    if affinities:
        remedy = "it is another model's: leave symmetry= out, and it is traced from the function"
        if symmetry is None:
            symmetry = infer_symmetry(apply_fn, params[0], images[:_TRACED])
            remedy = "a rule of the tracer is wrong: give the right one with symmetry=, and report"
        _check_symmetry(symmetry, apply_fn, params[0], images, remedy)
    names = list(names or [f"parent {index}" for index in range(len(params))])
    looks: dict[str, Any] = {} if inputs is None else {"apply_fn": apply_fn, "inputs": inputs}
    pair = len(params) == 2
    work = _Work(1 + pair + len(affinities) * (1 + pair), progress)

    def score(candidate: PyTree) -> Metrics:
        return evaluate(apply_fn, candidate, images, labels)

    def row(
        name: str,
        candidate: PyTree,
        path: Curve | None = None,
        seconds: float | None = None,
        status: str | None = None,
    ) -> Row:
        metrics = score(candidate)
        rise = None if path is None else path.barrier
        return Row(name, float(metrics.accuracy), float(metrics.loss), rise, seconds, status)

    def curve(name: str, other: PyTree) -> Curve | None:
        if not pair:
            return None
        ticks = work.ticks(f"loss between the networks, {name}", points)

        def loss_fn(candidate: PyTree) -> jax.Array:
            loss = score(candidate).loss
            ticks()
            return loss

        result = barrier(loss_fn, params[0], other, points)
        return Curve(name, result.ts.tolist(), result.losses.tolist(), float(result.linear))

    work.step("evaluating the parents")
    rows = [row(name, each) for name, each in zip(names, params, strict=True)]
    rows.append(_ensemble_row(apply_fn, params, images, labels))
    paths = [curve("not aligned", params[-1])]
    started = time.perf_counter()
    plain = jax.block_until_ready(average(params, weights))
    rows.append(row("plain average", plain, paths[0], time.perf_counter() - started))
    fused = {}
    for name, affinity in affinities.items():
        work.step(f"aligning, {name} affinity")
        started = time.perf_counter()
        alignments = [
            align_params(
                params[0],
                other,
                symmetry=symmetry,
                affinity=affinity,
                method=method,
                **looks,
            )
            for other in params[1:]
        ]
        made = fuse(params, weights, alignments, symmetry=symmetry, **looks)
        fused[name] = jax.block_until_ready(made)
        seconds = time.perf_counter() - started
        paths.append(curve(f"aligned, {name}", alignments[0].params if pair else None))
        status = _tell_status(alignments, names)
        rows.append(row(f"aligned average, {name}", fused[name], paths[-1], seconds, status))
    work.finish()
    return Comparison(rows, [path for path in paths if path is not None], fused)


def _check_symmetry(
    symmetry: Symmetry, apply_fn: ApplyFn, params: PyTree, images: np.ndarray, remedy: str
) -> None:
    """Refuse a symmetry if the function changes when the units of its groups change places."""
    # Without pins nothing is spent on the opposite proof, that no symmetry was missed.
    tensors = tuple(replace(tensor, pins=()) for tensor in symmetry.tensors)
    groups = replace(symmetry, tensors=tensors)
    found = verify(groups, apply_fn, params, images[:_VERIFIED], key=jax.random.key(0))
    # An error that is NaN comes from weights that are: the alignment refuses those by name.
    broken = [group for group, error in found.errors.items() if error > found.tolerance]
    if not broken and found.all > found.tolerance:
        broken = ["all groups at once"]
    if broken:
        raise ValueError(
            f"permuting the units of {', '.join(map(repr, broken))} changes what the network "
            f"computes, so the symmetry is not this network's; {remedy}"
        )


def _tell_status(alignments: Sequence[Alignment], names: Sequence[str]) -> str | None:
    """Say which matchings did not converge, and why."""
    told: dict[str, list[str]] = {}
    for name, alignment in zip(names[1:], alignments, strict=True):
        status = Status(int(alignment.status))
        if status != Status.CONVERGED:
            told.setdefault(f"{status.name}, {status.message}", []).append(name)
    return "; ".join(f"{', '.join(which)}: {text}" for text, which in told.items()) or None


def _ensemble_row(
    apply_fn: ApplyFn, params: Sequence[PyTree], images: np.ndarray, labels: np.ndarray
) -> Row:
    """Evaluate the mean of the predicted probabilities."""
    started = time.perf_counter()
    predict = jax.jit(apply_fn)
    correct, loss = 0.0, 0.0
    for begin in range(0, len(labels), 1000):
        batch, wanted = images[begin : begin + 1000], labels[begin : begin + 1000]
        probabilities = mean_probabilities(jnp.stack([predict(each, batch) for each in params]))
        chosen = jnp.take_along_axis(probabilities, jnp.asarray(wanted)[:, None], axis=1)
        correct += float(jnp.sum(jnp.argmax(probabilities, axis=1) == wanted))
        loss -= float(jnp.sum(jnp.log(jnp.maximum(chosen, jnp.finfo(chosen.dtype).tiny))))
    seconds = time.perf_counter() - started
    return Row("prediction ensemble", correct / len(labels), loss / len(labels), None, seconds)


class _Work:
    """Count the steps of a comparison and tell how much is done."""

    def __init__(self, steps: int, progress: Progress | None) -> None:
        self.steps, self.done, self.progress = steps, -1, progress

    def step(self, description: str) -> None:
        self.done += 1
        self._tell(description, 0.0)

    def ticks(self, description: str, count: int) -> Callable[[], None]:
        self.step(description)
        seen = 0

        def tick() -> None:
            nonlocal seen
            seen += 1
            self._tell(description, seen / count)

        return tick

    def finish(self) -> None:
        self.done = self.steps
        self._tell("done", 0.0)

    def _tell(self, description: str, share: float) -> None:
        if self.progress is not None:
            self.progress(description, min(1.0, (self.done + share) / self.steps))
