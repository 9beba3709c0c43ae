"""Measure the running statistics of a fused network anew."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.fusion.repair.protocol import Merger
from jaxfuse.networks import ApplyFunction
from jaxfuse.symmetry.trace.replay import Centring, Event, Named, replay

PyTree = Any


@jax.tree_util.register_static
@dataclass(frozen=True)
class ResetStatistics:
    """Set the mean and variance of every batch normalisation to those of a batch.

    An average of networks has other activations than its parents, so their running statistics are
    wrong for it; without a reset a fused network with BatchNorm is near chance. The batch goes
    through once, every layer behind those that are right already, as in training mode. After the
    reset every channel has the mean and the spread that the averaged scale and bias say, which is
    what REPAIR aims at (Jordan et al., ICLR 2023, section 3). Networks without running statistics
    stay as they are.

    Examples:
        >>> from jaxfuse.symmetry import Symmetry
        >>> fn = lambda p, x: (x - p["bn"]["mean"][None]) / jnp.sqrt(p["bn"]["var"] + 1e-5)[None]
        >>> params = {"bn": {"mean": jnp.zeros(2), "var": jnp.ones(2)}}
        >>> x = jnp.array([[0.0, 2.0], [4.0, 2.0]])
        >>> merger = Merger(params, (params,), [1.0], Symmetry((), ()), fn, (x,))
        >>> ResetStatistics().repair(merger)["bn"]["mean"].tolist()
        [2.0, 2.0]
    """

    def repair(self, merger: Merger) -> PyTree:
        """Reset the statistics; the parents are not looked at.

        Raises:
            ValueError: without a function and a batch.
        """
        return _reset(merger.function("ResetStatistics"), merger.fused, merger.inputs)


@functools.partial(jax.jit, static_argnums=0)
def _reset(apply_fn: ApplyFunction, fused: PyTree, inputs: tuple[PyTree, ...]) -> PyTree:
    return replay(apply_fn, [fused], inputs, _Resetting())[1][0]


class _Resetting:
    def visit(self, event: Event, leaves: Sequence[Named]) -> None:
        if isinstance(event, Centring):
            set_statistics(leaves[-1], event, *measure(event, event.inputs[-1]))


def measure(event: Centring, data: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean and the variance of data over all axes but those of the running mean."""
    others = tuple(axis for axis, place in enumerate(event.mean.axes) if place is None)
    wide = data.astype(jnp.float32)
    return jnp.mean(wide, axis=others), jnp.var(wide, axis=others)


def set_statistics(leaves: Named, event: Centring, mean: jax.Array, variance: jax.Array) -> None:
    """Put other statistics in place of the running ones."""
    for path, value in ((event.mean.path, mean), (event.variance, variance)):
        leaves[path] = value.reshape(leaves[path].shape).astype(leaves[path].dtype)
