"""What the choices of `align_params` and `fuse` do to the fused accuracy of a real pair.

Run from the root of the repository, on two checkpoints of a bundled model:
`python -m benchmarks.fusion_pair a.safetensors b.safetensors --model mlp --dataset mnist`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from flax import nnx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.record import write_json
from jaxfuse import (
    Alignment,
    FrankWolfe,
    Gaussian,
    GraduatedAssignment,
    Linear,
    Portfolio,
    build_problem,
    fuse,
    infer_chain,
    permute,
    sinkhorn,
)
from jaxfuse.checkpoints import convert, read
from jaxfuse.data import load
from jaxfuse.models import create, functional
from jaxfuse.training import evaluate

SOLVERS = {
    "frank_wolfe": FrankWolfe(),
    "graduated_assignment": GraduatedAssignment(),
    "plain graduated_assignment": GraduatedAssignment(reaction=0.0, balanced=False, steps=30),
    "portfolio": Portfolio(),
}
AFFINITIES = {"linear": Linear()} | {
    f"gaussian, bandwidth {bandwidth:g}": Gaussian(bandwidth=bandwidth)
    for bandwidth in (1.0, 8.0, 32.0, 128.0)
}


@dataclass(frozen=True)
class Config:
    """Fuse a pair with every solver and affinity, and from random starts.

    Attributes:
        files: the two checkpoints.
        model: their architecture.
        dataset: what they are evaluated on.
        data_dir: folder of prepared TFDS datasets.
        starts: random starts of Frank-Wolfe under the linear affinity.
        json: file for the results.
    """

    files: tyro.conf.Positional[tuple[Path, Path]]
    model: Literal["mlp", "lenet", "vgg11"]
    dataset: str
    data_dir: Path | None = None
    starts: int = 24
    json: Path | None = None


def main(config: Config) -> None:
    data = load(config.dataset, config.data_dir)
    build = nnx.eval_shape(
        lambda: create(
            config.model,
            input_shape=data.input_shape,
            classes=data.classes,
            key=jax.random.key(0),
        )
    )
    apply_fn, template = functional(build)
    channels = data.input_shape[-1]
    pair = [convert(read(path), template, channels=channels) for path in config.files]
    images, labels = data.test()
    symmetry = infer_chain(pair[0])

    def accuracy(params: Any) -> float:
        return float(evaluate(apply_fn, params, images, labels).accuracy)

    def row(name: str, affinity: str, matching: Any) -> dict[str, Any]:
        moved = permute(pair[1], symmetry, matching.permutations)
        alignment = Alignment(moved, matching.permutations, *matching[1:4])
        linear = problems["linear"].objective_at(matching.permutations)
        averaged = fuse(pair, None, alignment, symmetry=symmetry, repair=None)
        rescaled = fuse(pair, None, alignment, symmetry=symmetry)
        return {
            "solver": name,
            "affinity": affinity,
            "objective": float(linear),
            "average": accuracy(averaged),
            "rescaled": accuracy(rescaled),
        }

    problems = {
        name: build_problem(*pair, symmetry, affinity) for name, affinity in AFFINITIES.items()
    }
    solve = {name: jax.jit(solver.solve) for name, solver in SOLVERS.items()}
    cases = [(solver, affinity) for affinity in AFFINITIES for solver in SOLVERS]
    rows = [
        row(solver, affinity, solve[solver](problems[affinity]))
        for solver, affinity in track(cases, "solvers and affinities")
    ]
    starts = []
    for seed in track(range(config.starts), "random starts"):
        matching = solve["frank_wolfe"](problems["linear"], random_start(symmetry, seed))
        starts.append(row("frank_wolfe", "linear", matching))
    summary = summarise(starts)
    report(rows, summary, config)
    if config.json is not None:
        parents = [accuracy(params) for params in pair]
        write_json(
            config.json,
            {"parents": parents, "rows": rows, "starts": starts, "summary": summary},
        )


def random_start(symmetry: Any, seed: int) -> dict[str, jax.Array]:
    """Draw a doubly stochastic start of every group: Sinkhorn of Gaussian noise."""
    keys = jax.random.split(jax.random.key(seed), len(symmetry.sizes))
    return {
        group: sinkhorn(jax.random.normal(key, (size, size)), 1.0, iterations=50).plan
        for key, (group, size) in zip(keys, symmetry.sizes, strict=True)
    }


def summarise(starts: list[dict[str, Any]]) -> dict[str, float]:
    """Return means, spreads and the correlation of objective and accuracy over random starts."""
    columns = {
        name: np.array([start[name] for start in starts])
        for name in ("objective", "average", "rescaled")
    }
    means = {f"{name} mean": float(values.mean()) for name, values in columns.items()}
    spreads = {f"{name} std": float(values.std()) for name, values in columns.items()}
    correlation = np.corrcoef(columns["objective"], columns["average"])[0, 1]
    return {**means, **spreads, "correlation of objective and average": float(correlation)}


def report(rows: list[dict[str, Any]], summary: dict[str, float], config: Config) -> None:
    """Print one line per case, and the random starts in one."""
    table = Table(expand=False, title=f"{config.model} on {config.dataset}, fused half and half")
    for column in ("affinity", "solver", "linear J", "average %", "rescaled %"):
        table.add_column(column, justify="left" if column in ("affinity", "solver") else "right")
    for row in rows:
        table.add_row(
            row["affinity"],
            row["solver"],
            f"{row['objective']:.2f}",
            f"{100 * row['average']:.2f}",
            f"{100 * row['rescaled']:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{config.starts} random starts of Frank-Wolfe, linear affinity: average "
        f"{100 * summary['average mean']:.2f} +- {100 * summary['average std']:.2f} %, rescaled "
        f"{100 * summary['rescaled mean']:.2f} +- {100 * summary['rescaled std']:.2f} %; the "
        f"correlation of J with the accuracy of the average is "
        f"{summary['correlation of objective and average']:.2f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
