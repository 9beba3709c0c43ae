"""Whether a run is as good as a stored one: ratios to peers and qualities, never absolute times."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfuse.atomic import write_text
from jaxfuse.bench.quality import worse
from jaxfuse.bench.record import Report, Row

MARGIN = 0.75
"""Relative rise of a ratio that fails: runs of one commit on two busy cores differ by half."""


@dataclass(frozen=True)
class Failure:
    """One row that is worse than the stored one.

    Attributes:
        row: `case | contestant`.
        what: what is worse, with both numbers.
    """

    row: str
    what: str

    @property
    def case(self) -> str:
        """The case alone."""
        return self.row.split(" | ")[0]


def name_of(row: Row) -> str:
    """Return the name under which a row is stored."""
    return f"{row.case} | {row.contestant}"


def stored_form(report: Report) -> dict[str, Any]:
    """Return what is kept of a run: the machine, and ratio and quality of every row that ran."""
    return {
        "machine": dict(report.machine),
        "date": report.date,
        "margin": MARGIN,
        "rows": {
            name_of(row): {
                "ratio": None if row.ratio is None else row.ratio.best,
                "quality": dict(row.quality),
            }
            for row in report.rows
            if row.seconds is not None
        },
    }


def store(report: Report, path: Path, *, keep: bool = False) -> None:
    """Write what later runs are compared with.

    Args:
        report: a run.
        path: the file.
        keep: whether rows that the file holds of other cases stay.
    """
    content = stored_form(report)
    if keep and path.is_file():
        content["rows"] = load(path)["rows"] | content["rows"]
    write_text(path, json.dumps(content, indent=1) + "\n")


def load(path: Path) -> dict[str, Any]:
    """Read what `store` wrote.

    Raises:
        ValueError: if there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path} to compare with: write it with --update")
    return json.loads(path.read_text())


def of_cases(stored: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return what is stored of some cases alone."""
    rows = {key: row for key, row in stored["rows"].items() if key.split(" | ")[0] in names}
    return {**stored, "rows": rows}


def failures(
    rows: Sequence[Row], stored: Mapping[str, Any], margin: float | None = None
) -> list[Failure]:
    """Name the rows that are worse than the stored ones.

    A ratio fails when both its first quartile over the rounds and that of the fastest rounds are
    above the stored one by more than the margin, so that slow rounds fail nothing; a quality as
    `quality.worse` says. A stored row that did not run fails too; a new one does not.

    Args:
        rows: of this run.
        stored: what `load` returns.
        margin: relative; the stored one by default.
    """
    allowed: float = stored["margin"] if margin is None else margin
    now = {name_of(row): row for row in rows}
    found = []
    for name, before in stored["rows"].items():
        row = now.get(name)
        if row is None or row.seconds is None:
            found.append(Failure(name, f"is missing: {row.note if row else 'it did not run'}"))
            continue
        limit = None if before["ratio"] is None else before["ratio"] * (1 + allowed)
        if limit is not None and row.ratio and min(row.ratio.low, row.ratio.best) > limit:
            change = f"{before['ratio']:.3g} -> {row.ratio.best:.3g}"
            found.append(Failure(name, f"ours / this {change}, limit {limit:.3g}"))
        found += [Failure(name, what) for what in worse(row.quality, before["quality"])]
    return found
