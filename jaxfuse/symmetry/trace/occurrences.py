"""Where every atom occurs: alone or beside others, in which arrays, on which axes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxfuse.symmetry.trace.array import Array
from jaxfuse.symmetry.trace.factor import Axis, Factor, Free, atoms, find, resolve, restrict


class Item(NamedTuple):
    """A factor of one axis of one block.

    Attributes:
        factor: the atom.
        stride: how far apart its entries lie on the axis.
        choice: the index and its entry that the factor depends on, where it is of a family.
    """

    factor: Factor
    stride: int
    choice: tuple[int, int] | None = None


class Span(NamedTuple):
    """One axis of a block: a product of atoms that begins at an entry of the axis."""

    start: int
    items: tuple[Item, ...]


Block = tuple[Span, ...]


def blocks_of(axes: Sequence[Axis]) -> Iterator[Block]:
    """Write an array with direct sums as its axes as blocks with products as theirs."""
    yield from _expand([Span(0, _items(axis, 1)) for axis in axes])


def _items(axis: Axis, stride: int, choice: tuple[int, int] | None = None) -> tuple[Item, ...]:
    items = []
    for factor in reversed(resolve(axis)):
        atom = Factor(factor.size) if isinstance(factor, Free) else factor
        items.append(Item(atom, stride, choice))
        stride *= factor.size
    return tuple(reversed(items))


def _expand(spans: list[Span]) -> Iterator[Block]:
    for number, span in enumerate(spans):
        for place, item in enumerate(span.items):
            if item.factor.kind == "sum":
                yield from _branch(spans, number, place)
                return
    for number, span in enumerate(spans):
        for place, item in enumerate(span.items):
            if item.factor.kind == "family":
                for entry, member in enumerate(item.factor.parts):
                    choice = (id(item.factor.index), entry)
                    new = _items((member,), item.stride, choice)
                    yield from _expand(_put(spans, number, place, span.start, new))
                return
    yield tuple(spans)


def _put(
    spans: list[Span], number: int, place: int, start: int, new: tuple[Item, ...]
) -> list[Span]:
    items = spans[number].items
    changed = Span(start, (*items[:place], *new, *items[place + 1 :]))
    return [*spans[:number], changed, *spans[number + 1 :]]


def _branch(spans: list[Span], number: int, place: int) -> Iterator[Block]:
    """Take the blocks of one direct sum in turn."""
    span = spans[number]
    item = span.items[place]
    offset = 0
    for part in item.factor.parts:
        new = _items((part,), item.stride, item.choice)
        branch = _put(spans, number, place, span.start + offset * item.stride, new)
        yield from _expand(_restricted(branch, number, item.factor, part, offset))
        offset += part.size


def _restricted(
    spans: list[Span], number: int, index: Factor, part: Factor, offset: int
) -> list[Span]:
    """Choose the members of the families over an index of which one block is left.

    A family on an axis that holds the index itself belongs to that one.
    """
    result = []
    for place, span in enumerate(spans):
        if place != number and any(item.factor is index for item in span.items):
            result.append(span)
            continue
        items: list[Item] = []
        for item in span.items:
            factor = item.factor
            if factor.kind != "family" or factor.index is None or find(factor.index) is not index:
                items.append(item)
                continue
            kept = restrict((factor,), index, (part,), offset, offset + part.size)
            choice = (id(index), offset) if part.size == 1 else item.choice
            items += _items(kept, item.stride, choice)
        result.append(Span(span.start, tuple(items)))
    return result


@dataclass
class Occurrences:
    """What was met of the atoms of parameters.

    Attributes:
        beside: per atom the atoms that it never occurs without.
        places: per atom the axes that it occurs on; atoms of one direct sum that nothing tells
            apart have the same.
    """

    beside: dict[Factor, set[Factor]] = field(default_factory=dict)
    places: dict[Factor, set[object]] = field(default_factory=dict)


def collect(arrays: Sequence[Array], met: Sequence[Array], of: Iterable[Factor]) -> Occurrences:
    """Note where the given atoms occur.

    Args:
        arrays: every array of the program.
        met: the axes that operations go over together. An index that lies on two of them is none
            there: the operation combines its entries.
        of: the atoms of the parameters.
    """
    found = Occurrences()
    for atom in of:
        found.places[atom] = set(atom.marks)
    for array in _distinct(arrays):
        ghosts = set(atoms(tuple(array.ghosts)))
        blocks = list(blocks_of(array.axes))
        _note_places(found, blocks, _structure(array))
        for block in blocks:
            _note_beside(found, block, ghosts)
    for array in _distinct(met):
        ghosts = set(atoms(tuple(array.ghosts)))
        for block in blocks_of(array.axes):
            _note_beside(found, block, ghosts)
    return found


def _distinct(arrays: Iterable[Array]) -> Iterator[Array]:
    """Yield one array of every structure."""
    seen: set[object] = set()
    for array in arrays:
        structure = _structure(array)
        if structure not in seen:
            seen.add(structure)
            yield array


def _structure(array: Array) -> object:
    axes = tuple(
        tuple(id(f) if isinstance(f, Factor) else f.size for f in resolve(axis))
        for axis in array.axes
    )
    return axes, frozenset(id(atom) for atom in atoms(tuple(array.ghosts)))


def _note_beside(found: Occurrences, block: Block, ghosts: set[Factor]) -> None:
    count = Counter(item.factor for span in block for item in span.items)
    single = {atom for atom, times in count.items() if times == 1} | ghosts
    for atom in (*count, *ghosts):
        if atom in found.places:
            beside = single - {atom}
            known = found.beside.get(atom)
            found.beside[atom] = beside if known is None else known & beside


def _note_places(found: Occurrences, blocks: Sequence[Block], structure: object) -> None:
    """Note on which axes the atoms lie.

    An atom that lies on an axis several times is told from all others there: which of its places
    corresponds to which of theirs is not known.
    """
    starts: dict[tuple[Factor, tuple[object, ...]], set[int]] = {}
    for block in blocks:
        for axis, span in enumerate(block):
            for item in span.items:
                if item.factor in found.places:
                    others = frozenset(
                        (id(other.factor), other.stride)
                        for other in span.items
                        if other is not item
                    )
                    token = (structure, axis, item.stride, item.choice, others)
                    starts.setdefault((item.factor, token), set()).add(span.start)
    for (atom, token), at in starts.items():
        found.places[atom].add(token if len(at) == 1 else (*token, id(atom)))
