"""Corrections of an average within its architecture, one per file."""

from jaxfuse.fusion.repair.activations import RepairActivations
from jaxfuse.fusion.repair.least_squares import LeastSquares
from jaxfuse.fusion.repair.norm import RestoreNorms
from jaxfuse.fusion.repair.protocol import Merger, Repair
from jaxfuse.fusion.repair.reset import ResetStatistics

REPAIRS: dict[str, Repair] = {
    "norm": RestoreNorms(),
    "reset": ResetStatistics(),
    "repair": RepairActivations(),
    "rescale": RepairActivations("rescale"),
    "reshift": RepairActivations("reshift"),
    "closed_form": RepairActivations(closed_form=True),
    "least_squares": LeastSquares(),
}

__all__ = [
    "REPAIRS",
    "LeastSquares",
    "Merger",
    "Repair",
    "RepairActivations",
    "ResetStatistics",
    "RestoreNorms",
]
