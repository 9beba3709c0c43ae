"""What the tracer finds in every model of the zoo, proved both ways, and a planted recovery each.

Run from the root of the repository: `python -m benchmarks.symmetry_zoo`. Rows that the JSON file
holds already are not measured again.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from rich.console import Console

from benchmarks.doubles import EQUINOX, LINEN, PLAIN
from benchmarks.record import write_json
from jaxfuse import Symmetry, align_params, infer_symmetry, permute
from jaxfuse.atomic import write_text
from jaxfuse.models import functional
from jaxfuse.models.zoo import ZOO
from jaxfuse.symmetry import random_permutations
from jaxfuse.symmetry.proof.jitter import jitter
from jaxfuse.symmetry.tree import is_weight, map_named, named_leaves

PyTree = Any
RESULTS = Path(__file__).parent / "results"


class Subject(NamedTuple):
    """A model to look at, small; and its published size as shapes, if it has one."""

    name: str
    kind: str
    apply_fn: Callable[..., Any]
    params: PyTree
    inputs: tuple[Any, ...]
    published: tuple[PyTree, tuple[Any, ...]] | None = None


@dataclass(frozen=True)
class Row:
    """What was found of one variant.

    Attributes:
        name: the variant.
        kind: the library that it is written in.
        groups: groups found.
        over: of these, groups with one permutation for each entry of another axis.
        coverage: share of the parameters on at least one group.
        trace_seconds: processor time to find them, small.
        published_weights: weights at the published size, in millions.
        published_seconds: processor time to find them there.
        holds: whether every group leaves the function as it is.
        error: the largest relative change.
        pinned: axes pinned.
        movable: of these, axes with a swap that changed nothing.
        inconclusive: of these, axes without influence on the inputs tried.
        recovered: whether `align_params` brought a permuted copy back, bit for bit.
        output_error: largest relative difference of the outputs of the copy brought back.
        align_seconds: time of that call, compilation included.
    """

    name: str
    kind: str
    groups: int
    over: int
    coverage: float
    trace_seconds: float
    published_weights: float | None
    published_seconds: float | None
    holds: bool
    error: float
    pinned: int
    movable: list[str]
    inconclusive: list[str]
    recovered: bool
    output_error: float
    align_seconds: float

    @property
    def passes(self) -> bool:
        """Whether nothing is wrong, nothing is missed, and the copy came back."""
        return self.holds and not self.movable and self.recovered


def subjects(pattern: str) -> Iterator[Subject]:
    """Build the variants whose names match."""
    key = jax.random.key(0)
    for name, example in ZOO.items():
        if fnmatch(name, pattern):
            module, inputs = example.build(nnx.Rngs(0)), example.inputs(key)
            published = None
            if example.published is not None:
                build = example.published
                make_inputs = example.published_inputs or example.inputs
                large = nnx.eval_shape(lambda build=build: build(nnx.Rngs(0)))
                shapes = jax.eval_shape(make_inputs, key)
                published = (large, shapes)
            yield Subject(name, "Flax NNX", *functional(module), inputs, published)
    for kind, table in (("Flax Linen", LINEN), ("plain JAX", PLAIN), ("Equinox", EQUINOX)):
        for name, double in table.items():
            label = f"{kind.lower().replace(' ', '_')}_{name}"
            if fnmatch(label, pattern):
                yield Subject(label, kind, *double.make(key))


def examine(subject: Subject) -> Row:
    """Find the symmetry of one variant, prove it, and recover a planted permutation."""
    name, kind, apply_fn, params, inputs, published = subject
    symmetry, seconds = timed(apply_fn, params, *inputs)
    millions = large_seconds = None
    if published is not None:
        large, shapes = published
        millions = weights(nnx.state(large)) / 1e6
        _, large_seconds = timed(large, *shapes)
    proof = symmetry.verify(apply_fn, params, *inputs, key=jax.random.key(1))
    recovered, output_error, align_seconds = recover(subject, symmetry)
    return Row(
        name,
        kind,
        len(symmetry.sizes),
        len(symmetry.over),
        symmetry.coverage(params),
        seconds,
        millions,
        large_seconds,
        proof.holds,
        max([proof.all, *proof.errors.values()], default=0.0),
        len(symmetry.pinned),
        list(proof.movable),
        list(proof.inconclusive),
        recovered,
        output_error,
        align_seconds,
    )


def timed(*call: Any) -> tuple[Symmetry, float]:
    """Time the first trace of a function, in seconds of one core: it runs on no more."""
    started = time.process_time()
    symmetry = infer_symmetry(*call)
    return symmetry, time.process_time() - started


def retimed(row: Row, subject: Subject) -> Row:
    """Measure the traces of a row again."""
    _, seconds = timed(subject.apply_fn, subject.params, *subject.inputs)
    large_seconds = None
    if subject.published is not None:
        large, shapes = subject.published
        _, large_seconds = timed(large, *shapes)
    return replace(row, trace_seconds=seconds, published_seconds=large_seconds)


def weights(params: PyTree) -> int:
    """Count the weights of a model."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params) if is_weight(leaf))


