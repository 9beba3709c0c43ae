"""How much noise each matcher stands before it loses a planted matching, of two networks and more.

Run from the root of the repository: `python -m benchmarks.planted_recovery --trials 20`. Rows that
the JSON file holds are kept.
"""

import functools
import json
import sys
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
from jaxfuse.methods import METHODS, AnyMethod
from jaxfuse.status import Status

Named = dict[str, np.ndarray]
Permutations = dict[str, np.ndarray]

DEFAULT = "portfolio"
FRANK_WOLFE = "frank_wolfe"
PLAIN = "graduated_assignment, plain"
VARIANTS: dict[str, AnyMethod] = {
    "coordinate_ascent, random order": CoordinateAscent(order="random"),
    PLAIN: GraduatedAssignment(reaction=0, steps=30),
}
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
_MANY = replace(_WIDE, blocks=2, noise=2.0)
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
        seed: of the problems; trial t of every row of one shape draws the same numbers.
        only: pattern of methods.
        json: file for the results, with those of every trial; rows that it holds are kept.
        fresh: measure all rows again.
    """

    trials: int = 20
    seed: int = 0
    only: str = "*"
    json: Path | None = None
    fresh: bool = False


def planted(
    row: Row, symmetry: Symmetry, seed: int, trial: int
) -> tuple[list[Named], list[Permutations]]:
    """Draw a network and its noisy permuted copies, with what undoes the order of each."""
    rng = np.random.default_rng((seed, trial))
    shapes = row.shapes()
    first: Named = {}
    noisy: list[Named] = [{} for _ in range(row.networks - 1)]
    for path, shape in shapes.items():
        first[path] = rng.normal(size=shape) / np.sqrt(shape[0])
        for other in noisy:
            noise = row.noise * first[path].std() * rng.normal(size=shape)
            other[path] = first[path] + noise
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
    return {name: method for name, method in named.items() if fnmatch(name, config.only)}


def measure(row: Row, name: str, method: AnyMethod, config: Config) -> dict[str, Any]:
    """Run one method on all trials; the seconds are the median of all calls but the first."""
    apply_fn = residual_mlp(row.blocks)
    x = jax.random.normal(jax.random.key(config.seed), (SAMPLES, row.inputs))
    needs_data = name in METHODS and METHODS[name].data in ("inputs", "targets")
    symmetry, trials, seconds = row.symmetry(), [], []
    for trial in range(config.trials):
        networks, truths = planted(row, symmetry, config.seed, trial)
        found = align_many(
            networks,
            method=method,
            symmetry=symmetry,
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
        trials.append({"recovered": share == 1, "units": share, "ratio": ratio, "status": status})
    ratios = [trial["ratio"] for trial in trials if trial["ratio"] is not None]
    return {
        "recovered": sum(trial["recovered"] for trial in trials),
        "units": float(np.mean([trial["units"] for trial in trials])),
        "mean_ratio": float(np.mean(ratios)) if ratios else None,
        "seconds_per_trial": float(np.median(seconds[1:] or seconds)),
        "trials": trials,
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
    outcomes = zip(*(entry[name]["trials"] for name in others), strict=True)
    default = entry[DEFAULT]["trials"]
    return [
        index
        for index, each in enumerate(outcomes)
        if any(o["recovered"] for o in each) and not default[index]["recovered"]
    ]


def label(row: Row) -> str:
    shape = ", ".join(map(str, (row.width, row.inner, row.inputs, row.outputs, row.blocks)))
    return f"{shape}; K={row.networks}; {row.noise:g}"


def table(results: Sequence[Mapping[str, Any]], trials: int) -> Table:
    """Lay out the results, a method a line: trials recovered, share of units, seconds a trial."""
    title = f"Trials recovered of {trials} | % of the units | seconds a trial"
    result = Table(title=title)
    result.add_column("method", no_wrap=True)
    for entry in results:
        result.add_column(label(Row(**entry["row"])), justify="right")
    for name in dict.fromkeys(name for entry in results for name in entry["methods"]):
        cells = []
        for entry in results:
            found = entry["methods"].get(name)
            cells.append(
                f"{found['recovered']} | {100 * found['units']:.0f} | "
                f"{found['seconds_per_trial']:.3g}"
                if found
                else "-"
            )
        result.add_row(name, *cells)
    return result


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
    results = []
    for row in ROWS:
        found = held.get(label(row), {})
        results.append({"row": asdict(row), "methods": found})
        for name, method in methods(row, config).items():
            if name in found:
                continue
            try:
                found[name] = measure(row, name, method, config)
            except ValueError as error:
                console.print(f"{label(row)}, {name}: refused: {error}", soft_wrap=True)
                continue
            console.print(
                f"{label(row)}, {name}: {found[name]['recovered']} of {config.trials}, "
                f"{found[name]['seconds_per_trial']:.3g} s"
            )
            if config.json is not None:
                content = {"trials": config.trials, "seed": config.seed}
                write_json(config.json, {**content, "rows": results})
    console.print(table(results, config.trials))
    console.print(verdict(results))


if __name__ == "__main__":
    main(tyro.cli(Config))
