"""How much noise each matcher stands before it loses a planted matching, of two networks and more.

Run from the root of the repository: `python -m benchmarks.planted_recovery --trials 20`. Rows that
the JSON file holds are kept.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.record import write_json
from jaxfuse import (
    CoordinateAscent,
    GraduatedAssignment,
    Linear,
    Symmetry,
    align_many,
    build_many,
    infer_symmetry,
    permute,
)
from jaxfuse.atomic import write_text
from jaxfuse.methods import METHODS, AnyMethod
from jaxfuse.status import Status

Named = dict[str, np.ndarray]
Permutations = dict[str, np.ndarray]

DEFAULT = "portfolio"
FRANK_WOLFE = "frank_wolfe"
PLAIN = "graduated_assignment, plain"
VARIANTS: dict[str, AnyMethod] = {
    "coordinate_ascent, random order": CoordinateAscent(order="random"),
    "coordinate_ascent, known start": CoordinateAscent(start="known"),
    PLAIN: GraduatedAssignment(reaction=0, balanced=False, steps=30),
}
NORMALISED = ", normalised"  # the same methods on tensors that are divided by their spread
_LEAST = 3
SAMPLES = 300  # inputs for methods that look at activations


@dataclass(frozen=True)
class Row:
    """One planted problem: a residual MLP, and the noise on its permuted copies."""

    width: int
    inner: int
    inputs: int
    outputs: int
    blocks: int
    noise: float
    networks: int = 2

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shape of every kernel, `[fan_in, fan_out]`."""
        shapes = {"in": (self.inputs, self.width)}
        for block in range(self.blocks):
            shapes[f"{block}/up"] = (self.width, self.inner)
            shapes[f"{block}/down"] = (self.inner, self.width)
        return shapes | {"out": (self.width, self.outputs)}

    def symmetry(self) -> Symmetry:
        """Return the groups: the residual stream, and the hidden units of every block."""
        params = {
            path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in self.shapes().items()
        }
        x = jax.ShapeDtypeStruct((2, self.inputs), np.float32)
        return infer_symmetry(residual_mlp(self.blocks), params, x)


_WIDE = Row(width=64, inner=64, inputs=3, outputs=10, blocks=4, noise=0.0)
_NARROW = Row(width=30, inner=50, inputs=5, outputs=5, blocks=4, noise=0.0)
_LARGE = Row(width=128, inner=128, inputs=3, outputs=10, blocks=4, noise=2.0)
_MANY = replace(_WIDE, blocks=2, noise=1.5)
ROWS = (
    _NARROW,
    replace(_NARROW, noise=0.5),
    replace(_WIDE, blocks=8, noise=1.0),
    *(replace(_WIDE, noise=noise) for noise in (1.5, 2.0, 2.25, 2.5)),
    _LARGE,
    *(replace(_MANY, networks=count) for count in (3, 5, 10)),
)


@dataclass(frozen=True)
class Config:
    """Count the planted matchings that every method recovers in full.

    Attributes:
        trials: random problems a row.
        budget: seconds after which a method gets no further trial of a row, once it had three.
        seed: of the problems; trial t of every row of one shape draws the same numbers.
        only: pattern of methods.
        json: file for the results, with those of every trial; rows that it holds are kept.
        markdown: file for the table.
        fresh: measure all rows again.
    """

    trials: int = 20
    budget: float = 40.0
    seed: int = 0
    only: str = "*"
    json: Path | None = None
    markdown: Path | None = None
    fresh: bool = False


def planted(
    row: Row, symmetry: Symmetry, seed: int, trial: int
) -> tuple[list[Named], list[Permutations]]:
    """Draw a network and its noisy permuted copies, with what undoes the order of each.

    Of more than two networks all are copies of one that is not among them, with noise that makes
    any two differ as much as a pair does: none is better than the others.
    """
    rng = np.random.default_rng((seed, trial))
    shapes = row.shapes()
    first: Named = {}
    noisy: list[Named] = [{} for _ in range(row.networks - 1)]
    level = row.noise if row.networks == 2 else row.noise / np.sqrt(2)
    for path, shape in shapes.items():
        first[path] = rng.normal(size=shape) / np.sqrt(shape[0])
        spread = first[path].std()
        for other in noisy:
            other[path] = first[path] + level * spread * rng.normal(size=shape)
        if row.networks > 2:
            first[path] = first[path] + level * spread * rng.normal(size=shape)
    networks, truths = [first], []
    for other in noisy:
        orders = {group: rng.permutation(size) for group, size in symmetry.groups.items()}
        networks.append(permute(other, symmetry, orders))
        truths.append({g: np.argsort(order).astype(np.int32) for g, order in orders.items()})
    as_float32 = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf, np.float32))
    return [as_float32(network) for network in networks], truths


