"""The terms of the objective: one per tensor, or per entry of the pinned axes that index it."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import jax

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
        rows, columns, _ = split_axes(self.tensor, [carrier.axes for carrier in self.carriers])
        return (*rows, *columns) if len(self.carriers) > 1 else tuple(rows)

    def edges(self, leaf: jax.Array) -> jax.Array:
        """Arrange the leaf as edges.

        Returns:
            float32 `[n, m, e]`: n units of the first carrier, m of the others together or, where
            there are none, the pinned units, and the vector on an edge.
        """
        where = dict(self.entries)
        cut = tuple(
            slice(where[axis], where[axis] + 1) if axis in where else slice(None)
            for axis in range(len(self.tensor.shape))
        )
        carriers = [carrier.axes for carrier in self.carriers]
        return arrange(self.tensor.take(leaf)[cut], *split_axes(self.tensor, carriers))


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
