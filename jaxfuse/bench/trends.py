"""The exponents of a report's series: measured beside predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxfuse.bench.record import Row
from jaxfuse.bench.slopes import last_slope, slope


@dataclass(frozen=True)
class Trend:
    """How one contestant grows along one series.

    Attributes:
        suite: the suite of the series.
        series: its name.
        axis: what its size counts.
        contestant: who.
        what: "seconds", "program", or "first" for compiled calls, whose compilation it shows.
        sizes: smallest and largest size.
        measured: exponent over all sizes.
        last: exponent between the two largest sizes.
        predicted: exponent of theory, None where it has none for this contestant.
    """

    suite: str
    series: str
    axis: str
    contestant: str
    what: str
    sizes: tuple[float, float]
    measured: float
    last: float
    predicted: float | None


def trends(rows: Sequence[Row]) -> list[Trend]:
    """Fit an exponent to every contestant of every series that has two sizes or more."""
    members: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.size is not None and row.seconds is not None:
            members.setdefault((row.suite, row.series, row.contestant), []).append(row)
    found = []
    for (suite, series, contestant), own in members.items():
        compiled = any(row.program is not None for row in own)
        for what in ("seconds", "first", "program") if compiled else ("seconds",):
            points = [
                (row.size, value)
                for row in own
                if row.size and (value := getattr(row, what)) and value > 0
            ]
            if len({size for size, _ in points}) < 2:
                continue
            sizes, values = zip(*points, strict=True)
            found.append(
                Trend(
                    suite,
                    series,
                    own[0].axis,
                    contestant,
                    what,
                    (min(sizes), max(sizes)),
                    slope(sizes, values),
                    last_slope(sizes, values),
                    own[0].predicted.get(what),
                )
            )
    return found
