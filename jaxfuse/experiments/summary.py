"""Means over seeds, as the tables write them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def spread(values: Iterable[Any], *, factor: float = 100.0, digits: int = 2) -> str:
    """Write the mean and the sample standard deviation over seeds; percent by default.

    Examples:
        >>> spread([0.5, 0.7]), spread([0.5]), spread([None])
        ('60.00 ± 14.14', '50.00', '-')
    """
    known = [factor * value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{np.mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {np.std(known, ddof=1):.{digits}f}"


def column(values: Sequence[Any], name: str) -> list[Any]:
    """Return one entry of the values of all seeds."""
    return [each.get(name) for each in values]


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known, or None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Write a Markdown table, the first columns to the left and the others to the right.

    Examples:
        >>> print(markdown_table(["name", "%"], [["a", "1"]]))
        | name | % |
        | --- | ---: |
        | a | 1 |
    """
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))
