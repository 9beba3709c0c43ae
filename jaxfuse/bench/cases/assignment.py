"""The Hungarian algorithm: on the host, behind a callback, on the device, alone and in batches."""

import functools
from typing import Any

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxfuse.assignment import hungarian
from jaxfuse.bench import peers
from jaxfuse.bench.contest import Absent, Case, Contestant

BATCH = 64
_EMD_LIMIT = 1024


def cases(quick: bool) -> list[Case]:
    """Return single matrices, batches, and what stays on the device."""
    single = (32, 128, 256) if quick else (32, 128, 256, 512, 1024, 2048)
    batched = (32, 128) if quick else (32, 128, 256, 512)
    on_device = (32, 64) if quick else (64, 128, 256, 512)
    return [
        *(host_case(n) for n in single),
        *(batch_case(n) for n in batched),
        *(device_case(n) for n in on_device),
    ]


def host_case(n: int) -> Case:
    """Return the case of one matrix on the host."""
    return _case("hungarian", _enter_host, n)


def batch_case(n: int) -> Case:
    """Return the case of a batch."""
    return _case(f"hungarian x{BATCH}", _enter_batch, n)


def device_case(n: int) -> Case:
    """Return the case of one matrix that is not to leave the device."""
    return _case("hungarian on device", _enter_device, n)


def _case(series: str, enter: Any, n: int) -> Case:
    name = f"{series}/n={n}"
    return Case(name, functools.partial(enter, n), "n", n, predicted={"seconds": 3.0})


def _scores(n: int, batch: int | None = None) -> np.ndarray:
    shape = (n, n) if batch is None else (batch, n, n)
    return np.random.default_rng(n).normal(size=shape).astype(np.float32)


def _judge(scores: np.ndarray, columns: Any) -> dict[str, float]:
    """Compare the sum of what was picked with the optimum, in float64; no permutation counts 0."""
    exact = scores.astype(np.float64).reshape(-1, *scores.shape[-2:])
    found = np.asarray(columns).reshape(exact.shape[:2])
    rows = np.arange(exact.shape[-1])
    if not (np.sort(found, axis=1) == rows).all():
        return {"of_optimum": 0.0}
    picked = sum(each[rows, order].sum() for each, order in zip(exact, found, strict=True))
    best = sum(each[linear_sum_assignment(each, maximize=True)].sum() for each in exact)
    return {"of_optimum": float(picked / best)}


def _enter_host(n: int) -> list[Contestant | Absent]:
    scores = _scores(n)
    judge = functools.partial(_judge, scores)
    too_large = f"left out above n={_EMD_LIMIT}: minutes a call" if n > _EMD_LIMIT else None
    return [
        Contestant("jaxfuse", lambda: hungarian(scores, backend="host").columns, judge),
        Contestant("SciPy", peers.scipy_assignment(scores), judge),
        peers.enter("lapx", "lapx", lambda: peers.lapx_assignment(scores), judge),
        peers.enter(
            "POT, emd", "POT", lambda: peers.emd_assignment(scores), judge, needs=too_large
        ),
    ]


def _enter_batch(n: int) -> list[Contestant | Absent]:
    scores = _scores(n, BATCH)
    judge = functools.partial(_judge, scores)
    put = jax.device_put(scores)
    run = jax.jit(lambda s: hungarian(s, backend="callback").columns)
    return [
        Contestant("jaxfuse", lambda: hungarian(scores, backend="host").columns, judge),
        Contestant("jaxfuse, under jit", lambda: run(put), judge),
        Contestant("SciPy loop", peers.scipy_assignment(scores), judge),
        peers.enter("lapx batch", "lapx", lambda: peers.lapx_assignment(scores), judge),
    ]


def _enter_device(n: int) -> list[Contestant | Absent]:
    scores = _scores(n)
    judge = functools.partial(_judge, scores)
    put = jax.device_put(scores)
    on_device = jax.jit(lambda s: hungarian(s, backend="jax").columns)
    callback = jax.jit(lambda s: hungarian(s, backend="callback").columns)
    return [
        Contestant("jaxfuse", lambda: on_device(put), judge),
        Contestant("jaxfuse, callback", lambda: callback(put), judge),
        Contestant("optax", peers.optax_assignment(scores), judge),
    ]
