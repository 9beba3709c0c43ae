"""Which executor is fastest, by a short timing."""

import dataclasses
import time

import jax
import numpy as np

from jaxfuse.federated.clients import Clients
from jaxfuse.federated.config import Executor
from jaxfuse.federated.rounds import FederatedState, Plan, train_some
from jaxfuse.federated.training import steps_of

_STEPS = 2
_KINDS: tuple[tuple[Executor, int, bool], ...] = (
    ("vmap", 1, True),
    ("map", 1, True),
    ("map", 4, True),
    ("map", 1, False),
    ("shard_map", 1, True),
)
"""Executors, each with clients at a time and whether convolutions are matrix products."""
_PLAIN, _SPREAD = 3, 4


def choose_executor(plan: Plan, data: Clients, state: FederatedState) -> int:
    """Return the number of the executor that trains the clients of a round fastest here.

    Each is compiled and timed on two steps of every client: all clients at once, four at a time,
    one after the other, the latter with convolutions as matrix products and as they are; with a
    mesh of several devices, over these without a timing. Clients that share a loop all wait for
    the largest, which counts.

    Args:
        plan: the plan; its mesh decides whether devices are taken.
        data: the examples.
        state: as before a round. It is left as it is.

    Returns:
        The number that `with_executor` takes.
    """
    if plan.mesh is not None and plan.mesh.size > 1:
        return _SPREAD
    kinds = list(range(_PLAIN))
    if any(leaf.ndim > 2 for leaf in jax.tree.leaves(state.params)):
        # With a kernel for every client, plain convolutions do not batch: they go one by one.
        kinds.append(_PLAIN)
    return min(kinds, key=lambda kind: _cost(with_executor(plan, kind), data, state))


def with_executor(plan: Plan, kind: int) -> Plan:
    """Return a plan with the executor of a number that `choose_executor` gave."""
    executor, chunk, products = _KINDS[kind]
    network = plan.network._replace(products=products)
    return dataclasses.replace(plan, executor=executor, chunk=chunk, network=network)


def _cost(plan: Plan, data: Clients, state: FederatedState) -> float:
    """Estimate the seconds of a round: those of a step, times the steps of the shared loops."""
    sizes = np.asarray(data.shards.size)
    steps = np.sort(np.asarray(steps_of(plan.config, sizes)))[::-1]
    together = len(steps) if plan.executor == "vmap" else plan.chunk
    try:
        return _time(plan, data, state) * float(steps[::together].mean())
    except jax.errors.JaxRuntimeError:  # out of memory, where another executor may fit
        return float("inf")


def _time(plan: Plan, data: Clients, state: FederatedState) -> float:
    jax.block_until_ready(train_some(plan, data, state, _STEPS))
    begin = time.perf_counter()
    jax.block_until_ready(train_some(plan, data, state, _STEPS))
    return time.perf_counter() - begin
