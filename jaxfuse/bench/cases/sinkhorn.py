"""Sinkhorn at equal iterations, against a float64 reference in the log domain."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp

from jaxfuse.assignment import sinkhorn
from jaxfuse.bench import peers
from jaxfuse.bench.ceilings import Work
from jaxfuse.bench.contest import Absent, Case, Contestant

TAU = 0.5
ITERATIONS = 50
BATCH = 64
_REBUILD = 10  # iterations between two kernels of the stabilised method
_CHECKED = 4  # matrices of a batch that are compared


def cases(quick: bool) -> list[Case]:
    """Return single matrices and batches."""
    single = (64, 256) if quick else (64, 128, 256, 512, 1024, 2048)
    batched = (64,) if quick else (64, 128, 256)
    return [case(n, None) for n in single] + [case(n, BATCH) for n in batched]


def case(n: int, batch: int | None) -> Case:
    """Return the case of one matrix `[n, n]` or of a batch of them."""
    series = "sinkhorn" if batch is None else f"sinkhorn x{batch}"
    enter = functools.partial(_enter, n, batch)
    return Case(f"{series}/n={n}", enter, axis="n", size=n, predicted={"seconds": 2.0})


def _enter(n: int, batch: int | None) -> list[Contestant | Absent]:
    rng = np.random.default_rng(n)
    shape = (n, n) if batch is None else (batch, n, n)
    scores = rng.normal(size=shape).astype(np.float32)
    judge = functools.partial(_judge, _references(scores))
    entries = float(scores.size)
    put = jax.device_put(scores)
    kernel_run = jax.jit(lambda s: sinkhorn(s, TAU, iterations=ITERATIONS).plan)
    log_run = jax.jit(lambda s: sinkhorn(s, TAU, method="log", iterations=ITERATIONS).plan)
    # Two matrix-vector products an iteration read the kernel; two log-sum-exps take as many exps.
    kernel = Work(
        flops=4 * entries * ITERATIONS,
        exps=entries * (ITERATIONS // _REBUILD + 1),
        bytes=8 * entries * ITERATIONS,
    )
    log = Work(exps=2 * entries * ITERATIONS)
    arguments = (scores, TAU, ITERATIONS)
    return [
        Contestant("jaxfuse", lambda: kernel_run(put), judge, kernel),
        Contestant("jaxfuse, log", lambda: log_run(put), judge, log),
        peers.enter(
            "OTT-JAX, log", "ott-jax", lambda: peers.ott_sinkhorn(*arguments), judge, work=log
        ),
        peers.enter("POT, log", "POT", lambda: peers.pot_sinkhorn(*arguments), judge, work=log),
    ]


def _references(scores: np.ndarray) -> Mapping[int, np.ndarray]:
    """Return the converged plans of a few matrices, by index."""
    if scores.ndim == 2:
        return {-1: reference(scores)}
    return {index: reference(scores[index]) for index in range(min(_CHECKED, len(scores)))}


def reference(scores: np.ndarray, tolerance: float = 1e-9, limit: int = 200) -> np.ndarray:
    """Return the doubly stochastic matrix of scores at `TAU` by float64 log-sum-exps."""
    log = scores.astype(np.float64) / TAU
    for _ in range(limit):
        log = log - logsumexp(log, axis=1, keepdims=True)
        log = log - logsumexp(log, axis=0, keepdims=True)
        if abs(np.exp(log).sum(axis=1) - 1).max() < tolerance:
            break
    return np.exp(log)


def _judge(references: Mapping[int, np.ndarray], plan: Any) -> dict[str, float]:
    found = np.asarray(plan, np.float64)
    off = [
        abs((found if index < 0 else found[index]) - right).max()
        for index, right in references.items()
    ]
    return {"error": float(max(off))}
