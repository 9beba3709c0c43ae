"""K networks at once: how time grows with K, and whether the planted orders are found."""

import functools
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxfuse.align import align_many
from jaxfuse.bench.cases.align import loop
from jaxfuse.bench.contest import Absent, Case, Contestant, Program
from jaxfuse.bench.planted import Planted, plant_mlp, plant_model
from jaxfuse.methods import METHODS

SOLVERS = {"jaxfuse": "annealed_merge_many", "jaxfuse, merge_many": "merge_many"}


def cases(quick: bool) -> list[Case]:
    """Return the same model for several K."""
    if quick:
        return [case("mlp 64-2x64-10", count) for count in (2, 4, 8)]
    return [case("resnet20", count) for count in (2, 4, 8, 16, 32)]


def case(model: str, count: int) -> Case:
    """Return the case of `count` networks: "resnet20" or a small MLP."""
    enter = functools.partial(_enter, model, count)
    return Case(f"many {model}/K={count}", enter, "K", count, predicted={"seconds": 1.0})


def aligner(planted: Planted, method: Any) -> Program:
    """Return the compiled alignment of all networks, whose leaves are on the device."""

    def align(*networks: Any) -> dict[str, jax.Array]:
        return align_many(networks, symmetry=planted.symmetry, method=method).permutations

    return Program(align, *jax.device_put(planted.networks))


def _enter(model: str, count: int) -> list[Contestant | Absent]:
    if model == "resnet20":
        planted = plant_model(model, copies=count - 1)
    else:
        planted = plant_mlp((64, 64), inputs=64, copies=count - 1)
    ours = [
        Contestant(name, aligner(planted, METHODS[solver].method), planted.judge_many)
        for name, solver in SOLVERS.items()
    ]
    to_first = functools.partial(_to_the_first, planted)
    name = "Python loops to the first, one BLAS thread"
    return [*ours, Contestant(name, to_first, planted.judge_many)]


def _to_the_first(planted: Planted) -> dict[str, np.ndarray]:
    """Match every network to the first by Git Re-Basin's loop."""
    first, *others = planted.networks
    pairs = [replace(planted, networks=(first, other)) for other in others]
    found = [loop(pair, one_thread=True)() for pair in pairs]
    return {
        group: np.stack([np.arange(size), *(orders[group] for orders in found)])
        for group, size in planted.symmetry.sizes
    }
