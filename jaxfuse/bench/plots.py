"""Pictures of a report, as SVG that can stand inside HTML."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxfuse.bench.record import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers; the markers tell too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00")
_MARKERS = "osD^vX"


def series_figure(rows: Sequence[Row]) -> "Figure":
    """Draw time against size, both logarithmic, one line a contestant, quartiles as bars."""
    figure = _figure(5.6, 3.6)
    axes = figure.subplots()
    for index, name in enumerate(dict.fromkeys(row.contestant for row in rows)):
        own = sorted((r for r in rows if r.contestant == name), key=lambda row: row.size or 0)
        own = [row for row in own if row.seconds and row.size and row.quartiles]
        if not own:
            continue
        middle = [row.seconds or 0.0 for row in own]
        spread = [
            [abs(m - (row.quartiles or (m, m))[side]) for m, row in zip(middle, own, strict=True)]
            for side in (0, 1)
        ]
        axes.errorbar(
            [row.size or 0.0 for row in own],
            middle,
            spread,
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=5,
            linewidth=1.8,
            capsize=2,
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel=rows[0].axis, ylabel="seconds a call")
    axes.set_title(rows[0].series, loc="left", fontsize=10)
    ticks = sorted({row.size for row in rows if row.size})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def ratio_figure(rows: Sequence[Row]) -> "Figure | None":
    """Draw ours over each peer as a bar from 1: to the left ours is faster. None without peers."""
    compared = [row for row in rows if row.ratio is not None]
    if not compared:
        return None
    figure = _figure(7.4, 0.9 + 0.24 * len(compared))
    axes = figure.subplots()
    for place, row in enumerate(compared):
        assert row.ratio is not None
        median = row.ratio.median
        colour = _COLOURS[0] if median <= 1 else _COLOURS[1]
        axes.barh(place, median - 1, left=1, color=colour, height=0.7)
        axes.plot([row.ratio.low, row.ratio.high], [place, place], color="#333333", linewidth=1)
    axes.set_yticks(range(len(compared)), [f"{r.case}  |  {r.contestant}" for r in compared])
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="#333333", linewidth=0.8)
    axes.set_xlabel("ours / this (left of 1: ours is faster)")
    axes.grid(alpha=0.3, axis="x")
    return figure


def svg(figure: "Figure", salt: str) -> str:
    """Return a figure as an SVG element without any address in it.

    Args:
        figure: what is drawn.
        salt: makes the names inside differ from those of other pictures on the page.
    """
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    picture = text.getvalue()
    picture = picture[picture.index("<svg") :]
    picture = re.sub(r"<metadata>.*?</metadata>", "", picture, flags=re.DOTALL)
    # Inside HTML the parser knows the namespaces.
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", picture)


def _figure(width: float, height: float) -> "Figure":
    # Drawn without pyplot: no global state, no window, no chosen backend.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
