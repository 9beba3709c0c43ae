"""A run is a list of cells: each is measured once, and kept from then on."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jaxfuse.atomic import write_text
from jaxfuse.bench.record import machine
from jaxfuse.experiments.family import Nursery, digest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = Mapping[str, Any]
Told = Callable[[str, int, int], None]
"""Called with the next cell, how many are done and how many there are."""


class Cell(NamedTuple):
    """What is measured at once, and kept as a whole.

    Attributes:
        row: which parents, by the name of their family.
        method: what is done with them.
        seed: of the parents.
    """

    row: str
    method: str
    seed: int


class Table(Protocol):
    """One table of an experiment: a frozen dataclass of all that decides its numbers."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the parents."""
        ...

    def cells(self) -> list[Cell]:
        """List what is to be measured, in order."""
        ...

    def measure(self, cell: Cell, nursery: Nursery) -> Values:
        """Measure one cell: numbers, words, and lists of numbers, by name."""
        ...

    def markdown(self, results: "Results") -> str:
        """Lay out what is known."""
        ...

    def figures(self, results: "Results") -> dict[str, "Figure"]:
        """Draw what is known, by the name of the picture."""
        ...


@dataclasses.dataclass
class Results:
    """What a run knows, as it lies in `results.json`.

    Attributes:
        table: name of the table.
        scale: its scale.
        config: everything that decides the numbers but the seeds.
        machine: what they were measured on.
        cells: values of the cells that are done.
    """

    table: str
    scale: str
    config: dict[str, Any]
    machine: dict[str, Any]
    cells: dict[Cell, Values] = dataclasses.field(default_factory=dict)

    @classmethod
    def start(cls, name: str, scale: str, table: Any) -> "Results":
        """Begin without any cell."""
        return cls(name, scale, _config(table), machine())

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read a file that `save` wrote.

        Raises:
            ValueError: if it holds something else.
        """
        try:
            content = json.loads(path.read_text())
            cells = {
                Cell(each["row"], each["method"], each["seed"]): each["values"]
                for each in content.pop("cells")
            }
            return cls(**content, cells=cells)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} holds no results of an experiment ({error}): choose another --output or "
                "pass --fresh"
            ) from error

    def save(self, path: Path) -> None:
        """Write a file that is there in full or not at all."""
        content = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "cells"
        }
        content["cells"] = [
            {**cell._asdict(), "values": dict(values)} for cell, values in self.cells.items()
        ]
        write_text(path, json.dumps(content, indent=1) + "\n")

    def of(self, row: str, method: str, seeds: Iterable[int]) -> list[Values]:
        """Return the values of one row and method, of those seeds that are done."""
        found = (self.cells.get(Cell(row, method, seed)) for seed in seeds)
        return [values for values in found if values is not None]


def resume(name: str, scale: str, table: Any, path: Path, *, fresh: bool = False) -> Results:
    """Go on with the results in a file, or begin.

    Raises:
        ValueError: if the file holds results of another configuration, or none at all.
    """
    begun = Results.start(name, scale, table)
    if fresh or not path.exists():
        return begun
    held = Results.load(path)
    if (held.table, held.scale, digest(held.config)) != (name, scale, digest(begun.config)):
        raise ValueError(
            f"{path} holds the table {held.table!r} at scale {held.scale!r}, or another "
            "configuration of it: choose another --output or pass --fresh"
        )
    return held


def run(
    table: Table, results: Results, path: Path, nursery: Nursery, tell: Told | None = None
) -> Results:
    """Measure the cells that are missing, and save after each: a kill loses the one in hand.

    Args:
        table: what to measure.
        results: what is known; it is added to.
        path: the file to keep it in.
        nursery: gives the parents.
        tell: called before every cell that is measured, and after the last.

    Returns:
        The results.
    """
    cells = table.cells()
    missing = [cell for cell in cells if cell not in results.cells]
    for index, cell in enumerate(missing, start=len(cells) - len(missing)):
        if tell is not None:
            tell(f"{cell.row}, {cell.method}, seed {cell.seed}", index, len(cells))
        started = time.perf_counter()
        values = dict(table.measure(cell, nursery))
        results.cells[cell] = values | {"cell_seconds": round(time.perf_counter() - started, 2)}
        results.save(path)
    if tell is not None:
        tell("", len(cells), len(cells))
    return results


def grid(rows: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """List all combinations, row by row, so that what is cut short has whole rows."""
    return [Cell(row, method, seed) for row in rows for seed in seeds for method in methods]


def _config(table: Any) -> dict[str, Any]:
    content = dataclasses.asdict(dataclasses.replace(table, seeds=()))
    # As JSON has it: tuples are lists.
    return json.loads(json.dumps(content))
