"""Time and memory against the sizes of a problem, beside the exponents that theory predicts."""

import functools
from typing import Any

import jax
import numpy as np

from jaxfuse.affinity import Gaussian
from jaxfuse.bench.cases import devices
from jaxfuse.bench.cases.align import align_function, aligner, loops
from jaxfuse.bench.cases.devices import small_pairs
from jaxfuse.bench.cases.gaussian import BANDWIDTH, edges_of, scores_program
from jaxfuse.bench.cases.many import aligner as many_aligner
from jaxfuse.bench.contest import Absent, Case, Contestant, Program
from jaxfuse.bench.planted import Planted, judge_batch, plant_mlp, stacked
from jaxfuse.methods import METHODS

_CHANNELS, _FINEST = 64, 256


def cases(quick: bool) -> list[Case]:
    """Return one series for each size that a problem has."""
    widths = (32, 64, 128, 256) if quick else (64, 128, 256, 512, 1024, 2048, 4096)
    depths = (2, 4, 8) if quick else (2, 4, 8, 16, 32)
    counts = (2, 4, 8) if quick else (2, 4, 8, 16, 32)
    ranks = (8, 16, 32, 64) if quick else (8, 16, 32, 64, 128, 256)
    return [
        *(_case("width", n, _enter_width, seconds=3.0, program=2.0) for n in widths),
        *(_case("depth", n, _enter_depth, seconds=1.0, program=1.0) for n in depths),
        *(_case("K", n, _enter_many, seconds=1.0, program=1.0) for n in counts),
        *(_case("pairs", n, _enter_pairs, seconds=1.0, program=1.0) for n in counts),
        *(_case("rank", n, _enter_rank, seconds=1.0, program=1.0) for n in ranks),
        *devices.cases(quick),
    ]


def _case(axis: str, size: int, enter: Any, **predicted: float) -> Case:
    name = f"{axis}/{axis}={size}"
    return Case(name, functools.partial(enter, size), axis, size, predicted)


def _pair(planted: Planted) -> list[Contestant | Absent]:
    ours = Contestant("jaxfuse", aligner(planted, METHODS["portfolio"].method), planted.judge)
    return [ours, *loops(planted)]


def _enter_width(width: int) -> list[Contestant | Absent]:
    return _pair(plant_mlp((width, width), inputs=64))


def _enter_depth(depth: int) -> list[Contestant | Absent]:
    return _pair(plant_mlp((64,) * depth, inputs=64))


def _enter_many(count: int) -> list[Contestant | Absent]:
    planted = plant_mlp((64, 64), inputs=64, copies=count - 1)
    ours = many_aligner(planted, METHODS["annealed_merge_many"].method)
    return [Contestant("jaxfuse", ours, planted.judge_many)]


def _enter_pairs(count: int) -> list[Contestant | Absent]:
    pairs = small_pairs(count)
    align = align_function(pairs[0], METHODS["coordinate_ascent"].method)
    ours = Program(jax.vmap(align), stacked(pairs, 0), stacked(pairs, 1))
    return [Contestant("jaxfuse, coordinate ascent", ours, functools.partial(judge_batch, pairs))]


def _enter_rank(rank: int) -> list[Contestant | Absent]:
    edges = jax.device_put(edges_of(_CHANNELS))

    def program(count: int) -> Program:
        return scores_program(Gaussian(bandwidth=BANDWIDTH, rank=count).block(*edges))

    finest = np.asarray(program(_FINEST)())

    def judge(scores: Any) -> dict[str, float]:
        off = np.asarray(scores) - finest
        return {"error": float(np.linalg.norm(off) / np.linalg.norm(finest))}

    return [Contestant("jaxfuse", program(rank), judge, note=f"error against rank {_FINEST}")]