def recover(subject: Subject, symmetry: Symmetry) -> tuple[bool, float, float]:
    """Permute a copy at random, and align it back with default settings.

    Leaves that are all one number, as fresh biases are, get random values first: a permutation of
    them could not be told from another.
    """
    leaves = {path: leaf for path, leaf in named_leaves(subject.params).items() if is_weight(leaf)}
    drawn = jitter(
        {path: np.asarray(leaf, np.float64) for path, leaf in leaves.items()},
        np.random.default_rng(2),
    )
    original = map_named(
        lambda path, leaf: jnp.asarray(drawn[path], leaf.dtype) if path in drawn else leaf,
        subject.params,
    )
    copy = permute(original, symmetry, random_permutations(symmetry, jax.random.key(3)))
    started = time.perf_counter()
    found = jax.block_until_ready(align_params(original, copy, symmetry=symmetry))
    seconds = time.perf_counter() - started
    back = named_leaves(found.params)
    same = all(
        np.array_equal(leaf, back[path])
        for path, leaf in named_leaves(original).items()
        if path in drawn
    )
    reference = subject.apply_fn(original, *subject.inputs)
    outputs = subject.apply_fn(found.params, *subject.inputs)
    error = jnp.max(jnp.abs(outputs - reference)) / jnp.max(jnp.abs(reference))
    return same, float(error), seconds


def markdown(rows: list[Row]) -> str:
    """Write the table."""
    lines = [
        "| variant | written in | groups | of them nested | covered | trace | at published size "
        "| proved | pinned, needlessly | planted copy |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for row in rows:
        large = (
            ""
            if row.published_seconds is None
            else (f"{row.published_weights:.1f} M in {row.published_seconds:.2f} s")
        )
        proved = f"{row.error:.0e}" if row.holds else f"**no**, {row.error:.0e}"
        unsure = f" ({len(row.inconclusive)} untold)" if row.inconclusive else ""
        copy = "exact" if row.recovered else f"**no**, outputs {row.output_error:.0e}"
        lines.append(
            f"| {row.name} | {row.kind} | {row.groups} | {row.over} | {row.coverage:.1%} "
            f"| {row.trace_seconds:.2f} s | {large} | {proved} "
            f"| {row.pinned}, {len(row.movable)}{unsure} | {copy} |"
        )
    passed = sum(row.passes for row in rows)
    lines += ["", f"{passed} of {len(rows)} variants pass in every column."]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Settings:
    """Trace, prove and recover the models of the zoo."""

    only: str = "*"
    """Pattern of the names to run."""
    json: Path = RESULTS / "symmetry_zoo.json"
    """File of the results; rows that it holds are kept and not measured again."""
    table: Path = RESULTS / "symmetry_zoo.md"
    """File for the table."""
    fresh: bool = False
    """Measure everything again."""
    retime: bool = False
    """Measure the traces of the rows that are kept again."""


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    console = Console()
    known: dict[str, Row] = {}
    if settings.json.exists() and not settings.fresh:
        known = {row["name"]: Row(**row) for row in json.loads(settings.json.read_text())["rows"]}
    shown = []
    for subject in subjects(settings.only):
        if subject.name not in known:
            known[subject.name] = examine(subject)
            write_json(settings.json, {"rows": [asdict(row) for row in known.values()]})
            jax.clear_caches()
        elif settings.retime:
            known[subject.name] = retimed(known[subject.name], subject)
        row = known[subject.name]
        shown.append(row)
        console.print(
            f"{'ok ' if row.passes else 'BAD'} {row.name}: {row.groups} groups, error "
            f"{row.error:.0e}, {len(row.movable)} of {row.pinned} pins needless, "
            f"{'recovered' if row.recovered else 'not recovered'} in {row.align_seconds:.0f} s",
            soft_wrap=True,
        )
    write_json(settings.json, {"rows": [asdict(row) for row in known.values()]})
    write_text(settings.table, markdown(list(known.values())))
    console.print(f"Wrote {settings.table}", soft_wrap=True)
    if not all(row.passes for row in shown):
        sys.exit(1)


if __name__ == "__main__":
    main()
