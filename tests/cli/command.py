"""Runs the command line in this process, and reads what it prints."""

import re
import sys
from typing import NamedTuple

import numpy as np
import pytest

from jaxfuse.cli import main
from jaxfuse.models import CifarResNet
from jaxfuse.symmetry.tree import named_leaves


class Outcome(NamedTuple):
    """What a command left: exit status, both streams."""

    status: int
    out: str
    err: str

    def table(self) -> dict[str, list[str]]:
        """The cells of the printed table by the name of the network."""
        lines = [line for line in self.out.splitlines() if line.startswith("│")]
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
        return {name: cells for name, *cells in rows}

    def one_line(self) -> str:
        """The message of a command that was refused, checked to be one line."""
        assert self.status == 1
        assert self.err.count("\n") == 1
        assert re.match("jaxfuse: .", self.err)
        return self.err.strip()


class Command:
    """The command line under pytest's capture."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        self.capsys.readouterr()
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Outcome(status, *self.capsys.readouterr())


def assert_table_shows(outcome: Outcome, rows: list[dict]) -> None:
    """Compare the printed table with the rows of results.json."""
    assert outcome.table() == {
        row["name"]: [
            f"{100 * row['accuracy']:.2f}",
            f"{row['loss']:.3f}",
            "-" if row["barrier"] is None else f"{row['barrier']:.3f}",
            "-" if row["seconds"] is None else f"{row['seconds']:.2f}",
        ]
        for row in rows
    }


def shorten_resnet20(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the residual network of the command eight layers deep: it compiles in seconds."""

    def build(shape, classes, **options):
        return CifarResNet(shape[-1], classes, depth=8, **options)

    # By its name in the system: the package has the function of this name.
    module = sys.modules["jaxfuse.models.create"]
    short = module._BUILDERS["resnet20"]._replace(build=build)
    monkeypatch.setattr(module, "_BUILDERS", module._BUILDERS | {"resnet20": short})


def as_torch(params: dict) -> dict:
    """PyTorch's names and layouts for the tree of a jaxfuse model, with counters."""
    words = {"mean": "running_mean", "var": "running_var", "kernel": "weight", "scale": "weight"}
    state = {}
    for path, leaf in named_leaves(params).items():
        *layer, last = path.split("/")
        leaf = np.asarray(leaf)
        if last == "kernel":
            leaf = leaf.transpose(leaf.ndim - 1, leaf.ndim - 2, *range(leaf.ndim - 2))
        state[".".join((*layer, words.get(last, last)))] = np.ascontiguousarray(leaf)
        if last == "mean":
            state[".".join((*layer, "num_batches_tracked"))] = np.array([7])
    return state
