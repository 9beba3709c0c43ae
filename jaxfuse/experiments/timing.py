"""Seconds of every matcher beside what its result is worth."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxfuse.experiments.cells import Cell, Results, Values, grid
from jaxfuse.experiments.family import Family, Nursery
from jaxfuse.experiments.plots import COLOURS, blank
from jaxfuse.experiments.published import published_lines
from jaxfuse.experiments.recipes import RECIPES, fuse_parents
from jaxfuse.experiments.scores import accuracy
from jaxfuse.experiments.summary import column, markdown_table, mean, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class TimeTable:
    """Seconds of the second alignment, compiled, and of compilation; accuracies beside them.

    Attributes:
        title: what the table is about.
        families: the networks.
        methods: names of `RECIPES`.
        seeds: of the parents.
        images: unlabelled training images that methods and repairs may look at.
        noise: samples of noise for the fit without data.
    """

    title: str
    families: tuple[Family, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    images: int = 1000
    noise: int = 4000

    def cells(self) -> list[Cell]:
        """List the methods of every family and seed."""
        return grid([family.name for family in self.families], self.methods, self.seeds)

    def measure(self, cell: Cell, nursery: Nursery) -> Values:
        """Align twice, and evaluate the average and the recipe's own result."""
        family = next(family for family in self.families if family.name == cell.row)
        parents = nursery.parents(family, cell.seed)
        recipe = RECIPES[cell.method]
        first = fuse_parents(recipe, parents, images=self.images, noise=self.noise)
        second = fuse_parents(recipe, parents, images=self.images, noise=self.noise)
        return {
            "seconds": second.seconds,
            "compile_seconds": max(0.0, first.seconds - second.seconds),
            "average": accuracy(parents, second.make("average", None)),
            "own": accuracy(parents, second.make(recipe.own, None)),
        }

    def markdown(self, results: Results) -> str:
        """Lay out seconds and accuracies."""
        family = self.families[0]
        parts = [
            f"## {self.title}",
            f"Scale `{results.scale}`: {family.dataset}, evaluated on `{family.test_split}`, "
            f"{len(self.seeds)} seeds, on {results.machine['device']} "
            f"({results.machine['platform']}), {results.machine['cores']} cores. Seconds of the "
            "second alignment in one process, compiled; compilation apart, which later seeds "
            "share with the first (mean over seeds). Accuracies in percent, of the bare average "
            "and of the recipe's own result.",
        ]
        head = ["method", "seconds", "compilation, s", "average", "own result"]
        for each in self.families:
            rows = []
            for method in self.methods:
                values = results.of(each.name, method, self.seeds)
                rows.append(
                    [
                        RECIPES[method].label,
                        spread(column(values, "seconds"), factor=1, digits=3),
                        spread([mean(column(values, "compile_seconds"))], factor=1, digits=1),
                        spread(column(values, "average")),
                        spread(column(values, "own")),
                    ]
                )
            parts += [f"### {each.name}", markdown_table(head, rows)]
        parts += published_lines("time")
        return "\n\n".join(parts) + "\n"

    def figures(self, results: Results) -> dict[str, "Figure"]:
        """Draw accuracy against seconds, a panel for each row of parents."""
        figure = blank(4.6 * len(self.families), 4.6)
        panels = figure.subplots(1, len(self.families), squeeze=False)[0]
        for panel, family in zip(panels, self.families, strict=True):
            for index, method in enumerate(self.methods):
                values = results.of(family.name, method, self.seeds)
                if not values:
                    continue
                panel.scatter(
                    [np.mean(column(values, "seconds"))],
                    [100 * np.mean(column(values, "own"))],
                    color=COLOURS[index % len(COLOURS)],
                    marker="osD^vPX*"[index % 8],
                    s=70,
                    label=RECIPES[method].label,
                )
            panel.set(xscale="log", xlabel="seconds of the alignment", ylabel="accuracy, %")
            panel.set_title(family.name, loc="left", fontsize=10)
            panel.grid(alpha=0.3)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8
        )
        return {"time": figure}
