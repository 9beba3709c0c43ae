"""One batch over devices and processes of this machine, which share its cores.

What they show is that the answer stays, and what sharding costs; not what more hardware gains.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxfuse.affinity import Linear
from jaxfuse.align import align_pairs
from jaxfuse.bench.contest import Absent, Case, Contestant, Judge, Program
from jaxfuse.bench.planted import Planted, judge_batch, plant_mlp, stacked
from jaxfuse.bench.processes import ProcessGroup
from jaxfuse.bench.timing import Call
from jaxfuse.many import build_many, shard_networks
from jaxfuse.methods import METHODS

DEVICES = 8
_SIMULATED = {
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
    "JAX_PLATFORMS": "cpu",
}


def cases(quick: bool) -> list[Case]:
    """Return pairs over devices, networks over devices and pairs over processes."""
    devices = (1, 4) if quick else (1, 2, 4, 8)
    return [
        *(_case("sharded", "devices", n, _enter_pairs) for n in devices),
        *(_case("sharded networks", "devices", n, _enter_networks) for n in devices),
        *(_case("processes", "processes", n, _enter_processes) for n in (1, 2)),
    ]


def _case(series: str, axis: str, size: int, enter: Any) -> Case:
    return Case(
        f"{series}/{axis}={size}",
        functools.partial(enter, size),
        axis,
        size,
        {"seconds": 0.0},
        environment=_SIMULATED,
    )


def small_pairs(count: int) -> list[Planted]:
    """Plant pairs of one small MLP."""
    return [plant_mlp((64, 64), inputs=64, seed=seed) for seed in range(count)]


def _mesh(axis: str, size: int) -> Mesh:
    return jax.make_mesh((size,), (axis,), (AxisType.Auto,), devices=jax.devices()[:size])


def _aligner(pairs: list[Planted], mesh: Mesh) -> Callable[..., dict[str, jax.Array]]:
    """Return a function of two batches that gives the permutations."""
    method = METHODS["coordinate_ascent"].method

    def align(params_a: Any, params_b: Any) -> dict[str, jax.Array]:
        options = {"symmetry": pairs[0].symmetry, "method": method}
        return align_pairs(params_a, params_b, mesh=mesh, **options).permutations

    return align


def _spread_pairs(pairs: list[Planted], devices: int) -> Program:
    mesh = _mesh("pairs", devices)
    batches = (stacked(pairs, 0), stacked(pairs, 1))
    placed = jax.device_put(batches, NamedSharding(mesh, PartitionSpec("pairs")))
    return Program(_aligner(pairs, mesh), *placed)


def _against(judge: Judge, whole: Call) -> Judge:
    """Judge also by the share of units that one device matches otherwise."""
    right = {group: np.asarray(orders) for group, orders in whole().items()}

    def both(found: Mapping[str, Any]) -> dict[str, float]:
        moved = [np.mean(np.asarray(found[group]) != right[group]) for group in right]
        return {**judge(found), "difference": float(max(moved))}

    return both


def _enter_pairs(devices: int) -> list[Contestant | Absent]:
    pairs = small_pairs(DEVICES)
    whole = _spread_pairs(pairs, 1)
    judge = _against(functools.partial(judge_batch, pairs), whole)
    ours = _spread_pairs(pairs, devices)
    return [
        Contestant("jaxfuse, shard_map", ours, judge, predicted={"program": -1.0}),
        Contestant("jaxfuse, one device", whole, judge),
    ]


def _enter_networks(devices: int) -> list[Contestant | Absent]:
    planted = plant_mlp((64, 64), inputs=64, copies=DEVICES - 1)
    method: Any = METHODS["universe_frank_wolfe"].method
    problem = build_many(planted.networks, planted.symmetry, Linear())
    sharding = NamedSharding(_mesh("models", devices), PartitionSpec("models"))
    whole = Program(lambda problem: method.solve_many(problem).orders, problem)
    ours = Program(
        lambda problem: method.solve_many(problem).orders, shard_networks(problem, sharding)
    )
    judge = _against(planted.judge_many, whole)
    note = "universe Frank-Wolfe"
    return [
        Contestant(
            "jaxfuse, features sharded", ours, judge, predicted={"program": -1.0}, note=note
        ),
        Contestant("jaxfuse, one device", whole, judge, note=note),
    ]


def _enter_processes(count: int) -> list[Contestant | Absent]:
    pairs = small_pairs(DEVICES)
    judge = _against(functools.partial(judge_batch, pairs), _spread_pairs(pairs, 1))

    def judge_parts(found: list[Mapping[str, Any]]) -> Mapping[str, float]:
        return judge({group: np.concatenate([own[group] for own in found]) for group in found[0]})

    together = ProcessGroup(count, functools.partial(enter_process, count))
    return [
        Contestant(
            "jaxfuse, processes", together, judge_parts, note="a message to and from each included"
        ),
        Contestant("jaxfuse, one process, as many devices", _spread_pairs(pairs, count), judge),
    ]


def enter_process(count: int) -> Call:
    """Return the alignment of this process's share of the pairs, and its permutations alone."""
    pairs = small_pairs(DEVICES)
    mesh = _mesh("pairs", count)
    sharding = NamedSharding(mesh, PartitionSpec("pairs"))
    share = DEVICES // count
    first = jax.process_index() * share
    own = pairs[first : first + share]
    batches = jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)),
        (stacked(own, 0), stacked(own, 1)),
    )
    program = Program(_aligner(pairs, mesh), *batches)

    def call() -> dict[str, np.ndarray]:
        return {
            group: np.asarray(orders.addressable_data(0)) for group, orders in program().items()
        }

    return call
