"""The one table of a run, for a terminal and as Markdown."""

from collections.abc import Sequence

from rich.table import Table

from jaxfuse.bench.quality import write
from jaxfuse.bench.record import Report, Row
from jaxfuse.bench.trends import trends

HEAD = (
    "case",
    "contestant",
    "seconds",
    "quartiles",
    "first s",
    "ours / this",
    "quality",
    "of ceiling",
    "to loop's J, s",
    "peak MiB",
    "program MiB",
    "note",
)
TREND_HEAD = ("series", "contestant", "of", "from - to", "exponent", "last two", "predicted")
_TEXT = {"case", "contestant", "quality", "note", "series", "of"}
LEGEND = """\
seconds: median of the rounds, in which the contestants of a case take turns; first: with
compilation. ours / this: seconds of the case's first row over this row's, round by round; below 1
ours is faster. of ceiling: achieved rate over what the machine reached in the same run (flop:
float32 matrix product; exp: exponentials; byte: memory; bytes exceed 1 where the data stay in
the cache). to loop's J: seconds until the plain Python loop's final objective is reached. peak:
growth of the process's peak by a first call, compiler included; program: result and scratch space
of the compiled program."""


def seconds(value: float | None) -> str:
    """Write a time with three digits and its unit.

    Examples:
        >>> seconds(0.00123), seconds(12.3), seconds(None)
        ('1.23 ms', '12.3 s', '-')
    """
    if value is None:
        return "-"
    # Three digits of 999.7 us are 1000, which is a millisecond.
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 0.9995:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def cells(row: Row) -> tuple[str, ...]:
    """Return what stands in the columns of `HEAD`."""
    short = {"flops": "flop", "exps": "exp", "bytes": "byte"}
    shares = ", ".join(f"{short.get(name, name)} {share:.2g}" for name, share in row.shares.items())
    quartiles = "-"
    if row.quartiles is not None:
        quartiles = " - ".join(map(seconds, row.quartiles))
    return (
        row.case,
        row.contestant,
        seconds(row.seconds),
        quartiles,
        seconds(row.first),
        f"{row.ratio.median:.3g}" if row.ratio else "-",
        write(row.quality) or "-",
        shares or "-",
        seconds(row.reach),
        "-" if row.peak is None else f"{row.peak:.0f}",
        "-" if row.program is None else f"{row.program:.3g}",
        row.note,
    )


def trend_cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return a line for every series and contestant, in the columns of `TREND_HEAD`."""
    return [
        (
            trend.series,
            trend.contestant,
            trend.what,
            f"{trend.axis} {trend.sizes[0]:g} - {trend.sizes[1]:g}",
            f"{trend.measured:.2f}",
            f"{trend.last:.2f}",
            "-" if trend.predicted is None else f"{trend.predicted:g}",
        )
        for trend in trends(rows)
    ]


def terminal(report: Report) -> list[Table]:
    """Lay out the rows, and the exponents where there are any; empty columns are left out."""
    tables = []
    for title, head, lines in _parts(report):
        kept = [i for i, _ in enumerate(head) if any(line[i] not in ("-", "") for line in lines)]
        table = Table(title=title, title_justify="left")
        for index in kept:
            side = "left" if head[index] in _TEXT else "right"
            table.add_column(head[index], justify=side)
        for line in lines:
            table.add_row(*(line[index] for index in kept))
        tables.append(table)
    return tables


def markdown(report: Report) -> str:
    """Write the whole report as Markdown."""
    parts = ["# jaxfuse bench", about(report), LEGEND]
    for title, head, lines in _parts(report):
        rule = ["---" if name in _TEXT else "---:" for name in head]
        body = ["| " + " | ".join(line) + " |" for line in (head, rule, *lines)]
        parts += [f"## {title}", "\n".join(body)]
    return "\n\n".join(parts) + "\n"


def about(report: Report) -> str:
    """Say on what, when and with what ceilings a report was measured."""
    machine = report.machine
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("jaxfuse", "jax", "scipy") if machine.get(name)
    )
    units = {"flops": "GFLOP/s", "bf16_flops": "GFLOP/s in bfloat16", "exps": "Gexp/s"}
    ceilings = ", ".join(
        f"{rate / 1e9:.3g} {units.get(name, 'GB/s')}" for name, rate in report.ceilings.items()
    )
    sizes = "small sizes" if report.quick else "full sizes"
    return (
        f"{machine['device']} ({machine['platform']}), {machine['cores']} cores, "
        f"{machine['system']} {machine['architecture']}; {versions}; {report.date}; {sizes}. "
        f"Ceilings: {ceilings or 'not measured'}."
    )


def _parts(report: Report) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    parts = []
    for suite in dict.fromkeys(row.suite for row in report.rows):
        own = [row for row in report.rows if row.suite == suite]
        parts.append((suite, HEAD, [cells(row) for row in own]))
    grown = trend_cells(report.rows)
    if grown:
        parts.append(("exponents", TREND_HEAD, grown))
    return parts
