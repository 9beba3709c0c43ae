"""A table that trains nothing, and real ones made small."""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

from jaxfuse.experiments.cells import Cell, grid
from jaxfuse.experiments.tables import TABLES
from jaxfuse.training import TrainingConfig


@dataclasses.dataclass(frozen=True)
class Counted:
    """Six cells, each of which leaves a line in a file when it is measured."""

    journal: str
    seeds: tuple[int, ...] = (0, 1)
    factor: int = 10
    killed_at: str = ""

    def cells(self) -> list[Cell]:
        return grid(["row"], ["a", "b", "c"], self.seeds)

    def measure(self, cell: Cell, nursery: Any) -> dict[str, int]:
        if self.killed_at == f"{cell.method}{cell.seed}":
            os.kill(os.getpid(), signal.SIGKILL)
        with Path(self.journal).open("a") as file:
            file.write(f"{cell.method}{cell.seed}\n")
        return {"value": self.factor * cell.seed + ord(cell.method)}

    def markdown(self, results: Any) -> str:
        return f"{len(results.cells)} cells\n"

    def figures(self, results: Any) -> dict[str, Any]:
        return {}


FEW = {
    "mnist": ("plain", "ot_weights", "jaxfuse", "jaxfuse_images"),
    "lenet": ("plain", "git_rebasin", "jaxfuse", "jaxfuse_images"),
    "vgg11": ("plain", "git_rebasin", "jaxfuse", "jaxfuse_images"),
    "het4": ("plain", "git_rebasin", "activations", "cca", "zip_it"),
    "time": ("ot_weights", "jaxfuse"),
    "widths": ("ot_weights", "zip_it"),
    "similarity": ("jaxfuse_weights",),
}


def small(name: str, **changes: Any) -> Any:
    """Return a table of the digits with few methods on tiny MLPs of one epoch."""
    table: Any = TABLES[name]("ci")
    training = TrainingConfig(epochs=2, learning_rate=0.1)
    families = []
    for family in table.families[:2]:
        widths = tuple(0.02 * (1 + (width == max(family.widths))) for width in family.widths)
        families.append(dataclasses.replace(family, model="mlp", widths=widths, training=training))
    options: dict[str, Any] = {"families": tuple(families), "methods": FEW[name]}
    if name == "similarity":
        options |= {"shares": (0.2, 1.0), "draws": 4}
    else:
        options |= {"images": 60, "noise": 60}
    if hasattr(table, "finetuning"):
        options["points"] = 3 if table.points else 0
    if getattr(table, "finetuning", None):
        options |= {"finetuning": TrainingConfig(epochs=1), "finetuned": FEW[name][:2]}
    if getattr(table, "pseudo_labels", None):
        options["pseudo_labels"] = TrainingConfig(epochs=1, batch_size=20)
    return dataclasses.replace(table, **options, **changes)
