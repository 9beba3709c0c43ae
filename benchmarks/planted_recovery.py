"""How much noise each solver stands before it loses a planted matching.

Run from the root of the repository: `python -m benchmarks.planted_recovery --trials 20`.
"""

import functools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from benchmarks.record import write_json
from jaxfuse import (
    CoordinateAscent,
    FrankWolfe,
    GraduatedAssignment,
    Linear,
    Portfolio,
    Symmetry,
    align_params,
    build_problem,
    permute,
)
from jaxfuse.matching import Solver

Named = dict[str, np.ndarray]
Permutations = dict[str, np.ndarray]

DEFAULT = "portfolio"
FRANK_WOLFE = "Frank-Wolfe"
PLAIN = "plain graduated assignment"
RANDOM_ORDER = CoordinateAscent(order="random")
SOLVERS: dict[str, Solver] = {
    "coordinate ascent": CoordinateAscent(),
    "coordinate ascent, random order": RANDOM_ORDER,
    FRANK_WOLFE: FrankWolfe(),
    PLAIN: GraduatedAssignment(reaction=0, steps=30),
    "graduated assignment": GraduatedAssignment(),
    DEFAULT: Portfolio(),
}


@dataclass(frozen=True)
class Row:
    """One planted problem: a residual MLP, and the noise on its permuted copy."""

    width: int
    inner: int
    inputs: int
    outputs: int
    blocks: int
    noise: float

    def axes(self) -> dict[str, tuple[str | None, str | None]]:
        """Return the groups of every kernel's two axes."""
        axes: dict[str, tuple[str | None, str | None]] = {"in": (None, "residual")}
        for block in range(self.blocks):
            axes[f"{block}/up"] = ("residual", f"block {block}")
            axes[f"{block}/down"] = (f"block {block}", "residual")
        return axes | {"out": ("residual", None)}

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shape of every kernel, `[fan_in, fan_out]`."""
        shapes = {"in": (self.inputs, self.width), "out": (self.width, self.outputs)}
        for block in range(self.blocks):
            shapes[f"{block}/up"] = (self.width, self.inner)
            shapes[f"{block}/down"] = (self.inner, self.width)
        return {path: shapes[path] for path in self.axes()}


_REPEATS = 3
_WIDE = Row(width=64, inner=64, inputs=3, outputs=10, blocks=4, noise=0.0)
_NARROW = Row(width=30, inner=50, inputs=5, outputs=5, blocks=4, noise=0.0)
ROWS = (
    _NARROW,
    replace(_NARROW, noise=0.5),
    replace(_WIDE, blocks=8, noise=1.0),
    *(replace(_WIDE, noise=noise) for noise in (1.5, 2.0, 2.25, 2.5)),
)


@dataclass(frozen=True)
class Config:
    """Count the planted matchings that every solver recovers in full.

    Attributes:
        trials: random problems a row.
        seed: of the problems; trial t of every row of one shape draws the same numbers.
        json: file for the results, with those of every trial.
    """

    trials: int = 20
    seed: int = 0
    json: Path | None = None


class Batch(NamedTuple):
    """All trials of one row, stacked."""

    symmetry: Symmetry
    params_a: Mapping[str, jax.Array]
    params_b: Mapping[str, jax.Array]
    truth: Mapping[str, jax.Array]
    keys: jax.Array


def planted(row: Row, seed: int, trial: int) -> tuple[Named, Named, Permutations]:
    """Draw network A, its noisy permuted copy B, and the permutations that undo the order of B."""
    rng = np.random.default_rng((seed, trial))
    params_a, noisy = {}, {}
    for path, shape in row.shapes().items():
        params_a[path] = rng.normal(size=shape) / np.sqrt(shape[0])
        noisy[path] = params_a[path] + row.noise * params_a[path].std() * rng.normal(size=shape)
    symmetry = Symmetry.from_axes(row.axes(), params_a)
    orders = {group: rng.permutation(size) for group, size in symmetry.groups.items()}
    params_b = permute(noisy, symmetry, {g: jnp.asarray(order) for g, order in orders.items()})
    truth = {group: np.argsort(order).astype(np.int32) for group, order in orders.items()}
    as_float32 = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf, np.float32))
    return as_float32(params_a), as_float32(params_b), truth


def draw(row: Row, config: Config) -> Batch:
    trials = [planted(row, config.seed, trial) for trial in range(config.trials)]
    params_a, params_b, truth = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trials)
    keys = jax.random.split(jax.random.key(config.seed), config.trials)
    return Batch(Symmetry.from_axes(row.axes(), trials[0][0]), params_a, params_b, truth, keys)


@functools.partial(jax.jit, static_argnames=("symmetry", "solver"))
def solve_all(
    params_a: Named,
    params_b: Named,
    truth: Permutations,
    keys: jax.Array,
    symmetry: Symmetry,
    solver: Solver,
) -> tuple[jax.Array, jax.Array]:
    """Align every pair of a batch; return the number of units recovered and the objective."""

    def one(
        a: Named, b: Named, planted: Permutations, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        alignment = align_params(a, b, symmetry=symmetry, solver=solver, key=key)
        hits = [alignment.permutations[group] == planted[group] for group in planted]
        return jnp.sum(jnp.concatenate(hits)), alignment.objective

    if solver == RANDOM_ORDER:
        # Under vmap every trial would compute the assignment of every group at every step.
        return jax.lax.map(lambda pair: one(*pair), (params_a, params_b, truth, keys))
    return jax.vmap(one)(params_a, params_b, truth, keys)


@functools.partial(jax.jit, static_argnames="symmetry")
def planted_objectives(
    params_a: Named, params_b: Named, truth: Permutations, symmetry: Symmetry
) -> jax.Array:
    """Return the objective at the planted matching of every pair of a batch."""
    return jax.vmap(
        lambda a, b, planted: build_problem(a, b, symmetry, Linear()).objective_at(planted)
    )(params_a, params_b, truth)


def measure(batch: Batch, solver: Solver) -> dict[str, Any]:
    """Run one solver on a batch; the seconds are the median of later calls, all compiled."""
    symmetry, *arrays, _ = batch
    run = functools.partial(solve_all, *batch[1:], symmetry=symmetry, solver=solver)
    units, objective = jax.block_until_ready(run())
    calls = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(run())
        calls.append(time.perf_counter() - start)
    seconds = float(np.median(calls))
    ratio = objective / planted_objectives(*arrays, symmetry=symmetry)
    units = np.asarray(units) / sum(symmetry.groups.values())
    return {
        "recovered": int(np.sum(units == 1)),
        "mean_ratio": float(np.mean(ratio)),
        "seconds_per_trial": seconds / len(units),
        "trials": [
            {"recovered": bool(share == 1), "units": float(share), "ratio": float(value)}
            for share, value in zip(units, ratio, strict=True)
        ],
    }


def missed(solvers: Mapping[str, Any], others: Sequence[str]) -> list[int]:
    """Return the trials that one of the others recovers, and the default does not."""
    trials = zip(*(solvers[name]["trials"] for name in others), strict=True)
    default = solvers[DEFAULT]["trials"]
    return [
        index
        for index, outcomes in enumerate(trials)
        if any(o["recovered"] for o in outcomes) and not default[index]["recovered"]
    ]


def label(row: Row) -> str:
    return ", ".join(map(str, (row.width, row.inner, row.inputs, row.outputs, row.blocks)))


def table(results: Sequence[Mapping[str, Any]], trials: int) -> Table:
    """Lay out the results: per solver trials recovered, mean J / J_planted, seconds a trial."""
    title = f"Trials recovered of {trials} | mean J / J planted | seconds a trial"
    result = Table(title=title, show_lines=False)
    result.add_column("width, inner, in, out, blocks", no_wrap=True)
    result.add_column("noise", justify="right")
    for name in SOLVERS:
        result.add_column(name, justify="right")
    for entry in results:
        cells = [
            f"{s['recovered']} | {s['mean_ratio']:.3f} | {s['seconds_per_trial']:.4f}"
            for s in entry["solvers"].values()
        ]
        row = Row(**entry["row"])
        result.add_row(label(row), f"{row.noise:g}", *cells)
    return result


def verdict(results: Sequence[Mapping[str, Any]]) -> str:
    """Say whether the default recovers whatever its two rivals recover, trial by trial."""
    others = (FRANK_WOLFE, PLAIN)
    lost = [(entry["row"], missed(entry["solvers"], others)) for entry in results]
    lost = [(row, trials) for row, trials in lost if trials]
    claim = f"every trial that {' or '.join(others)} recovers"
    if not lost:
        return f"The default ({DEFAULT}) recovers {claim}."
    where = "; ".join(f"{label(Row(**r))} at noise {r['noise']:g}: {t}" for r, t in lost)
    return f"The default ({DEFAULT}) does NOT recover {claim}. Missed trials: {where}."


def main(config: Config) -> None:
    # Where the output is piped, rich would fold the table to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 180)
    results = []
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(ROWS) * len(SOLVERS))
        for row in ROWS:
            batch = draw(row, config)
            solvers = {}
            for name, solver in SOLVERS.items():
                progress.update(task, description=f"{label(row)}, noise {row.noise:g}: {name}")
                solvers[name] = measure(batch, solver)
                progress.advance(task)
            results.append({"row": asdict(row), "solvers": solvers})
    console.print(table(results, config.trials))
    console.print(verdict(results))
    if config.json is not None:
        settings = {name: repr(solver) for name, solver in SOLVERS.items()}
        content = {"trials": config.trials, "seed": config.seed, "solvers": settings}
        write_json(config.json, {**content, "rows": results})


if __name__ == "__main__":
    main(tyro.cli(Config))
