"""Many networks at once: ten of ResNet-20 shape at four times its width, cycle-consistently.

Run from the root of the repository: `python -m benchmarks.ten_networks`.
"""

import itertools
import sys
import time
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.align import peak_mebibytes
from benchmarks.record import write_json
from jaxfuse import Linear, Symmetry, align_many, build_many, infer_symmetry, permute
from jaxfuse.assignment import invert_permutation
from jaxfuse.methods import METHODS
from jaxfuse.models import create, functional
from jaxfuse.status import Status
from jaxfuse.symmetry import random_permutations
from jaxfuse.symmetry.axes import is_statistic
from jaxfuse.symmetry.tree import map_named

PyTree = Any
METHODS_MEASURED = ("annealed_merge_many", "merge_many", "hierarchical", "all_to_one")


@dataclass(frozen=True)
class Config:
    """Align many networks with random weights: noisy permuted copies of one, and independent ones.

    Attributes:
        networks: how many.
        model: their architecture, a name of the zoo.
        width: multiplier of its channels.
        noise: of the copies, in standard deviations of each tensor.
        only: pattern of methods.
        repeats: calls timed after the first; their median is reported.
        seed: of the weights.
        json: file for the results.
    """

    networks: int = 10
    model: str = "resnet20"
    width: float = 4.0
    noise: float = 1.0
    only: str = "*"
    repeats: int = 3
    seed: int = 0
    json: Path | None = None


def independent(config: Config, count: int) -> tuple[list[PyTree], Symmetry]:
    """Draw networks with the initial weights of the zoo, and read their symmetry off one."""
    networks = []
    for key in jax.random.split(jax.random.key(config.seed), count):
        module = create(
            config.model, input_shape=(32, 32, 3), classes=10, width=config.width, key=key
        )
        apply_fn, params = functional(module)
        networks.append(params)
    return networks, infer_symmetry(apply_fn, networks[0], jnp.ones((2, 32, 32, 3)))


def planted(config: Config) -> tuple[list[PyTree], Symmetry, list[dict[str, np.ndarray]]]:
    """Return a network and noisy permuted copies, with the orders that undo each."""
    (first,), symmetry = independent(config, 1)
    rng = np.random.default_rng(config.seed)
    networks, truths = [first], []
    for key in jax.random.split(jax.random.key(config.seed + 1), config.networks - 1):

        def worn(path: str, leaf: Any) -> Any:
            if is_statistic(path):
                return leaf
            noise = rng.normal(size=leaf.shape) * np.std(leaf)
            return np.float32(leaf + config.noise * noise)

        orders = random_permutations(symmetry, key)
        networks.append(permute(map_named(worn, first), symmetry, orders))
        truths.append({g: np.argsort(np.asarray(order)) for g, order in orders.items()})
    return networks, symmetry, truths


def is_cycle_consistent(permutations: dict[str, jax.Array]) -> bool:
    """Tell whether P_ab P_bc = P_ac for every three networks and every group, entry by entry."""
    for orders in permutations.values():
        inverse = [np.asarray(invert_permutation(order)) for order in orders]
        pair = {
            (a, b): np.asarray(orders[b])[inverse[a]]
            for a, b in itertools.permutations(range(len(orders)), 2)
        }
        for a, b, c in itertools.permutations(range(len(orders)), 3):
            if not np.array_equal(pair[b, c][pair[a, b]], pair[a, c]):
                return False
    return True


def measure(
    config: Config,
    method: str,
    networks: list[PyTree],
    symmetry: Symmetry,
    truths: list[dict[str, np.ndarray]] | None,
) -> dict[str, Any]:
    """Align with one method; the objective is that of all pairs together, by one function."""
    seconds = []
    for _ in range(config.repeats + 1):
        started = time.perf_counter()
        found = jax.block_until_ready(align_many(networks, method=method, symmetry=symmetry))
        seconds.append(time.perf_counter() - started)
    problem = build_many(networks, symmetry, Linear())
    run = float(np.median(seconds[1:]))
    units = None
    if truths is not None:
        hits = [
            np.asarray(found.permutations[group][k + 1]) == order
            for k, truth in enumerate(truths)
            for group, order in truth.items()
        ]
        units = float(np.mean(np.concatenate(hits)))
    return {
        "seconds": run,
        "compile_seconds": max(seconds[0] - run, 0.0),
        "objective": float(problem.objective_at(found.permutations)),
        "units": units,
        "cycle_consistent": is_cycle_consistent(found.permutations),
        "status": Status(int(found.status)).name,
        "peak_mebibytes": peak_mebibytes(),
    }


def main(config: Config) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    shape = f"{config.networks} x {config.model}, width {config.width:g}"
    table = Table(title=f"{shape}: planted at noise {config.noise:g}, and independent")
    for column in (
        "networks",
        "method",
        "seconds",
        "compile s",
        "J",
        "% of units",
        "cycles",
        "MiB",
    ):
        table.add_column(column, justify="left" if column in ("networks", "method") else "right")
    copies, symmetry, truths = planted(config)
    others, _ = independent(config, config.networks)
    rows = []
    for method in METHODS_MEASURED:
        assert method in METHODS
        if not fnmatch(method, config.only):
            continue
        for kind, networks, known in (("planted", copies, truths), ("independent", others, None)):
            row = measure(config, method, networks, symmetry, known)
            rows.append({"networks": kind, "method": method, **row})
            console.print(rows[-1])
            if config.json is not None:
                settings = {name: each for name, each in asdict(config).items() if name != "json"}
                write_json(config.json, {"settings": settings, "rows": rows})
    for row in rows:
        table.add_row(
            row["networks"],
            row["method"],
            f"{row['seconds']:.1f}",
            f"{row['compile_seconds']:.0f}",
            f"{row['objective']:.1f}",
            "-" if row["units"] is None else f"{100 * row['units']:.1f}",
            "exact" if row["cycle_consistent"] else "BROKEN",
            f"{row['peak_mebibytes']:.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Config))
