"""Names: groups after the layer that computes them, pinned axes after a leaf."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from jaxfuse.symmetry.trace.factor import Factor
from jaxfuse.symmetry.trace.occurrences import Block, Item
from jaxfuse.symmetry.trace.units import Units
from jaxfuse.symmetry.tree import leaf_name

_LEAF_NAMES = {"kernel", "weight", "bias", "scale", "embedding", "w", "b", "value", "mean", "var"}


def name_units(
    paths: Sequence[str],
    blocks: Mapping[str, Sequence[Block]],
    units: Mapping[Factor, Units],
    computed: Mapping[str, set[Factor]],
) -> None:
    """Give every group and every pinned axis a name.

    Args:
        paths: the leaves in the order in which the network uses them.
        blocks: of every leaf.
        units: per atom its set of units; the names are written there.
        computed: per leaf the atoms of the units that it computes.
    """
    taken: set[str] = set()
    parents = {context for group in units.values() for context in group.over}

    def name(group: Units, wanted: str) -> None:
        number, free = 1, wanted
        while free in taken:
            number += 1
            free = f"{wanted}#{number}"
        taken.add(free)
        group.name = free

    for outputs_only in (True, False):
        for path in paths:
            for item, where in _items(blocks[path]):
                group = units[item.factor]
                if group.name or group.size < 2:
                    continue
                if group.pinned and not outputs_only:
                    name(group, f"{path}[{where}]")
                elif group.moves and (not outputs_only or item.factor in computed.get(path, ())):
                    name(group, (layer(path) or "params") + (".blocks" if group in parents else ""))


def _items(blocks: Iterable[Block]) -> Iterator[tuple[Item, str]]:
    """Yield the factors of a leaf, and where they lie: the axis, or axis and factor."""
    for block in blocks:
        for axis, span in enumerate(block):
            for place, item in enumerate(span.items):
                yield item, f"{axis}.{place}" if len(span.items) > 1 else str(axis)


def layer(path: str) -> str:
    """Return the layer that a leaf belongs to.

    Examples:
        >>> layer("conv/0/kernel"), layer("embedding")
        ('conv/0', 'embedding')
    """
    name = leaf_name(path)
    return path[: -len(name) - 1] if name.lower() in _LEAF_NAMES and path != name else path
