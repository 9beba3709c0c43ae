"""The terms of the objective: one per tensor, or per entry of the pinned axes that index it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.affinity.edges import arrange, split_axes
from jaxfuse.symmetry.axes import TensorAxes
from jaxfuse.symmetry.permute import context_axes
from jaxfuse.symmetry.spec import Symmetry


class Carrier(NamedTuple):
    """A group on a tensor, with the groups that index it there.

    Attributes:
        group: the group.
        entries: of the pinned axes that index it, outermost first.
        axes: of the tensor's view: those of the groups that index it, outermost first, and its own.
    """

    group: str
    entries: tuple[int, ...]
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Term:
    """A tensor whose edges are compared as one.

    Attributes:
        tensor: the leaf, or block of a leaf.
        entries: pairs of an axis of the view that is pinned and indexes a group, and the entry of
            it that this term is about.
        carriers: the groups that its edges lie between. One that only indexes another is none.
    """

    tensor: TensorAxes
    entries: tuple[tuple[int, int], ...]
    carriers: tuple[Carrier, ...]

    @property
    def is_pairwise(self) -> bool:
        """Whether the edges lie between two carriers that nothing indexes in common."""
        if len(self.carriers) != 2:
            return False
        first, second = self.carriers
        return not set(first.axes) & set(second.axes)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the view that move: those of the first carrier, then the other ones."""
        rows, columns, _ = self.split
        return (*rows, *columns) if len(self.carriers) > 1 else tuple(rows)

    def edges(self, leaf: jax.Array) -> jax.Array:
        """Arrange the leaf as edges.

        Returns:
            float32 `[n, m, e]`: n units of the first carrier, m of the others together or, where
            there are none, the pinned units, and the vector on an edge.
        """
        return arrange(self.cut(leaf), *self.split)

    def cut(self, leaf: jax.Array) -> jax.Array:
        """Take the term's part of the leaf, viewed by its axes."""
        where = dict(self.entries)
        part = tuple(
            slice(where[axis], where[axis] + 1) if axis in where else slice(None)
            for axis in range(len(self.tensor.shape))
        )
        return self.tensor.take(leaf)[part]

    @property
    def split(self) -> tuple[list[int], list[int], list[int]]:
        """The axes of the view that hold row units, column units, and the vector on an edge."""
        return split_axes(self.tensor, [carrier.axes for carrier in self.carriers])


def list_terms(symmetry: Symmetry) -> list[Term]:
    """Return the terms of all tensors that carry a group, running statistics apart.

    Raises:
        ValueError: if a tensor carries a group without what indexes it.

    Examples:
        >>> stack = TensorAxes("w", (3, 8, 8), (None, "r", "h"), pins=("layers", None, None))
        >>> spec = Symmetry((("r", 8), ("h", 8)), (stack,), over=(("h", ("layers",)),),
        ...                 pinned=(("layers", 3, "scan"),))
        >>> [[(c.group, c.entries) for c in term.carriers] for term in list_terms(spec)][0]
        [('r', ()), ('h', (0,))]
    """
    return [
        term
        for tensor in symmetry.tensors
        if any(tensor.groups) and not tensor.statistic
        for term in _terms_of(symmetry, tensor)
    ]


def alike_terms(symmetry: Symmetry) -> list[tuple[Term, ...]]:
    """Return the terms of `list_terms`, those of one shape and one arrangement together.

    Examples:
        >>> square = [TensorAxes(path, (4, 4), ("g", "h")) for path in "ab"]
        >>> spec = Symmetry((("g", 4), ("h", 4)), (*square, TensorAxes("c", (4,), ("h",))))
        >>> [[term.tensor.path for term in terms] for terms in alike_terms(spec)]
        [['a', 'b'], ['c']]
    """
    found: dict[object, list[Term]] = {}
    for term in list_terms(symmetry):
        pinned = dict(term.entries)
        shape = tuple(1 if axis in pinned else size for axis, size in enumerate(term.tensor.shape))
        axes = tuple(carrier.axes for carrier in term.carriers)
        found.setdefault((shape, axes, tuple(map(tuple, term.split))), []).append(term)
    return [tuple(terms) for terms in found.values()]


def stack_edges(terms: Sequence[Term], leaves: Mapping[str, jax.Array]) -> jax.Array:
    """Return the edges of terms that are alike, side by side: float32 `[terms, n, m, e]`."""
    cuts = [term.cut(leaves[term.tensor.path]) for term in terms]
    return jax.vmap(lambda cut: arrange(cut, *terms[0].split))(jnp.stack(cuts))


def _terms_of(symmetry: Symmetry, tensor: TensorAxes) -> list[Term]:
    contexts = {
        axis: context_axes(symmetry, tensor, axis)
        for axis, group in enumerate(tensor.groups)
        if group is not None
    }
    indexing = {axis for axes in contexts.values() for axis in axes}
    pinned = sorted(axis for axis in indexing if tensor.groups[axis] is None)
    terms = []
    for entries in itertools.product(*(range(tensor.shape[axis]) for axis in pinned)):
        where = dict(zip(pinned, entries, strict=True))
        carriers = tuple(
            Carrier(
                str(tensor.groups[axis]),
                tuple(where[other] for other in axes if other in where),
                (*(other for other in axes if other not in where), axis),
            )
            for axis, axes in contexts.items()
            if axis not in indexing
        )
        terms.append(Term(tensor, tuple(where.items()), carriers))
    return terms
