"""Time, memory and quality of one jitted `align_params` on two VGG11, beside a Python loop.

Run from the root of the repository: `python -m benchmarks.align`.
"""

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.pairs import Pair, from_files, planted, unrelated
from benchmarks.record import write_json
from jaxfuse import (
    Gaussian,
    Linear,
    align_params,
)
from jaxfuse.affinity import Affinity
from jaxfuse.bench.memory import alone, host_peak
from jaxfuse.bench.reach import limited, reach
from jaxfuse.bench.timing import timed
from jaxfuse.bench.weight_matching import weight_matching
from jaxfuse.matching import Solver
from jaxfuse.methods import METHODS

LOOP = "Python loop"
AFFINITIES: dict[str, Affinity] = {"linear": Linear(), "gaussian": Gaussian(rank=64)}


@dataclass(frozen=True)
class Config:
    """Align two VGG11 (bias-free 3x3 convolutions and a dense layer) in one compiled call.

    Attributes:
        width: multiplier of the channels; 1 is the full VGG11 of 9.2 M weights.
        pair: "planted": He-normal weights and a permuted copy with noise; "unrelated": two draws;
            "files": two safetensors files of any feed-forward chain.
        files: the two files.
        noise: of the planted copy, in standard deviations of each tensor.
        affinity: what is compared, one case each.
        solver: how it is matched, one case each; the default of `align_params` is "portfolio".
        repeats: calls timed after the first; their median is reported.
        seed: of the weights, and of the loop's order of layers.
        json: file for the results.
    """

    width: float = 1.0
    pair: Literal["planted", "unrelated", "files"] = "planted"
    files: tuple[Path, Path] | None = None
    noise: float = 1.0
    affinity: tuple[Literal["linear", "gaussian"], ...] = ("linear", "gaussian")
    solver: tuple[
        Literal["portfolio", "frank_wolfe", "graduated_assignment", "coordinate_ascent"], ...
    ] = ("portfolio", "frank_wolfe", "coordinate_ascent")
    repeats: int = 3
    seed: int = 0
    json: Path | None = None

    def __post_init__(self) -> None:
        if (self.pair == "files") != (self.files is not None):
            raise ValueError("--pair files and --files A B go together")


def make_pair(config: Config) -> Pair:
    if config.files is not None:
        return from_files(*config.files)
    if config.pair == "unrelated":
        return unrelated(config.width, config.seed)
    return planted(config.width, config.noise, config.seed)


def run_loop(config: Config) -> dict[str, Any]:
    """Time the Python loop, after a first pass that starts the threads of the matrix products."""
    pair = make_pair(config)
    arguments = (pair.params_a, pair.params_b, pair.symmetry)
    weight_matching(*arguments, seed=config.seed, max_sweeps=1)
    runs = [
        timed(lambda: weight_matching(*arguments, seed=config.seed)) for _ in range(config.repeats)
    ]
    permutations, sweeps = runs[0][0]
    return {
        "seconds": float(np.median([seconds for _, seconds in runs])),
        "sweeps": sweeps,
        "peak_mebibytes": host_peak(),
        **pair.quality(permutations),
    }


def compile_align(pair: Pair, affinity: Affinity, solver: Solver) -> Callable[[], Any]:
    """Compile `align_params` for a pair whose weights are on the device."""
    arrays = jax.device_put((pair.params_a, pair.params_b))
    align = functools.partial(
        align_params, symmetry=pair.symmetry, affinity=affinity, method=solver
    )
    return functools.partial(jax.jit(align).lower(*arrays).compile(), *arrays)


def run_case(config: Config, affinity: str, solver: str, target: float | None) -> dict[str, Any]:
    """Time one affinity and solver; with a target, also how soon its objective is reached."""
    pair = make_pair(config)
    before = host_peak()
    call, compile_seconds = timed(
        lambda: compile_align(pair, AFFINITIES[affinity], solver_named(solver))
    )
    compiled = host_peak()
    alignment, first_seconds = timed(call)
    seconds = float(np.median([timed(call)[1] for _ in range(config.repeats)]))
    result = {
        "compile_seconds": compile_seconds,
        "first_call_seconds": first_seconds,
        "seconds": seconds,
        "peak_mebibytes": host_peak(),
        "peak_mebibytes_before": before,
        "peak_mebibytes_compiled": compiled,
        "status": int(alignment.status),
        **pair.quality(alignment.permutations),
    }
    if target is not None:
        result["reach"] = seconds_to(pair, solver_named(solver), target, config.repeats)
    return result


def solver_named(name: str) -> Solver:
    method = METHODS[name].method
    assert isinstance(method, Solver)
    return method


def seconds_to(pair: Pair, solver: Solver, target: float, repeats: int) -> float | None:
    """Return the seconds of the least limit of iterations that reaches the target, or None."""
    return reach(
        lambda limit: compile_align(pair, Linear(), limited(solver, limit) if limit else solver),
        lambda alignment: pair.quality(alignment.permutations)["objective"],
        lambda call: float(np.median([timed(call)[1] for _ in range(repeats)])),
        target,
    )


def run_all(config: Config, progress: Progress) -> Iterator[dict[str, Any]]:
    cases = list(itertools.product(config.affinity, config.solver))
    task = progress.add_task(LOOP, total=len(cases) + 1)
    loop = alone(run_loop, config)
    yield {"affinity": "linear", "solver": LOOP, **loop}
    for affinity, solver in cases:
        progress.update(task, advance=1, description=f"{affinity}, {solver}")
        target = loop["objective"] if affinity == "linear" else None
        case = alone(run_case, config, affinity, solver, target)
        yield {"affinity": affinity, "solver": solver, **case}
    progress.update(task, advance=1)


def table(results: list[dict[str, Any]], config: Config) -> Table:
    size = "" if config.pair == "files" else f", width {config.width:g}"
    caption = "J: linear objective in float64. Loop's J, s: seconds to reach that of the loop."
    result = Table(title=f"align_params on two networks: {config.pair}{size}", caption=caption)
    result.add_column("affinity")
    result.add_column("solver")
    for name in ("compile s", "run s", "peak MiB", "J", "J / planted", "units", "loop's J, s"):
        result.add_column(name, justify="right")
    formats = {"compile_seconds": ".2f", "seconds": ".3f", "peak_mebibytes": ".0f"}
    formats |= {"objective": ".2f", "of_planted": ".4f", "units": ".2%"}
    for case in results:
        cells = [format(case[key], form) if key in case else "-" for key, form in formats.items()]
        found = case.get("reach", "-")
        cells.append(f"{found:.3f}" if isinstance(found, float) else found or "not reached")
        result.add_row(case["affinity"], case["solver"], *cells)
    return result


def main(config: Config) -> None:
    # Where the output is piped, rich would fold the table to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 120)
    text, bar = Progress.get_default_columns()[:2]
    columns = (SpinnerColumn(), text, bar, MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        results = list(run_all(config, progress))
    console.print(table(results, config))
    if config.json is not None:
        settings = {k: v for k, v in asdict(config).items() if k not in ("json", "files")}
        write_json(config.json, {"config": settings, "cases": results})


if __name__ == "__main__":
    main(tyro.cli(Config))
