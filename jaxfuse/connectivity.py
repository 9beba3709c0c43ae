"""Paths between networks, and the loss barrier on the way."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxfuse.fusion.average import weighted_sum
from jaxfuse.status import is_concrete
from jaxfuse.symmetry.tree import check_same_trees, is_weight

PyTree = Any


class Barrier(NamedTuple):
    """The loss along a path, and the two published measures of its rise.

    Attributes:
        ts: `[t]`, positions on the path; 0 is A and 1 is B.
        losses: `[t]`, the loss there.
        linear: the largest rise over the straight line between the end points,
            `max_t L(t) - (1 - t) L(0) - t L(1)` (Frankle et al., 2020; Entezari et al., 2022).
        midpoint: the largest rise over the mean of the end points,
            `max_t L(t) - (L(0) + L(1)) / 2` (Ainsworth et al., 2023, definition 2.1).
    """

    ts: jax.Array
    losses: jax.Array
    linear: jax.Array
    midpoint: jax.Array


def interpolate(params_a: PyTree, params_b: PyTree, t: ArrayLike) -> PyTree:
    """Return the network at t on the straight line from A (t = 0) to B (t = 1).

    Args:
        params_a: a parameter tree.
        params_b: another of the same structure and shapes.
        t: position, a real scalar; outside 0 to 1 the line goes on beyond the networks.

    Returns:
        A tree of the same structure, shapes and dtypes; leaves that are no arrays of real numbers
        are taken from A.

    Raises:
        ValueError: if t is no scalar or the trees differ.

    Differentiable.

    Examples:
        >>> interpolate({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, 0.25)["w"]
        Array([0.25, 0.25], dtype=float32)
    """
    if jnp.ndim(t) != 0:
        raise ValueError(f"t must be one position, got shape {jnp.shape(t)}: use vmap for several")
    check_same_trees(params_a, params_b, ("params_a", "params_b"))
    t = np.asarray(t, np.float64).item() if is_concrete(t) else jnp.asarray(t, jnp.float32)
    return jax.tree.map(
        lambda a, b: weighted_sum((a, b), (1 - t, t)) if is_weight(a) else a, params_a, params_b
    )


def barrier(
    loss_fn: Callable[[PyTree], jax.Array],
    params_a: PyTree,
    params_b: PyTree,
    ts: ArrayLike | Sequence[float] = 25,
) -> Barrier:
    """Measure the loss barrier on the straight line between two networks.

    Args:
        loss_fn: `loss_fn(params) -> scalar`, smaller is better. For an accuracy barrier pass the
            error. Outside jit it is called once per position, from the host, so it may be compiled
            itself, loop over batches and report progress; under jit it is traced once.
        params_a: a parameter tree.
        params_b: another, aligned with it or not.
        ts: positions, rising from 0 to 1, or their number: 25, as Git Re-Basin.

    Returns:
        A `Barrier`. The positions are taken one after the other: memory does not grow with them.

    Raises:
        ValueError: if the positions do not begin with 0, rise and end with 1.

    Examples:
        >>> result = barrier(lambda w: 1 - w**2, jnp.float32(-1), jnp.float32(1), 5)
        >>> print(result.losses, result.linear)
        [0.   0.75 1.   0.75 0.  ] 1.0
    """
    if isinstance(ts, (int, np.integer)):
        ts = jnp.linspace(0, 1, operator.index(ts))
    else:
        ts = jnp.asarray(ts, jnp.float32)
    if ts.ndim != 1 or len(ts) < 2:
        raise ValueError(f"ts must be two positions or more, got shape {ts.shape}")
    if is_concrete(ts) and not (float(ts[0]) == 0 and float(ts[-1]) == 1):
        raise ValueError(f"ts must begin with 0 and end with 1, got {ts[0]} and {ts[-1]}")
    if is_concrete(ts) and not bool(jnp.all(jnp.diff(ts) > 0)):
        raise ValueError(f"ts must rise from position to position, got {ts}")
    if is_concrete(ts, *jax.tree.leaves((params_a, params_b))):
        losses = jnp.stack([loss_fn(interpolate(params_a, params_b, t)) for t in ts])
    else:
        losses = jax.lax.map(lambda t: loss_fn(interpolate(params_a, params_b, t)), ts)
    first, last = losses[0], losses[-1]
    return Barrier(
        ts,
        losses,
        jnp.max(losses - (1 - ts) * first - ts * last),
        jnp.max(losses) - (first + last) / 2,
    )
