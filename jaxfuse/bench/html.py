"""The report as one HTML page that needs no other file and no network."""

import html
from collections.abc import Sequence

from jaxfuse.bench.plots import ratio_figure, series_figure, svg
from jaxfuse.bench.record import Report, Row
from jaxfuse.bench.table import HEAD, LEGEND, TREND_HEAD, about, cells, trend_cells

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 82rem; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; }
th, td { padding: 3px 9px; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.ours td { background: #eef5fb; }
tr.absent td { color: #777; }
tr.begins td { border-top: 2px solid #999; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
.pictures svg { max-width: 100%; height: auto; }
p.small { color: #555; font-size: 13px; max-width: 60rem; }
"""
_NUMBERS = frozenset(
    {"seconds", "quartiles", "first s", "ours / this", "to loop's J, s", "peak MiB", "program MiB"}
) | frozenset(TREND_HEAD[3:])


def page(report: Report) -> str:
    """Write the page."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>jaxfuse bench</title><style>{_STYLE}</style></head><body>",
        "<h1>jaxfuse bench</h1>",
        f"<p>{html.escape(about(report))}</p>",
        f'<p class="small">{html.escape(LEGEND)}</p>',
    ]
    for suite in dict.fromkeys(row.suite for row in report.rows):
        rows = [row for row in report.rows if row.suite == suite]
        parts += [f"<h2>{html.escape(suite)}</h2>", _pictures(suite, rows), _rows_table(rows)]
    grown = trend_cells(report.rows)
    if grown:
        plain = [("", line) for line in grown]
        parts += ["<h2>exponents</h2>", _table(TREND_HEAD, plain)]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _pictures(suite: str, rows: Sequence[Row]) -> str:
    drawn = []
    for series in dict.fromkeys(row.series for row in rows):
        own = [row for row in rows if row.series == series]
        if len({row.size for row in own if row.seconds} - {None}) > 1:
            drawn.append(svg(series_figure(own), f"{suite} {series}"))
    bars = ratio_figure(rows)
    if bars is not None:
        drawn.append(svg(bars, f"{suite} ratios"))
    return f'<div class="pictures">{"".join(drawn)}</div>'


def _rows_table(rows: Sequence[Row]) -> str:
    lines = []
    for before, row in zip((None, *rows), rows, strict=False):
        begins = before is None or before.case != row.case
        kinds = {"begins": begins, "ours": row.contestant.startswith("jaxfuse")}
        kinds["absent"] = row.seconds is None
        lines.append((" ".join(kind for kind, holds in kinds.items() if holds), cells(row)))
    return _table(HEAD, lines)


def _table(head: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = []
    for kind, line in lines:
        line_cells = "".join(
            f'<td class="number">{html.escape(cell)}</td>'
            if name in _NUMBERS
            else f"<td>{html.escape(cell)}</td>"
            for name, cell in zip(head, line, strict=True)
        )
        body.append(f'<tr class="{kind}">{line_cells}</tr>')
    return f'<div class="wide"><table><tr>{top}</tr>{"".join(body)}</table></div>'
