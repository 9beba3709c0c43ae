"""The features of one tensor of K networks, and how they move into the order of a universe."""

import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxfuse.affinity.block import HIGHEST, FeatureBlock
from jaxfuse.affinity.multilinear import MultilinearBlock


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FeatureStack:
    """The features of a tensor that joins two groups, of K networks: `[K, n, r, m]`."""

    features: jax.Array

    def soft(self, *matchings: jax.Array) -> jax.Array:
        """Return the features moved by soft matchings `[K, n, N]` and `[K, m, M]`."""
        p, q = matchings
        moved = jnp.einsum("kirj,kjv->kirv", self.features, q, precision=HIGHEST)
        return jnp.einsum("kirv,kiu->kurv", moved, p, precision=HIGHEST)

    def hard(self, *orders: jax.Array) -> jax.Array:
        """Return the features in orders int32 `[K, N]` and `[K, M]`; units of -1 are zero."""
        p, q = orders
        moved = jax.vmap(functools.partial(_take, axis=0))(self.features, p)
        return jax.vmap(functools.partial(_take, axis=2))(moved, q)

    def block(self, left: jax.Array, right: jax.Array) -> FeatureBlock:
        """Make the block between two networks, or sums of networks, from moved features."""
        return FeatureBlock(left, right)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MultilinearStack:
    """The features of a tensor of several carriers, of K networks: `[K, ..., r]`.

    Attributes:
        features: as `MultilinearBlock` has them, with the networks first.
        axes: per carrier its axes, without that of the networks.
    """

    features: jax.Array
    axes: tuple[tuple[int, ...], ...] = field(metadata={"static": True})

    def soft(self, *matchings: jax.Array) -> jax.Array:
        """Return the features moved by one soft matching `[K, n, n]` per carrier."""
        count = self.features.ndim - 2
        operands = [self.features, [2 * count + 1, *range(count), 2 * count]]
        for axes, matching in zip(self.axes, matchings, strict=True):
            sizes = [self.features.shape[1 + axis] for axis in axes]
            operands += [matching.reshape(len(matching), *sizes, *sizes)]
            operands += [[2 * count + 1, *axes, *(count + axis for axis in axes)]]
        moved = [2 * count + 1, *range(count, 2 * count), 2 * count]
        return jnp.einsum(*operands, moved, precision=HIGHEST)

    def hard(self, *orders: jax.Array) -> jax.Array:
        """Return the features in one order int32 `[K, n]` per carrier."""
        return jax.vmap(lambda features, *columns: self.block(features, features).moved(*columns))(
            self.features, *orders
        )

    def block(self, left: jax.Array, right: jax.Array) -> MultilinearBlock:
        """Make the block between two networks, or sums of networks, from moved features."""
        return MultilinearBlock(left, right, self.axes)


def _take(array: jax.Array, order: jax.Array, axis: int) -> jax.Array:
    taken = jnp.take(array, order, axis=axis, mode="clip")
    shape = [1] * array.ndim
    shape[axis] = len(order)
    return taken * (order >= 0).astype(array.dtype).reshape(shape)