@functools.cache
def residual_mlp(blocks: int) -> Callable[..., jax.Array]:
    """Return the function of the planted networks, for methods that look at activations."""

    def apply_fn(params: Named, x: jax.Array) -> jax.Array:
        x = x @ params["in"]
        for block in range(blocks):
            x = x + jax.nn.relu(x @ params[f"{block}/up"]) @ params[f"{block}/down"]
        return x @ params["out"]

    return apply_fn


def methods(row: Row, config: Config) -> dict[str, AnyMethod]:
    """Return what a row is measured with: all methods, or those made for many networks."""
    named = {name: entry.method for name, entry in METHODS.items()}
    if row.networks > 2:
        joint = {name for name, entry in METHODS.items() if entry.many == "jointly"}
        named = {name: named[name] for name in named if name in joint | {DEFAULT}}
    else:
        named |= VARIANTS
    for name in (DEFAULT, "annealed_merge_many"):
        named[name + NORMALISED] = named[name]
    return {name: method for name, method in named.items() if fnmatch(name, config.only)}


def measure(row: Row, name: str, method: AnyMethod, config: Config) -> dict[str, Any]:
    """Run one method on all trials; the seconds are the median of all calls but the first."""
    apply_fn = residual_mlp(row.blocks)
    x = jax.random.normal(jax.random.key(config.seed), (SAMPLES, row.inputs))
    needs_data = name in METHODS and METHODS[name].data in ("inputs", "targets")
    symmetry, trials, seconds = row.symmetry(), [], []
    started = time.perf_counter()
    for trial in range(config.trials):
        if trial >= _LEAST and time.perf_counter() - started > config.budget:
            break
        networks, truths = planted(row, symmetry, config.seed, trial)
        found = align_many(
            networks,
            method=method,
            symmetry=symmetry,
            affinity="normalised" if name.endswith(NORMALISED) else "linear",
            apply_fn=apply_fn if needs_data else None,
            inputs=x if needs_data else None,
            key=jax.random.key(trial),
        )
        seconds.append(float(found.seconds))
        orders = permutations_of(found)
        hits = [
            orders[group][k + 1][: len(order)] == order
            for k, truth in enumerate(truths)
            for group, order in truth.items()
        ]
        share = float(np.mean(np.concatenate(hits)))
        ratio = None
        if found.permutations:
            right = {
                group: jnp.stack([jnp.arange(size), *(truth[group] for truth in truths)])
                for group, size in symmetry.groups.items()
            }
            ratio = float(objective_ratio(networks, symmetry, found.permutations, right))
        status = Status(int(found.status)).name
        trials.append((share, ratio, status))
    shares, ratios, statuses = zip(*trials, strict=True)
    known = [ratio for ratio in ratios if ratio is not None]
    return {
        "recovered": sum(share == 1 for share in shares),
        "units": float(np.mean(shares)),
        "mean_ratio": float(np.mean(known)) if known else None,
        "seconds_per_trial": float(np.median(seconds[1:] or seconds)),
        "trials": {"units": shares, "ratio": ratios, "status": statuses},
    }


@functools.partial(jax.jit, static_argnums=1)
def objective_ratio(
    networks: list[Named], symmetry: Symmetry, found: Permutations, right: Permutations
) -> jax.Array:
    """Return J of what was found over J of what was planted."""
    problem = build_many(networks, symmetry, Linear())
    return problem.objective_at(found) / problem.objective_at(right)


def permutations_of(found: Any) -> dict[str, np.ndarray]:
    """Return per group the unit of every network that is, or comes closest to, each common unit."""
    if found.maps is None:
        return {group: np.asarray(orders) for group, orders in found.permutations.items()}
    return {
        group: np.stack([np.argmax(np.abs(matrix), axis=1) for matrix in maps])
        for group, maps in found.maps.to.items()
    }


