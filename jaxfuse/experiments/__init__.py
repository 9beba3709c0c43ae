"""Published experiments, each one command: train, fuse, finetune, evaluate, tabulate."""

from types import MappingProxyType

from jaxfuse.experiments.cells import Cell, Results, Table, resume, run
from jaxfuse.experiments.families import SCALES, Scale
from jaxfuse.experiments.family import Family, Nursery
from jaxfuse.experiments.federation import FEDERATED_TABLES
from jaxfuse.experiments.report import renew, report
from jaxfuse.experiments.tables import TABLES

EXPERIMENTS = MappingProxyType({"compact-ensemble": TABLES, "federated": FEDERATED_TABLES})
"""The tables of every experiment by name, each from the scale to the table."""

__all__ = [
    "EXPERIMENTS",
    "FEDERATED_TABLES",
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
