"""The features of one tensor, and how they move into the order of a universe."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxfuse.affinity.block import HIGHEST, FeatureBlock
from jaxfuse.affinity.multilinear import MultilinearBlock


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FeatureStack:
    """The features of a tensor that joins two groups: `[n, r, m]`.

    Leading axes are those of the networks and of the tensors of one shape; the methods are those of
    one tensor of one network, called under `vmap`.
    """

    features: jax.Array

    @property
    def unit_axes(self) -> tuple[int, int]:
        """The axes of the units of both groups, without leading ones."""
        return 0, 2

    def soft(self, *matchings: jax.Array) -> jax.Array:
        """Return the features `[N, r, M]`, moved by soft matchings `[n, N]` and `[m, M]`."""
        p, q = matchings
        moved = jnp.einsum("irj,jv->irv", self.features, q, precision=HIGHEST)
        return jnp.einsum("irv,iu->urv", moved, p, precision=HIGHEST)

    def hard(self, *orders: jax.Array) -> jax.Array:
        """Return the features in orders int32 `[N]` and `[M]`; units of -1 are zero."""
        rows, columns = orders[0][:, None, None], orders[1][None, None, :]
        middle = jnp.arange(self.features.shape[1])[None, :, None]
        # One gather of both axes is three times as fast as one after the other.
        at = self.features.at[rows, middle, columns]
        taken = at.get(mode="clip", wrap_negative_indices=False)
        return taken * ((rows >= 0) & (columns >= 0)).astype(taken.dtype)

    def block(self, left: jax.Array, right: jax.Array) -> FeatureBlock:
        """Make the block between two networks, or sums of networks, from moved features."""
        return FeatureBlock(left, right)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MultilinearStack:
    """The features of a tensor of several carriers: `[..., r]`, with leading axes likewise.

    Attributes:
        features: as `MultilinearBlock` has them.
        axes: per carrier its axes, without leading ones.
    """

    features: jax.Array
    axes: tuple[tuple[int, ...], ...] = field(metadata={"static": True})

    @property
    def unit_axes(self) -> tuple[int, ...]:
        """Per carrier the axis of its own units, without leading ones."""
        return tuple(axes[-1] for axes in self.axes)

    def soft(self, *matchings: jax.Array) -> jax.Array:
        """Return the features moved by one soft matching `[n, n]` per carrier."""
        count = self.features.ndim - 1
        operands = [self.features, [*range(count), 2 * count]]
        for axes, matching in zip(self.axes, matchings, strict=True):
            sizes = [self.features.shape[axis] for axis in axes]
            operands += [matching.reshape(*sizes, *sizes)]
            operands += [[*axes, *(count + axis for axis in axes)]]
        return jnp.einsum(*operands, [*range(count, 2 * count), 2 * count], precision=HIGHEST)

    def hard(self, *orders: jax.Array) -> jax.Array:
        """Return the features in one order int32 `[n]` per carrier."""
        return self.block(self.features, self.features).moved(*orders)

    def block(self, left: jax.Array, right: jax.Array) -> MultilinearBlock:
        """Make the block between two networks, or sums of networks, from moved features."""
        return MultilinearBlock(left, right, self.axes)
