"""The other libraries, each behind one function that takes what ours takes.

They come with `pip install 'jaxfuse[bench]'`; one that is not installed is a row that says so.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax.assignment
from scipy.optimize import linear_sum_assignment

from jaxfuse.bench.ceilings import Work
from jaxfuse.bench.contest import Absent, Contestant, Judge
from jaxfuse.bench.threads import blas_threads
from jaxfuse.bench.timing import Call

MODULES = {"lapx": "lap", "ott-jax": "ott", "POT": "ot", "pygmtools": "pygmtools"}
"""The peers that may be missing, by the name of their package, and the module of each."""

_UNCOUNTED = Work()


def missing(package: str) -> str | None:
    """Return what to do to have a package, or None where it is installed."""
    if importlib.util.find_spec(MODULES[package]) is not None:
        return None
    return f"needs {package}, which is not installed: pip install 'jaxfuse[bench]'"


def enter(
    name: str,
    package: str,
    make: Callable[[], Call],
    judge: Judge,
    *,
    work: Work = _UNCOUNTED,
    predicted: Mapping[str, float] | None = None,
    needs: str | None = None,
) -> Contestant | Absent:
    """Enter a peer into a case, or say why it cannot run.

    Args:
        name: what its row is called.
        package: where it comes from, a key of `MODULES`.
        make: imports it and prepares the call.
        judge: as of any contestant.
        work: likewise.
        predicted: likewise.
        needs: what it would need at this size, where that is too much.
    """
    lacks = missing(package) or needs
    if lacks:
        return Absent(name, lacks)
    return Contestant(name, make(), judge, work, predicted=predicted or {})


def scipy_assignment(scores: np.ndarray) -> Call:
    """Solve `[n, n]` or one after the other `[b, n, n]`; return the columns."""
    if scores.ndim == 2:
        return lambda: linear_sum_assignment(scores, maximize=True)[1]
    return lambda: np.stack([linear_sum_assignment(each, maximize=True)[1] for each in scores])


def lapx_assignment(scores: np.ndarray) -> Call:
    """Solve `[n, n]` by lapjvs, or `[b, n, n]` by its batched form on all cores."""
    lap = importlib.import_module("lap")
    cost = -scores
    if scores.ndim == 2:
        return lambda: lap.lapjvs(cost, return_cost=False)[1]
    return lambda: np.stack(lap.lapjvs_batch(cost, return_cost=False)[1])


def emd_assignment(scores: np.ndarray) -> Call:
    """Solve `[n, n]` by POT's network simplex."""
    ot = importlib.import_module("ot")
    cost = np.asarray(scores.max() - scores, np.float64)
    mass = np.ones(len(cost)) / len(cost)
    return lambda: np.argmax(ot.emd(mass, mass, cost, numItermax=10**7), axis=1)


def optax_assignment(scores: np.ndarray) -> Call:
    """Solve `[n, n]` or `[b, n, n]` by optax's Hungarian algorithm, compiled for the device."""
    solve = optax.assignment.hungarian_algorithm
    run = jax.jit(solve if scores.ndim == 2 else jax.vmap(solve))
    cost = jax.device_put(-scores)

    def columns() -> np.ndarray:
        rows, columns = (np.asarray(each) for each in run(cost))
        return np.take_along_axis(columns, np.argsort(rows, axis=-1), axis=-1)

    return columns


def ott_sinkhorn(scores: np.ndarray, tau: float, iterations: int) -> Call:
    """Return the plan of `[n, n]` or `[b, n, n]` in the log domain, its rows summing to one."""
    with warnings.catch_warnings():
        # It imports jaxopt, which announces its end.
        warnings.simplefilter("ignore", DeprecationWarning)
        geometry = importlib.import_module("ott.geometry.geometry")
        problem = importlib.import_module("ott.problems.linear.linear_problem")
        solver = importlib.import_module("ott.solvers.linear.sinkhorn").Sinkhorn(
            lse_mode=True,
            min_iterations=iterations,
            max_iterations=iterations,
            threshold=0.0,
        )

    def plan(each: jax.Array) -> jax.Array:
        cost = geometry.Geometry(cost_matrix=-each, epsilon=tau)
        return solver(problem.LinearProblem(cost)).matrix * each.shape[-1]

    run = jax.jit(plan if scores.ndim == 2 else jax.vmap(plan))
    put = jax.device_put(scores)
    return lambda: run(put)


def pot_sinkhorn(scores: np.ndarray, tau: float, iterations: int) -> Call:
    """Return the plan of `[n, n]`, or one after the other of `[b, n, n]`, by POT on NumPy."""
    ot = importlib.import_module("ot")
    n = scores.shape[-1]
    mass = np.ones(n, scores.dtype) / n

    def plan(each: np.ndarray) -> np.ndarray:
        options = {"method": "sinkhorn_log", "numItermax": iterations, "stopThr": 0.0}
        return n * ot.sinkhorn(mass, mass, -each, tau, warn=False, **options)

    if scores.ndim == 2:
        return lambda: plan(scores)
    return lambda: np.stack([plan(each) for each in scores])


def pygmtools_matching(a: np.ndarray, b: np.ndarray) -> Call:
    """Match the nodes of two weighted graphs `[n, n]` by RRWM on the dense affinity a x b."""
    pygm = importlib.import_module("pygmtools")
    n = len(a)

    def columns() -> np.ndarray:
        # Pairs (i, j) count j slowest: entry (j n + i, b n + a) is a[i, a] b[j, b].
        with blas_threads(1):
            soft = pygm.rrwm(np.kron(b, a), n, n, backend="numpy")
            found: Any = pygm.hungarian(soft, backend="numpy")
        return np.argmax(found, axis=1)

    return columns


def dense_affinity(units: int, limit: float = 2**31) -> str | None:
    """Say what the dense affinity of so many units would need, where that is above the limit.

    Examples:
        >>> dense_affinity(139, 0)
        'needs a dense affinity of 139^2 x 139^2 floats: 1.5 GB'
    """
    size = 4.0 * units**4
    if size <= limit:
        return None
    return f"needs a dense affinity of {units}^2 x {units}^2 floats: {size / 1e9:.2g} GB"
