"""How much memory a call takes, measured in a process of its own."""

import contextlib
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax

_STATUS = Path("/proc/self/status")


def host_peak() -> float:
    """Return the most memory this process has held in MiB, interpreter and libraries included."""
    if _STATUS.exists():
        # The resource usage of a new process begins with the peak of the one that made it.
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def device_peak() -> float | None:
    """Return the most memory held on the default device in MiB, where its backend counts it."""
    device = jax.config.values["jax_default_device"] or jax.devices()[0]
    stats = device.memory_stats() if isinstance(device, jax.Device) else None
    return stats["peak_bytes_in_use"] / 2**20 if stats else None


def growth(call: Callable[[], Any]) -> float:
    """Return by how many MiB a call raises the peak of the device, or of the host without one.

    Only the first call in a fresh process tells the truth; compilation on the host counts.
    """
    measure = host_peak if device_peak() is None else device_peak
    before = measure() or 0.0
    jax.block_until_ready(call())
    return (measure() or 0.0) - before


def alone(
    function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None
) -> Any:
    """Call a function of a module in a fresh process, so that its peak memory is its own.

    Args:
        function: what to call; it, its arguments and its result are pickled.
        *arguments: what to call it with.
        environment: variables of the new process beside those of this one.
    """
    context = multiprocessing.get_context("spawn")
    with _environment(environment or {}), ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    held = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in held.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
