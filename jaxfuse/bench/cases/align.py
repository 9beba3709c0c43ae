"""Two networks: a planted matching found by the compiled call and by the plain Python loop."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxfuse.affinity import Affinity, Gaussian, Linear
from jaxfuse.align import align_params
from jaxfuse.bench import peers
from jaxfuse.bench.contest import Absent, Case, Contestant, Program
from jaxfuse.bench.planted import (
    Planted,
    judge_batch,
    plant_graph,
    plant_mlp,
    plant_model,
    stacked,
)
from jaxfuse.bench.reach import limited, reach
from jaxfuse.bench.threads import blas_threads
from jaxfuse.bench.timing import Call, timed
from jaxfuse.bench.weight_matching import weight_matching
from jaxfuse.methods import METHODS

LOOP = "Python loop"
ONE_THREAD = "Python loop, one BLAS thread"
_LINEAR = Linear()
SOLVERS = {"jaxfuse": "portfolio", "jaxfuse, coordinate ascent": "coordinate_ascent"}

Plant = Callable[[], Planted]

MODELS: dict[str, Plant] = {
    "mlp 784-3x512-10": lambda: plant_mlp((512, 512, 512)),
    "resnet20": lambda: plant_model("resnet20"),
    "resnet20 width 4": lambda: plant_model("resnet20", width=4.0),
    "vgg11": lambda: plant_model("vgg11"),
    "vgg16": lambda: plant_model("vgg16"),
    "resnet50": lambda: plant_model("resnet50"),
}
SMALL: dict[str, Plant] = {
    "mlp 64-3x64-10": lambda: plant_mlp((64, 64, 64), inputs=64),
    "resnet20": MODELS["resnet20"],
    "vgg11 width 1/8": lambda: plant_model("vgg11", width=0.125),
}


def cases(quick: bool) -> list[Case]:
    """Return models, batches of pairs, the Gaussian affinity and dense graphs."""
    models = SMALL if quick else MODELS
    first = next(iter(models))
    found = [model_case(name, full=not quick or name == first) for name in models]
    if quick:
        found += [batch_case("mlp 64-3x64-10", 8), gaussian_case("vgg11 width 1/8", rank=16)]
    else:
        found += [batch_case("resnet20", 32), gaussian_case("vgg11", rank=64)]
    return found + [graph_case(n) for n in ((8, 16, 32) if quick else (8, 16, 32, 64, 139))]


def model_case(name: str, *, full: bool = False) -> Case:
    """Return the case of one model, by its name in `MODELS` or `SMALL`.

    Args:
        name: of the model.
        full: also measure memory, and how soon the loop's objective is reached: both compile anew.
    """
    enter = functools.partial(_enter_model, {**MODELS, **SMALL}[name])
    return Case(f"align/{name}", enter, rival=LOOP if full else "", weigh=full)


def steady_case(name: str) -> Case:
    """Return the same without what differs from run to run on a busy machine: BLAS's threads."""
    enter = functools.partial(_enter_steady, {**MODELS, **SMALL}[name])
    return Case(f"align/{name}", enter)


def batch_case(name: str, count: int) -> Case:
    """Return the case of many pairs of one model in one call."""
    enter = functools.partial(_enter_batch, name, count)
    return Case(f"align x{count}/{name}", enter, rival=_loops_of(count))


def gaussian_case(name: str, *, rank: int) -> Case:
    """Return the case of one model under the Gaussian affinity."""
    enter = functools.partial(_enter_gaussian, {**MODELS, **SMALL}[name], rank)
    return Case(f"align gaussian/{name}", enter)


def graph_case(nodes: int) -> Case:
    """Return the case of one dense graph, which libraries of graph matching take too."""
    enter = functools.partial(_enter_graph, nodes)
    return Case(f"graph/nodes={nodes}", enter, "nodes", nodes)


def aligner(planted: Planted, method: Any, affinity: Affinity = _LINEAR) -> Program:
    """Return the compiled alignment of the first two networks, whose leaves are on the device."""
    return Program(align_function(planted, method, affinity), *jax.device_put(planted.networks[:2]))


def align_function(
    planted: Planted, method: Any, affinity: Affinity = _LINEAR
) -> Callable[..., dict[str, jax.Array]]:
    """Return a function of two networks that gives the permutations."""

    def align(params_a: Any, params_b: Any) -> dict[str, jax.Array]:
        options = {"symmetry": planted.symmetry, "affinity": affinity, "method": method}
        return align_params(params_a, params_b, **options).permutations

    return align


