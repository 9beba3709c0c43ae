"""The algebra of axes: products and direct sums of factors, tied by union-find."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True)
class Free:
    """A factor along which an array does not vary: it fits any order, and ties nothing."""

    size: int


class Factor:
    """A factor of an axis: a set of indices that move together wherever the factor occurs.

    A factor begins as an atom, all of whose entries may change places. When an operation takes it
    apart, it becomes a product or a direct sum of smaller ones, at once for every array that holds
    it. A family is a factor that differs from entry to entry of an index: the heads of the
    queries, the keys and the values in one array `[3, heads, units]`.

    Attributes:
        size: number of indices.
        kind: what the factor is made of.
        parts: the factors of a product, outermost first; the blocks of a sum; the members of a
            family.
        index: the factor whose entries choose the member, for a family.
        pins: why the entries can't change places, in the order found; empty where they can.
        marks: what tells the entries from those of other factors.
        origin: where the factor came to be, if it could be taken apart there entry by entry.
    """

    __slots__ = ("index", "kind", "link", "marks", "origin", "parts", "pins", "size")

    def __init__(self, size: int, origin: object = None) -> None:
        self.size = int(size)
        self.kind: Literal["atom", "product", "sum", "family"] = "atom"
        self.parts: tuple[Factor, ...] = ()
        self.index: Factor | None = None
        self.link: Factor | None = None
        self.pins: dict[str, None] = {}
        self.marks: frozenset[object] = frozenset()
        self.origin = origin

    def __repr__(self) -> str:
        return f"<{self.kind} {self.size}{' pinned' if self.pins else ''}>"


Axis = tuple[Factor | Free, ...]
"""An ordered product of factors, outermost first; empty for an axis of one entry."""


def find(factor: Factor) -> Factor:
    """Return the factor that stands for all that are tied to this one."""
    while factor.link is not None:
        if factor.link.link is not None:
            factor.link = factor.link.link
        factor = factor.link
    return factor


def resolve(axis: Iterable[Factor | Free]) -> Axis:
    """Write an axis as a product of atoms, sums, families and free factors."""
    return tuple(_flat(axis))


def _flat(axis: Iterable[Factor | Free]) -> Iterator[Factor | Free]:
    for factor in axis:
        root = factor if isinstance(factor, Free) else find(factor)
        if isinstance(root, Factor) and root.kind == "product":
            yield from _flat(root.parts)
        else:
            yield root


def axis_size(axis: Iterable[Factor | Free]) -> int:
    """Return the number of entries of an axis."""
    return math.prod(factor.size for factor in axis)


def concrete(axis: Axis) -> Axis:
    """Give every free factor an identity of its own."""
    return tuple(Factor(f.size) if isinstance(f, Free) else f for f in axis)


def as_factor(axis: Axis, marks: frozenset[object] = frozenset()) -> Factor:
    """Return one factor that stands for an axis; free factors get an identity, and the marks."""
    parts = []
    for factor in resolve(axis):
        if isinstance(factor, Free):
            factor = Factor(factor.size)
            factor.marks = marks
        parts.append(factor)
    if len(parts) == 1:
        return parts[0]
    if not parts:
        single = Factor(1)
        single.marks = marks
        return single
    return compound("product", parts)


def compound(kind: Literal["product", "sum"], parts: Sequence[Factor]) -> Factor:
    """Return the product, or the direct sum, of factors."""
    sizes = [part.size for part in parts]
    factor = Factor(math.prod(sizes) if kind == "product" else sum(sizes))
    factor.kind, factor.parts = kind, tuple(parts)
    return factor


def family(index: Factor, members: Sequence[Factor]) -> Factor:
    """Return the factor that is `members[i]` at entry i of the index."""
    roots = [as_factor((member,)) for member in members]
    if all(root is roots[0] for root in roots):
        return roots[0]
    factor = Factor(members[0].size)
    factor.kind, factor.parts, factor.index = "family", tuple(roots), index
    return factor


def split(factor: Factor, kind: Literal["product", "sum"], sizes: Sequence[int]) -> None:
    """Take an atom apart, for every array that holds it."""
    parts = []
    for size in sizes:
        part = Factor(size)
        part.pins, part.marks = dict(factor.pins), factor.marks
        parts.append(part)
    factor.kind, factor.parts = kind, tuple(parts)


def atoms(axis: Iterable[Factor | Free]) -> Iterator[Factor]:
    """Yield the atoms that an axis is made of."""
    for factor in axis:
        if isinstance(factor, Free):
            continue
        root = find(factor)
        if root.kind == "atom":
            yield root
        else:
            yield from atoms(root.parts)


def pin(axis: Iterable[Factor | Free], reason: str) -> None:
    """Say that the entries of an axis can't change places."""
    for atom in atoms(axis):
        atom.pins.setdefault(reason)


def distinguish(axis: Iterable[Factor | Free], mark: object) -> None:
    """Say that the entries of an axis were told from those beside them."""
    for atom in atoms(axis):
        atom.marks |= {mark}


def index_of(count: int, mark: object) -> Factor:
    """Return an index: a factor whose entries are told from each other."""
    index = compound("sum", [Factor(1) for _ in range(count)])
    for number, entry in enumerate(index.parts):
        entry.marks = frozenset([(mark, number)])
    return index


def is_pinned(axis: Axis) -> bool:
    """Tell whether nothing of an axis can move."""
    return not any(isinstance(f, Free) for f in axis) and all(atom.pins for atom in atoms(axis))


def pinned(size: int, reason: str) -> Axis:
    """Return a new axis that can't be permuted."""
    if size == 1:
        return ()
    factor = Factor(size)
    factor.pins[reason] = None
    return (factor,)


_CONFLICT = "joined with an axis of another structure"


def tie(left: Axis, right: Axis) -> Axis:
    """Say that two axes have one order; return what describes both.

    Axes of two sizes have none in common, and are pinned.
    """
    if axis_size(left) != axis_size(right):
        pin((*left, *right), _CONFLICT)
        return left
    if len(left) == 1 and isinstance(left[0], Free):
        return right
    if len(right) == 1 and isinstance(right[0], Free):
        return left
    ours, theirs = list(resolve(left)), list(resolve(right))
    tied: list[Factor | Free] = []
    while ours and theirs:
        # What was tied before may have changed what stands for the next factors.
        ours[:1], theirs[:1] = resolve(ours[:1]), resolve(theirs[:1])
        small, large = (ours, theirs) if ours[0].size <= theirs[0].size else (theirs, ours)
        if small[0].size == large[0].size:
            tied.append(_join(small.pop(0), large.pop(0)))
        elif small[0].size == 1:
            small.pop(0)
        elif (parts := divide(large[0], small[0].size)) is not None:
            large[:1] = resolve(parts)
        else:
            span = _take(small, large[0].size)
            if span is None or not _tie_blocks((large[0],), span):
                pin((*left, *right), _CONFLICT)
                return left
            tied += span
            del small[: len(span)], large[0]
    return tuple(tied)


def divide(factor: Factor | Free, outer: int) -> Axis | None:
    """Split a factor into an outer one of the given size and the rest; None where it can't be."""
    inner, rest = divmod(factor.size, outer)
    if rest:
        return None
    if isinstance(factor, Free):
        return Free(outer), Free(inner)
    if factor.kind == "atom":
        split(factor, "product", (outer, inner))
        return factor.parts
    if factor.kind == "family":
        members = [divide_axis((member,), outer) for member in factor.parts]
        if any(member is None for member in members):
            return None
        assert factor.index is not None
        halves = zip(*(m for m in members if m is not None), strict=True)
        return tuple(family(factor.index, [as_factor(axis) for axis in half]) for half in halves)
    return None


def divide_axis(axis: Axis, outer: int) -> tuple[Axis, Axis] | None:
    """Split an axis into an outer one of the given size and the rest; None where it can't be."""
    factors, head, size = list(resolve(axis)), [], 1
    while size < outer:
        factor = factors[0]
        if outer % (size * factor.size) == 0:
            head.append(factors.pop(0))
            size *= factor.size
            continue
        parts = divide(factor, outer // size) if outer % size == 0 else None
        if parts is None:
            return None
        factors[:1] = resolve(parts)
    return tuple(head), tuple(factors)


def _take(factors: Sequence[Factor | Free], size: int) -> Axis | None:
    """Return the leading factors whose product is the size; None where there are none."""
    product = 1
    for count, factor in enumerate(factors):
        product *= factor.size
        if product == size:
            return tuple(factors[: count + 1])
    return None


def _join(f: Factor | Free, g: Factor | Free) -> Factor | Free:
    """Tie two factors of one size that are no products."""
    if isinstance(g, Free):
        return f
    if f is g or isinstance(f, Free):
        return g
    if f.kind == "atom" or g.kind == "atom":
        atom, other = (f, g) if f.kind == "atom" else (g, f)
        if other.kind == "family" and atom in set(atoms(other.parts)):
            collapse(other)
            return find(other)
        return _link(atom, other)
    if f.kind == g.kind == "family" and _index(f) is _index(g):
        for ours, theirs in zip(f.parts, g.parts, strict=True):
            tie((ours,), (theirs,))
        f.link = g
        return g
    if "family" in (f.kind, g.kind):
        whole, other = (f, g) if f.kind == "family" else (g, f)
        collapse(whole)
        tie((whole,), (other,))
        return find(whole)
    if _tie_blocks((f,), (g,)):
        f.link = g
    else:
        pin((f, g), _CONFLICT)
    return g


def _link(atom: Factor, other: Factor) -> Factor:
    atom.link = other
    for target in atoms((other,)):
        target.pins.update(atom.pins)
        target.marks |= atom.marks
    return other


def _index(factor: Factor) -> Factor:
    assert factor.index is not None
    return find(factor.index)


def collapse(factor: Factor) -> None:
    """Make the members of a family one: what chose between them is gone."""
    first = factor.parts[0]
    for member in factor.parts[1:]:
        tie((first,), (member,))
    factor.link = as_factor((first,))


def _tie_blocks(left: Axis, right: Axis) -> bool:
    """Tie two axes block by block, at the boundaries of both."""
    cuts = sorted({*_boundaries(left), *_boundaries(right)})
    ours = blocks(left, cuts)
    theirs = blocks(right, cuts) if ours is not None else None
    if ours is None or theirs is None:
        return False
    for a, b in zip(ours, theirs, strict=True):
        tie(a, b)
    return True


def _boundaries(axis: Axis) -> list[int]:
    """Return where the blocks of an axis meet."""
    factors = resolve(axis)
    if not factors or isinstance(factors[0], Free) or factors[0].kind != "sum":
        return []
    inner = axis_size(factors[1:])
    ends, total = [], 0
    for part in factors[0].parts[:-1]:
        total += part.size
        ends.append(total * inner)
    return ends


def blocks(axis: Axis, cuts: Sequence[int]) -> list[Axis] | None:
    """Cut an axis at positions; None where its structure does not allow it."""
    if not cuts:
        return [axis]
    factors = resolve(axis)
    if not factors:
        return None
    head, rest = factors[0], factors[1:]
    inner = axis_size(rest)
    if any(cut % inner for cut in cuts):
        return None
    edges = [0, *(cut // inner for cut in cuts), head.size]
    pieces = _cut(head, edges[1:-1])
    if pieces is None:
        return None
    result = []
    for piece, (start, stop) in zip(pieces, pairwise(edges), strict=True):
        result.append((*piece, *restrict(rest, head, piece, start, stop)))
    return result


def holds(axis: Iterable[Factor | Free], index: Factor | Free) -> bool:
    """Tell whether an index is one of the factors of an axis."""
    return isinstance(index, Factor) and any(f is find(index) for f in resolve(axis))


def restrict(axis: Axis, index: Factor | Free, piece: Axis, start: int, stop: int) -> Axis:
    """Return what an axis is where an index is cut down to a piece of its entries."""
    if isinstance(index, Free):
        return axis
    kept: list[Factor | Free] = []
    for factor in resolve(axis):
        if isinstance(factor, Factor) and factor.kind == "family" and _index(factor) is find(index):
            members = factor.parts[start:stop]
            kept.append(members[0] if stop - start == 1 else family(as_factor(piece), members))
        else:
            kept.append(factor)
    return tuple(kept)


def _cut(head: Factor | Free, cuts: Sequence[int]) -> list[Axis] | None:
    edges = [0, *cuts, head.size]
    sizes = [stop - start for start, stop in pairwise(edges)]
    if isinstance(head, Free):
        return [(Free(size),) for size in sizes]
    if head.kind == "atom":
        split(head, "sum", sizes)
        return [(part,) for part in head.parts]
    if head.kind == "family":
        members = [blocks((member,), cuts) for member in head.parts]
        if any(member is None for member in members):
            return None
        columns = zip(*(m for m in members if m is not None), strict=True)
        return [(family(_index(head), [as_factor(a) for a in column]),) for column in columns]
    pieces: list[list[Axis]] = [[] for _ in sizes]
    begin, slot = 0, 0
    for part in head.parts:
        end = begin + part.size
        inside = [cut - begin for cut in cuts if begin < cut < end]
        parts = blocks((part,), inside)
        if parts is None:
            return None
        for position, axis in zip([0, *inside], parts, strict=True):
            while begin + position >= edges[slot + 1]:
                slot += 1
            pieces[slot].append(axis)
        begin = end
    return [
        piece[0] if len(piece) == 1 else (compound("sum", [as_factor(axis) for axis in piece]),)
        for piece in pieces
    ]
