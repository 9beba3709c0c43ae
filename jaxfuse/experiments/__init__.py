"""Published experiments, each one command: train, fuse, finetune, evaluate, tabulate."""

from jaxfuse.experiments.cells import Cell, Results, Table, resume, run
from jaxfuse.experiments.families import SCALES, Scale
from jaxfuse.experiments.family import Family, Nursery
from jaxfuse.experiments.report import renew, report
from jaxfuse.experiments.tables import TABLES

__all__ = [
    "SCALES",
    "TABLES",
    "Cell",
    "Family",
    "Nursery",
    "Results",
    "Scale",
    "Table",
    "renew",
    "report",
    "resume",
    "run",
]
