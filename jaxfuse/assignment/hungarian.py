"""The linear assignment problem, on the host by SciPy or on the device."""

import functools
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.buffer_callback import buffer_callback
from jax.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from jaxfuse.assignment.auction import auction
from jaxfuse.assignment.priced import PricedAssignment, raise_non_finite
from jaxfuse.assignment.shortest_augmenting_path import shortest_augmenting_path
from jaxfuse.status import Status, is_concrete

# Below about a millisecond of work (n * m * min(n, m) summed over the batch) threads cost more
# than they save.
_THREADED_WORK = 2e7

# Entries of the matrices that the host prepares at once: small matrices share the cost of a NumPy
# call, large ones stay in the cache, one to a thread.
_CHUNK = 2**14

# In compiled code "auto" solves at least this many matrices of at most this size on the device.
# There a callback took longer in every comparison on a CPU. From 128 rows the device is the faster
# one again (`jaxfuse bench --only 'hungarian on device*'`), but float32 and a second of compilation
# are left to be asked for. No accelerator was measured.
_DEVICE_BATCH = 16
_DEVICE_SIZE = 32


class Assignment(NamedTuple):
    """A matching of rows to columns.

    Attributes:
        columns: int32 `[..., n]`, `columns[i] = j` matches row i to column j; -1 leaves row i
            unmatched, which happens only for n > m.
        objective: float32 `[...]`, sum of the matched scores; -inf where the status is NON_FINITE.
        status: int32 `[...]`, a `jaxfuse.status.Status`.
    """

    columns: jax.Array
    objective: jax.Array
    status: jax.Array


def hungarian(
    scores: ArrayLike,
    *,
    backend: Literal["auto", "host", "callback", "jax", "auction"] = "auto",
) -> Assignment:
    """Find the assignment of rows to columns with the largest sum of scores.

    Every row is matched for n <= m, every column for n >= m. Ties are broken the same way on every
    run of one backend, but not alike by two backends.

    The backend "host" calls SciPy (shortest augmenting paths) directly and needs concrete input;
    "callback" calls the same code from compiled code, one host call for a whole batch, however
    many `vmap`s it came through, its matrices solved on threads. "jax" runs on the device, for
    `jax.export`, TPUs and programs without callbacks (`shortest_augmenting_path`, which also takes
    and returns prices), and "auction" is its parallel rival for accelerators (`auction`, by default
    within a thousandth of a row's range of the largest sum; exact for integers). "auto" takes
    "host" outside jit. Inside it takes "jax" for 16 or more float32, float16 or bfloat16 matrices
    of up to 32 rows and columns, and "callback" else. SciPy works in float64, so integers up to
    2**53 are exact; the device works in float32: "jax" is exact for integers while sums stay below
    2**24, else optimal up to rounding.

    Not differentiable: the derivative is zero.

    Args:
        scores: `[..., n, m]`, float or integer, higher is better. -inf forbids a pair.
        backend: "auto", "host", "callback", "jax" or "auction".

    Returns:
        An `Assignment`. Its status is NON_FINITE where scores hold NaN or +inf or overflow: then
        row i is matched to column i. It is NON_FINITE too where no assignment avoids forbidden
        pairs: then the assignment uses as few of them as possible. An empty matrix is CONVERGED.

    Raises:
        ValueError: for scores of fewer than two axes, an unknown backend, and "host" under jit;
            outside jit also for what gives the status NON_FINITE under jit.

    Examples:
        >>> result = hungarian(jnp.array([[1.0, 5.0, 0.0], [2.0, 9.0, 0.0]]))
        >>> result.columns.tolist(), float(result.objective)
        ([0, 1], 10.0)

    References:
        Crouse, "On implementing 2D rectangular assignment algorithms", 2016 (SciPy).
    """
    if backend not in ("auto", "host", "callback", "jax", "auction"):
        raise ValueError(
            f"hungarian: got backend={backend!r}, want 'auto', 'host', 'callback', 'jax' or "
            f"'auction'"
        )
    if jnp.ndim(scores) < 2:
        raise ValueError(f"hungarian: got scores of shape {jnp.shape(scores)}, want [..., n, m]")
    if backend == "auto" and is_concrete(scores):
        backend = "host"
    if backend == "host":
        if not is_concrete(scores):
            raise ValueError(
                "hungarian: backend='host' needs concrete scores: under jit, vmap or grad pass "
                "backend='callback' or 'auto'"
            )
        # The scores are not made a JAX array first: that would round float64 and int64.
        result = Assignment(*map(jnp.asarray, _solve_batch(np.asarray(scores))))
    else:
        solve = _SOLVERS[backend]
        result = solve(lax.stop_gradient(jnp.asarray(scores)))
    raise_non_finite("hungarian", result.status)
    return result


@custom_vmap
def _solve_auto(scores: jax.Array) -> Assignment:
    """Choose by the batch that all leading axes and `vmap`s make."""
    *batch, n, m = scores.shape
    # Only these dtypes lose nothing in the float32 of the device.
    narrow = jnp.issubdtype(scores.dtype, jnp.floating) and scores.dtype.itemsize <= 4
    many_small = math.prod(batch) >= _DEVICE_BATCH and max(n, m) <= _DEVICE_SIZE
    return _solve_device(scores) if narrow and many_small else _solve_callback(scores)


