"""Runs the command line in this process, and reads what it prints."""

import re
from typing import NamedTuple

import pytest

from jaxfuse.cli import main


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
