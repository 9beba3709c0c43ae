"""A tensor that joins more than two groups, or groups that something indexes in common."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.affinity.bandwidth import strided_sample
from jaxfuse.affinity.block import HIGHEST, Block, FeatureBlock
from jaxfuse.affinity.products import Products, einsum
from jaxfuse.affinity.terms import Term
from jaxfuse.symmetry.permute import spread

_SAMPLE = 128**2


class ScoreVariance(NamedTuple):
    """The noise of a block's scores: per carrier the variance of one between unrelated units."""

    carriers: tuple[jax.Array, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MultilinearBlock:
    """A block of k carriers, linear in the matching of each.

    A carrier is a group on one axis together with the groups that index it there, and its matching
    P_c is flat over all of these: `[N, N]`, viewed `[..., n, ..., n]`. With x and y one entry for
    each axis of A and of B, and x_c those on the axes of carrier c,
    `J = sum_xy prod_c P_c[x_c, y_c] <A[x], B[y]>`: for matrices of permutations that agree on the
    axes they share, the similarity of A and the reordered B.

    Attributes:
        a: features of the edges of A, the axes that move, then the features: `[..., r]`.
        b: features of the edges of B, likewise.
        axes: per carrier its axes in `a`: what indexes it, outermost first, and its own.
        products: as of `FeatureBlock`.
    """

    a: jax.Array
    b: jax.Array
    axes: tuple[tuple[int, ...], ...] = field(metadata={"static": True})
    products: Products = field(default="float32", metadata={"static": True})

    def value(self, *matchings: jax.Array) -> jax.Array:
        """Return J at one soft matching `[N, N]` per carrier, differentiable in all."""
        count = self.a.ndim - 1
        operands = [(self.a, [*range(count), 2 * count])]
        operands += [(self.b, [*range(count, 2 * count), 2 * count])]
        for axes, matching in zip(self.axes, matchings, strict=True):
            sizes = self._sizes(axes)
            across = [*axes, *(count + axis for axis in axes)]
            operands += [(matching.reshape(*sizes, *sizes), across)]
        return einsum(operands, (), self.products)

    def value_at(self, *permutations: jax.Array) -> jax.Array:
        """Return J at one permutation, int32 `[N]`, per carrier, that agree on shared axes."""
        return jnp.sum(self.a * self.moved(*permutations))

    def moved(self, *permutations: jax.Array) -> jax.Array:
        """Return the features of B in the order of A, by one permutation, int32 `[N]`, each."""
        return self._reorder(self._columns(dict(enumerate(permutations))))

    def scores(self, carrier: int, *permutations: jax.Array) -> jax.Array:
        """Return dJ/dP `[N, N]` of one carrier at permutations of all; its own does not matter.

        Where it shares axes with others, only the pairs that these match have a score.
        """
        others = {c: p for c, p in enumerate(permutations) if c != carrier}
        columns = self._columns(others)
        moved = self._reorder(columns)
        axes, count = self.axes[carrier], self.a.ndim - 1
        shared = [axis for axis in axes if axis in columns]
        free = [axis for axis in axes if axis not in columns]
        across = [axis if axis in columns else count + 1 + axis for axis in range(count)]
        images = [across[axis] for axis in free]
        operands = [(self.a, [*range(count), count]), (moved, [*across, count])]
        scores = einsum(operands, [*shared, *free, *images], self.products)
        entries, units = (math.prod(self._sizes(part)) for part in (shared, free))
        if not shared:
            return scores.reshape(units, units)
        image = jax.nn.one_hot(self._flat(columns, shared), entries, dtype=scores.dtype)
        scores = scores.reshape(entries, units, 1, units) * image[:, None, :, None]
        return scores.reshape(entries * units, entries * units)

    def second_moment(self) -> ScoreVariance:
        """Return the variance of <A, B> between unrelated edges times the edges of a unit."""
        covariances = []
        for features in (self.a, self.b):
            sample = strided_sample(features, _SAMPLE)
            sample = sample - jnp.mean(sample, axis=0, keepdims=True)
            covariances.append(jnp.dot(sample.T, sample, precision=HIGHEST) / len(sample))
        scale = jnp.vdot(*covariances, precision=HIGHEST)
        total = math.prod(self.a.shape[:-1])
        return ScoreVariance(
            tuple(scale * (total // math.prod(self._sizes(axes))) for axes in self.axes)
        )

    def _sizes(self, axes: Sequence[int]) -> list[int]:
        return [self.a.shape[axis] for axis in axes]

    def _columns(self, permutations: dict[int, jax.Array]) -> dict[int, tuple]:
        """Return per axis that the carriers move the axes that index it, and its columns."""
        columns: dict[int, tuple] = {}
        for carrier, permutation in permutations.items():
            axes = self.axes[carrier]
            sizes = self._sizes(axes)
            for depth, axis in enumerate(axes):
                below = math.prod(sizes[depth + 1 :])
                # The first unit of an entry tells where the entry goes.
                images = permutation.reshape(*sizes[: depth + 1], below)[..., 0]
                own = lax.rem(lax.div(images, jnp.int32(below)), jnp.int32(sizes[depth]))
                columns.setdefault(axis, (axes[:depth], own))
        return columns

    def _reorder(self, columns: dict[int, tuple]) -> jax.Array:
        """Return B with the given axes in the order of A, what indexes before what it indexes."""
        moved = self.b
        for axis, (outer, order) in sorted(columns.items(), key=lambda item: len(item[1][0])):
            if outer:
                order = spread(order, (*outer, axis), moved.ndim)
                moved = jnp.take_along_axis(moved, order, axis=axis, mode="clip")
            else:
                moved = jnp.take(moved, order, axis=axis, mode="clip")
        return moved

    def _flat(self, columns: dict[int, tuple], axes: Sequence[int]) -> jax.Array:
        """Return the flat image `[N]` of every entry of nested axes."""
        flat = jnp.zeros((1,), jnp.int32)
        for axis in axes:
            size = self.a.shape[axis]
            flat = (flat[:, None] * size + columns[axis][1].reshape(-1, size)).reshape(-1)
        return flat


def multilinear_block(block: Block, term: Term) -> MultilinearBlock:
    """Give the features of a pairwise block the axes of all carriers of a term.

    Args:
        block: what the affinity made of the term's edges.
        term: the tensor and its carriers.

    Raises:
        ValueError: if the affinity has no features.
    """
    if not isinstance(block, FeatureBlock):
        raise ValueError(
            f"leaf {term.tensor.path!r} joins more groups than two, or two that another indexes in "
            "common, which needs an affinity with features, as Linear and Gaussian have: got one "
            f"that makes {type(block).__name__}"
        )
    axes = term.axes
    sizes = [term.tensor.shape[axis] for axis in axes]
    rows = len(term.carriers[0].axes)
    a, b = (
        jnp.moveaxis(array.reshape(*sizes[:rows], array.shape[1], *sizes[rows:]), rows, -1)
        for array in (block.a, block.b)
    )
    carriers = tuple(tuple(map(axes.index, carrier.axes)) for carrier in term.carriers)
    return MultilinearBlock(a, b, carriers, block.products)