@_solve_auto.def_vmap
def _solve_auto_batch(axis_size, in_batched, scores):
    del axis_size, in_batched
    result = _solve_auto(scores)
    return result, jax.tree.map(lambda _: True, result)


@jax.jit
def _solve_callback(scores: jax.Array) -> Assignment:
    *batch, n, _ = scores.shape
    shapes = (
        jax.ShapeDtypeStruct((*batch, n), jnp.int32),
        jax.ShapeDtypeStruct(tuple(batch), jnp.float32),
        jax.ShapeDtypeStruct(tuple(batch), jnp.int32),
    )
    # The former hands over the arrays as they lie in memory.
    fill = buffer_callback(_fill, shapes, vmap_method="expand_dims")
    answer = functools.partial(jax.pure_callback, _answer, shapes, vmap_method="expand_dims")
    return Assignment(*lax.platform_dependent(scores, cpu=fill, default=answer))


def _fill(_: Any, outputs: Sequence[Any], scores: Any) -> None:
    for buffer, values in zip(outputs, _solve_batch(np.asarray(scores)), strict=True):
        np.asarray(buffer)[...] = values


def _answer(scores: jax.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _solve_batch(np.asarray(scores))


def _solve_batch(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve `[..., n, m]` with NumPy and SciPy alone: a callback must not call JAX or raise."""
    *batch, n, m = scores.shape
    size = math.prod(batch)
    if 0 in (size, n, m):
        empty = np.full(batch, Status.CONVERGED, np.int32)
        return np.full((*batch, n), -1, np.int32), np.zeros(batch, np.float32), empty
    matrices = scores.reshape(size, n, m)
    step = max(1, _CHUNK // (n * m))
    chunks = [matrices[k : k + step] for k in range(0, size, step)]
    workers = 1
    if size * n * m * min(n, m) >= _THREADED_WORK:
        # It takes longer to count the cores than to solve a small matrix.
        workers = min(len(chunks), os.cpu_count() or 1)
    if workers > 1:
        # SciPy releases the interpreter lock while it solves.
        with ThreadPoolExecutor(workers) as pool:
            solved = list(pool.map(_solve_chunk, chunks))
    else:
        solved = [_solve_chunk(chunk) for chunk in chunks]
    columns, objective, status = (
        parts[0] if len(chunks) == 1 else np.concatenate(parts)
        for parts in zip(*solved, strict=True)
    )
    return columns.reshape(*batch, n), objective.reshape(batch), status.reshape(batch)


def _solve_chunk(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve `[size, n, m]`, all but SciPy's part for all matrices at once."""
    size, n, m = scores.shape
    least = min(n, m)
    columns = np.full((size, n), -1, np.int32)
    columns[:, :least] = np.arange(least)
    objective = np.full(size, -np.inf)
    narrow = scores.dtype.itemsize < 8
    scores = scores.astype(np.float64)
    finite, fine = scores, np.ones(size, bool)
    # A float32 overflows no sum in float64, so one test clears a whole chunk.
    with np.errstate(invalid="ignore"):
        clean = narrow and np.isfinite(scores.sum())
    if not clean:
        finite, fine = _allowed(scores)
    for k in fine.nonzero()[0]:
        i, j = linear_sum_assignment(finite[k], maximize=True)
        if n > m:
            columns[k] = -1
        columns[k, i] = j
        objective[k] = scores[k, i, j].sum()
    status = np.where(objective == -np.inf, Status.NON_FINITE.value, Status.CONVERGED.value)
    with np.errstate(over="ignore"):
        return columns, objective.astype(np.float32), status.astype(np.int32)


def _allowed(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return matrices with a low score in place of -inf, and which can be solved."""
    least = min(scores.shape[1:])
    finite = scores
    with np.errstate(over="ignore", invalid="ignore"):
        forbidden = scores == -np.inf
        if forbidden.any():
            # So low that no sum of allowed scores makes up for it: used where nothing else is left.
            axes = {"axis": (1, 2), "keepdims": True, "where": ~forbidden}
            low = scores.min(initial=np.inf, **axes)
            high = scores.max(initial=-np.inf, **axes)
            low = np.where(low > high, 0.0, low - (high - low + 1) * (least + 1))
            finite = np.where(forbidden, low, scores)
        # The factor leaves room for the sums that SciPy forms.
        fine = np.isfinite(4.0 * least * finite.min(axis=(1, 2)))
        fine &= np.isfinite(4.0 * least * finite.max(axis=(1, 2)))
    return finite, fine


@jax.jit
def _solve_device(scores: jax.Array) -> Assignment:
    return _unpriced(shortest_augmenting_path(scores))


@jax.jit
def _solve_auction(scores: jax.Array) -> Assignment:
    return _unpriced(auction(scores))


def _unpriced(result: PricedAssignment) -> Assignment:
    return Assignment(result.columns, result.objective.astype(jnp.float32), result.status)


_SOLVERS = {
    "auto": _solve_auto,
    "callback": _solve_callback,
    "jax": _solve_device,
    "auction": _solve_auction,
}
