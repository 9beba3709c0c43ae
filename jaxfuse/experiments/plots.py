"""Pictures of the experiments."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfuse.atomic import replacing
from jaxfuse.experiments.cells import Results
from jaxfuse.experiments.recipes import RECIPES
from jaxfuse.experiments.summary import column, mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers; the markers tell too.
COLOURS = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7"),
    *("#999999", "#D55E00", "#0072B2", "#882255"),
)
_MARKERS = "osD^vPX*h"


def blank(width: float, height: float) -> "Figure":
    """Return an empty figure, drawn without pyplot: no global state, no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG, atomically."""
    with replacing(path) as file:
        figure.savefig(file, format="png")


def plot_proportions(table: Any, rows: Sequence[str], results: Results) -> "Figure":
    """Draw accuracy against the share of the second network, a panel for each row of parents."""
    columns = 2 if len(rows) > 1 else 1
    lines = -(-len(rows) // columns)
    figure = blank(5.2 * columns, 3.4 * lines + 1.2)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    ts = np.linspace(0, 1, table.points)
    for panel, row in zip(panels, rows, strict=False):
        for index, method in enumerate(table.methods):
            recipe = RECIPES[method]
            found = column(results.of(row, method, table.seeds), f"curve_{recipe.own}")
            _line(panel, ts, found, recipe.label, index, 2.2 if recipe.ours else 1.3)
        found = column(results.of(row, "ensemble", table.seeds), "curve")
        curves = [curve for curve in found if curve]
        if curves:
            panel.plot(
                ts,
                100 * np.mean(curves, axis=0),
                color="#000000",
                linestyle=":",
                label="prediction ensemble",
            )
        panel.set_title(row, loc="left", fontsize=10)
        panel.set(xlabel="share of the second network", ylabel="accuracy, %", xlim=(0, 1))
        panel.grid(alpha=0.3)
    for panel in panels[len(rows) :]:
        panel.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _line(
    panel: Any, ts: np.ndarray, found: Sequence[Any], label: str, index: int, width: float
) -> None:
    curves = np.array([curve for curve in found if curve is not None])
    if not len(curves):
        return
    colour = COLOURS[index % len(COLOURS)]
    middle = 100 * curves.mean(axis=0)
    marker = _MARKERS[index % len(_MARKERS)]
    panel.plot(ts, middle, color=colour, marker=marker, markersize=4, linewidth=width, label=label)
    if len(curves) > 1:
        around = 100 * curves.std(axis=0, ddof=1)
        panel.fill_between(ts, middle - around, middle + around, color=colour, alpha=0.12)


def plot_bars(table: Any, rows: Sequence[str], results: Results) -> "Figure":
    """Draw the one-shot accuracy of every recipe, a panel for each row of parents."""
    columns = 2 if len(rows) > 1 else 1
    lines = -(-len(rows) // columns)
    height = 0.28 * len(table.methods) + 1.1
    figure = blank(5.6 * columns, height * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    names = [RECIPES[method].label for method in table.methods]
    for panel, row in zip(panels, rows, strict=False):
        for place, method in enumerate(table.methods):
            recipe = RECIPES[method]
            found = column(results.of(row, method, table.seeds), recipe.own)
            known = [100 * value for value in found if value is not None]
            if not known:
                continue
            error = np.std(known, ddof=1) if len(known) > 1 else 0.0
            colour = "#0072B2" if recipe.ours else "#999999"
            panel.barh(place, np.mean(known), xerr=error, color=colour, height=0.7, capsize=2)
        parents = [np.mean(v["accuracy"]) for v in results.of(row, "parents", table.seeds)]
        ensemble = mean(column(results.of(row, "ensemble", table.seeds), "accuracy"))
        panel.axvline(100 * np.mean(parents), color="#D55E00", label="parents' mean")
        if ensemble is not None:
            panel.axvline(100 * ensemble, color="#000000", linestyle=":", label="ensemble")
        panel.set_yticks(range(len(names)), names, fontsize=8)
        panel.invert_yaxis()
        panel.set_title(row, loc="left", fontsize=10)
        panel.set(xlabel="accuracy one shot, %", xlim=(0, 100))
        panel.grid(alpha=0.3, axis="x")
    for panel in panels[len(rows) :]:
        panel.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure
