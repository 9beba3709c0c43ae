"""Sets of units: the atoms that are one group, and what each group is indexed by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jaxfuse.symmetry.trace.factor import Factor
from jaxfuse.symmetry.trace.occurrences import Occurrences


@dataclass(eq=False)
class Units:
    """Atoms that are one group: an atom, or the blocks of a sum that nothing tells apart.

    Attributes:
        atoms: in the order in which they lie on the first leaf.
        name: of the group, or of the pinned axis; empty for a single unit.
        over: what it is indexed by, outermost first.
    """

    atoms: list[Factor]
    name: str = ""
    over: list["Units"] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Number of units."""
        return sum(atom.size for atom in self.atoms)

    @property
    def pinned(self) -> bool:
        """Whether the units can't change places."""
        return bool(self.atoms[0].pins)

    @property
    def moves(self) -> bool:
        """Whether the units may change places."""
        return self.size > 1 and not self.pinned

    @property
    def is_group(self) -> bool:
        """Whether this is a group of parameters: units that move, and have a name."""
        return bool(self.name) and self.moves

    def offset(self, atom: Factor) -> int:
        """Return where the units of an atom begin among those of the group."""
        return sum(a.size for a in self.atoms[: self.atoms.index(atom)])


def find_units(atoms: Iterable[Factor], occurrences: Occurrences) -> dict[Factor, Units]:
    """Make one set of units of every atom, or of the blocks of a sum that occur in the same places.

    Returns:
        Per atom its set of units, with what it is indexed by.
    """
    units: dict[Factor, Units] = {}
    alike: dict[object, Units] = {}
    for atom in atoms:
        if atom.pins:
            units[atom] = Units([atom])
            continue
        group = alike.setdefault(frozenset(occurrences.places[atom]), Units([]))
        group.atoms.append(atom)
        units[atom] = group
    _index(units, occurrences)
    return units


def _index(units: Mapping[Factor, Units], occurrences: Occurrences) -> None:
    """Find what each group is indexed by: the axes that it never occurs without, nested."""
    every = list(dict.fromkeys(units.values()))
    candidates = {group: _companions(group, units, every, occurrences) for group in every}
    done: set[Units] = set()
    for group in sorted(every, key=lambda g: len(candidates[g])):
        if not group.moves:
            continue
        chain = [context for context in candidates[group] if context.pinned]
        moving = [context for context in candidates[group] if context in done]
        last = None
        for context in sorted(moving, key=lambda c: len(c.over)):
            if last is None or last in context.over:
                chain.append(context)
                last = context
        group.over = chain
        done.add(group)


def _companions(
    group: Units,
    units: Mapping[Factor, Units],
    every: Sequence[Units],
    occurrences: Occurrences,
) -> list[Units]:
    """Return the other axes of several entries that a group never occurs without."""
    beside = set.intersection(*(occurrences.beside.get(atom, set()) for atom in group.atoms))
    contexts = {units[other] for other in beside if other in units} - {group}
    return [c for c in every if c in contexts and len(c.atoms) == 1 and c.size > 1]
