"""Fuse a wide and a narrow network, in both directions; skill transfer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfuse.experiments.cells import Cell, Results, Values, grid
from jaxfuse.experiments.family import SPECIAL_CLASS, Family, Nursery, Parents
from jaxfuse.experiments.plots import blank
from jaxfuse.experiments.recipes import RECIPES, VARIANTS, Variant, fuse_parents
from jaxfuse.experiments.scores import (
    accuracy,
    accuracy_of_classes,
    ensemble_accuracy,
    probabilities,
)
from jaxfuse.experiments.summary import column, markdown_table, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARENTS = "parents"
_SHOWN: tuple[Variant, ...] = ("average", "noise", "inverted", "fitted")


@dataclass(frozen=True, kw_only=True)
class WidthsTable:
    """Two networks of different widths into one of either width.

    Every family is fused into the widths of its first network, so a pair has two families, one for
    each direction.

    Attributes:
        title: what the table is about.
        families: wide and narrow networks; the first has the widths of the result.
        methods: names of `RECIPES` for different widths.
        seeds: of the parents.
        images: unlabelled training images that methods and repairs may look at.
        noise: samples of noise for the fit without data.
    """

    title: str
    families: tuple[Family, ...]
    methods: tuple[str, ...] = ("ot_weights", "ot_activations", "pfnm", "zip_it")
    seeds: tuple[int, ...] = (0, 1, 2)
    images: int = 1000
    noise: int = 4000

    def cells(self) -> list[Cell]:
        """List parents and methods of every family and seed."""
        rows = [family.name for family in self.families]
        return grid(rows, (PARENTS, *self.methods), self.seeds)

    def measure(self, cell: Cell, nursery: Nursery) -> Values:
        """Measure accuracies on all evaluation images, and by class where one is special."""
        family = next(family for family in self.families if family.name == cell.row)
        parents = nursery.parents(family, cell.seed)
        if cell.method == PARENTS:
            predicted = probabilities(parents)
            return {
                "accuracy": [accuracy(parents, p, i) for i, p in enumerate(parents.params)],
                "classes": [
                    accuracy_of_classes(parents, p, i, SPECIAL_CLASS)
                    for i, p in enumerate(parents.params)
                ],
                "ensemble": ensemble_accuracy(predicted, parents.test_labels),
            }
        made = nursery.inversions(family, cell.seed, self.images)
        return self._recipe(cell.method, parents, made)

    def _recipe(self, method: str, parents: Parents, made: jax.Array) -> dict[str, Any]:
        fused = fuse_parents(
            RECIPES[method], parents, images=self.images, noise=self.noise, inversions=made
        )
        values: dict[str, Any] = {"seconds": fused.seconds}
        for variant in _SHOWN:
            params = fused.make(variant, None)
            if params is not None:
                values[variant] = accuracy(parents, params)
                special, rest = accuracy_of_classes(parents, params, 0, SPECIAL_CLASS)
                values[f"{variant}_special"], values[f"{variant}_rest"] = special, rest
        return values

    def markdown(self, results: Results) -> str:
        """Lay out a table for every direction."""
        family = self.families[0]
        parts = [
            f"## {self.title}",
            f"Scale `{results.scale}`: {family.dataset}, {family.model}, evaluated on "
            f"`{family.test_split}`, {len(self.seeds)} seeds, in percent. The fused network has "
            "the widths of the first parent. A plain average does not exist. In brackets, for "
            f"special and general parents: accuracy on class {SPECIAL_CLASS}, which the first "
            "alone has seen, and on the others. Repairs fit every unit to the mean of its "
            "parents', and so need units that both parents have: into the narrower width.",
        ]
        for each in self.families:
            parts += [f"### {each.name}", *self._family(each, results)]
        return "\n\n".join(parts) + "\n"

    def _family(self, family: Family, results: Results) -> list[str]:
        parents = results.of(family.name, PARENTS, self.seeds)
        if not parents:
            return ["Not run."]
        special = family.split == "personalised"
        told = []
        for index, width in enumerate(family.widths):
            text = f"width {width}: {spread([v['accuracy'][index] for v in parents])}"
            if special:
                one, rest = (spread([v["classes"][index][i] for v in parents]) for i in (0, 1))
                text += f" ({one}; {rest})"
            told.append(text)
        rows = []
        for method in self.methods:
            values = results.of(family.name, method, self.seeds)
            cells = []
            for variant in _SHOWN:
                text = spread(column(values, variant))
                if special and text != "-":
                    both = (spread(column(values, f"{variant}_{x}")) for x in ("special", "rest"))
                    text += f" ({'; '.join(both)})"
                cells.append(text)
            rows.append([RECIPES[method].label, *cells])
        ensemble = spread(column(parents, "ensemble"))
        head = ["method", *(VARIANTS[variant] for variant in _SHOWN)]
        return [
            f"Parents, {', '.join(told)}; prediction ensemble {ensemble}.",
            markdown_table(head, rows),
        ]

    def figures(self, results: Results) -> dict[str, "Figure"]:
        """Draw the accuracies of every method, a panel for each direction."""
        done = [each for each in self.families if results.of(each.name, PARENTS, self.seeds)]
        if not done:
            return {}
        figure = blank(10.0, 2.4 * -(-len(done) // 2) + 0.5)
        panels = figure.subplots(-(-len(done) // 2), 2, squeeze=False).ravel()
        colours = dict(zip(_SHOWN, ("#999999", "#56B4E9", "#009E73", "#0072B2"), strict=True))
        for panel, family in zip(panels, done, strict=False):
            for place, method in enumerate(self.methods):
                values = results.of(family.name, method, self.seeds)
                for index, variant in enumerate(_SHOWN):
                    known = [100 * v for v in column(values, variant) if v is not None]
                    if known:
                        panel.barh(
                            place + 0.21 * (index - 1.5),
                            np.mean(known),
                            height=0.19,
                            color=colours[variant],
                            label=VARIANTS[variant] if place == 0 else None,
                        )
            for index, style in enumerate(("-", "--")):
                each = [v["accuracy"][index] for v in results.of(family.name, PARENTS, self.seeds)]
                label = f"{('first', 'second')[index]} parent"
                panel.axvline(100 * np.mean(each), color="#D55E00", linestyle=style, label=label)
            names = [RECIPES[method].label for method in self.methods]
            panel.set_yticks(range(len(names)), names, fontsize=8)
            panel.invert_yaxis()
            panel.set(xlim=(0, 100), xlabel="accuracy, %")
            panel.set_title(family.name, loc="left", fontsize=9)
            panel.grid(alpha=0.3, axis="x")
        for panel in panels[len(done) :]:
            panel.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8
        )
        return {"widths": figure}