def missed(entry: Mapping[str, Any], others: Sequence[str]) -> list[int]:
    """Return the trials that one of the others recovers, and the default does not."""
    outcomes = zip(*(entry[name]["trials"]["units"] for name in others), strict=True)
    default = entry[DEFAULT]["trials"]["units"]
    return [
        index
        for index, shares in enumerate(outcomes)
        if any(share == 1 for share in shares) and default[index] != 1
    ]


def label(row: Row) -> str:
    shape = ", ".join(map(str, (row.width, row.inner, row.inputs, row.outputs, row.blocks)))
    return f"{shape}; K={row.networks}; {row.noise:g}"


def cells(results: Sequence[Mapping[str, Any]], trials: int) -> list[list[str]]:
    """Return the head and a line a method: trials recovered, share of units, seconds a trial."""
    lines = [["method", *(label(Row(**entry["row"])) for entry in results)]]
    for name in dict.fromkeys(name for entry in results for name in entry["methods"]):
        line = [name]
        for entry in results:
            found = entry["methods"].get(name)
            if found is None:
                line.append("-")
                continue
            tried = len(found["trials"]["units"])
            recovered = f"{found['recovered']}" + (f" of {tried}" if tried < trials else "")
            seconds = f"{found['seconds_per_trial']:.2g} s"
            line.append(f"{recovered}, {100 * found['units']:.0f} %, {seconds}")
        lines.append(line)
    return lines


def table(results: Sequence[Mapping[str, Any]], trials: int) -> Table:
    """Lay out the results for a terminal."""
    head, *lines = cells(results, trials)
    result = Table(title=f"Trials recovered of {trials}, units recovered, seconds a trial")
    for index, column in enumerate(head):
        result.add_column(column, justify="right" if index else "left", no_wrap=not index)
    for line in lines:
        result.add_row(*line)
    return result


def markdown(results: Sequence[Mapping[str, Any]], trials: int) -> str:
    """Lay out the results as Markdown."""
    head, *lines = cells(results, trials)
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    title = f"Trials recovered of {trials}, units recovered, and seconds a trial"
    note = "A column: width, inner width, inputs, outputs and blocks; networks; noise."
    body = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"# {title}\n\n{note}\n\n{body}\n"


def verdict(results: Sequence[Mapping[str, Any]]) -> str:
    """Say whether the default recovers whatever its two rivals recover, trial by trial."""
    others = (FRANK_WOLFE, PLAIN)
    claim = f"every trial that {' or '.join(others)} recovers"
    lost = []
    for entry in results:
        if all(name in entry["methods"] for name in (DEFAULT, *others)):
            trials = missed(entry["methods"], others)
            if trials:
                lost.append(f"{label(Row(**entry['row']))}: {trials}")
    if not lost:
        return f"The default ({DEFAULT}) recovers {claim}."
    return f"The default ({DEFAULT}) does NOT recover {claim}. Missed: {'; '.join(lost)}."


def main(config: Config) -> None:
    # Where the output is piped, rich would fold the table to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 250)
    held = {}
    if config.json is not None and config.json.exists() and not config.fresh:
        known = json.loads(config.json.read_text())
        if (known["trials"], known["seed"]) == (config.trials, config.seed):
            rows = known["rows"]
            held = {label(Row(**e["row"])): e["methods"] for e in rows if "methods" in e}
    # All rows from the start: what is written on the way keeps what was known of the later ones.
    results = [{"row": asdict(row), "methods": held.get(label(row), {})} for row in ROWS]
    for row, found in zip(ROWS, (each["methods"] for each in results), strict=True):
        for name, method in methods(row, config).items():
            if name in found:
                continue
            try:
                found[name] = measure(row, name, method, config)
            except ValueError as error:
                console.print(f"{label(row)}, {name}: refused: {error}", soft_wrap=True)
                continue
            console.print(
                f"{label(row)}, {name}: {found[name]['recovered']} of "
                f"{len(found[name]['trials']['units'])}, "
                f"{found[name]['seconds_per_trial']:.3g} s"
            )
            if config.json is not None:
                content = {"trials": config.trials, "seed": config.seed}
                write_json(config.json, {**content, "rows": results})
    if config.markdown is not None:
        write_text(config.markdown, markdown(results, config.trials))
    console.print(table(results, config.trials))
    console.print(verdict(results))


if __name__ == "__main__":
    main(tyro.cli(Config))