def loop(planted: Planted, *, one_thread: bool = False) -> Call:
    """Return Git Re-Basin's loop on NumPy and SciPy.

    Threads of the matrix products pay on wide layers of an idle machine; on a busy one, or on
    narrow layers, they can cost tenfold.
    """
    a, b = planted.networks[:2]

    def run() -> dict[str, np.ndarray]:
        with blas_threads(1 if one_thread else None):
            return weight_matching(a, b, planted.symmetry, seed=0)[0]

    return run


def loops(planted: Planted) -> list[Contestant]:
    """Return the loop with the threads that NumPy takes by itself, and with one."""
    return [
        Contestant(LOOP, loop(planted), planted.judge),
        Contestant(ONE_THREAD, loop(planted, one_thread=True), planted.judge),
    ]


def _enter_model(plant: Plant) -> list[Contestant | Absent]:
    planted = plant()
    ours = [
        Contestant(
            name,
            aligner(planted, METHODS[solver].method),
            planted.judge,
            reach=functools.partial(
                _reach,
                functools.partial(aligner, planted),
                planted.judge,
                METHODS[solver].method,
            ),
        )
        for name, solver in SOLVERS.items()
    ]
    return [*ours, *loops(planted)]


def _enter_steady(plant: Plant) -> list[Contestant | Absent]:
    planted = plant()
    ours = Contestant("jaxfuse", aligner(planted, METHODS["portfolio"].method), planted.judge)
    return [ours, loops(planted)[1]]


def _reach(
    align: Callable[[Any], Call],
    judge: Callable[[Any], dict[str, float]],
    method: Any,
    target: float,
) -> float | None:
    """Return how soon a solver reaches an objective, given the call for any solver."""

    def compiled(limit: int | None) -> Call:
        return align(method if limit is None else limited(method, limit))

    def seconds(call: Call) -> float:
        return float(np.median([timed(call)[1] for _ in range(3)]))

    return reach(compiled, lambda found: judge(found)["objective"], seconds, target)


def _loops_of(count: int) -> str:
    return f"{count} Python loops, one BLAS thread"


def _enter_batch(name: str, count: int) -> list[Contestant | Absent]:
    pairs = [
        plant_mlp((64, 64, 64), inputs=64, seed=seed)
        if name.startswith("mlp")
        else plant_model(name, seed=seed)
        for seed in range(count)
    ]
    method = METHODS["portfolio"].method
    align = align_function(pairs[0], method)
    batches = [stacked(pairs, index) for index in (0, 1)]
    one = jax.jit(align)
    put = [jax.device_put(pair.networks) for pair in pairs]
    calls = [loop(pair, one_thread=True) for pair in pairs]

    def judge(found: Any) -> dict[str, float]:
        return judge_batch(pairs, found)

    def judge_list(found: Any) -> dict[str, float]:
        return judge({group: np.stack([each[group] for each in found]) for group in found[0]})

    def aligned(solver: Any) -> Program:
        return Program(jax.vmap(align_function(pairs[0], solver)), *batches)

    ours = Contestant(
        "jaxfuse, vmap",
        aligned(method),
        judge,
        reach=functools.partial(_reach, aligned, judge, method),
    )
    return [
        ours,
        Contestant("jaxfuse, one by one", lambda: [one(*pair) for pair in put], judge_list),
        Contestant(_loops_of(count), lambda: [run() for run in calls], judge_list),
    ]


def _enter_gaussian(plant: Plant, rank: int) -> list[Contestant | Absent]:
    planted = plant()
    method = METHODS["portfolio"].method
    return [
        Contestant(
            f"jaxfuse, gaussian rank {rank}",
            aligner(planted, method, Gaussian(rank=rank)),
            planted.judge,
        ),
        Contestant("jaxfuse, linear", aligner(planted, method), planted.judge),
        *loops(planted),
    ]


def _enter_graph(nodes: int) -> list[Contestant | Absent]:
    planted = plant_graph(nodes)
    a, b = (network["edges/kernel"] for network in planted.networks)

    def judge(columns: Any) -> dict[str, float]:
        return planted.judge({"nodes": columns})

    ours = aligner(planted, METHODS["portfolio"].method)
    return [
        Contestant("jaxfuse", ours, planted.judge, predicted={"seconds": 3.0, "program": 2.0}),
        peers.enter(
            "pygmtools, RRWM",
            "pygmtools",
            lambda: peers.pygmtools_matching(a, b),
            judge,
            predicted={"seconds": 4.0},
            needs=peers.dense_affinity(nodes),
        ),
    ]
