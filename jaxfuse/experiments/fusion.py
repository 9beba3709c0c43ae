"""Tables of K networks fused into one: every competitor, one shot and after finetuning."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxfuse.experiments.cells import Cell, Results, Values, grid
from jaxfuse.experiments.family import Family, Nursery, Parents, finetune
from jaxfuse.experiments.plots import plot_bars, plot_proportions
from jaxfuse.experiments.published import published_lines
from jaxfuse.experiments.recipes import RECIPES, VARIANTS, Recipe, fuse_parents
from jaxfuse.experiments.scores import accuracy, ensemble_accuracy, probabilities
from jaxfuse.experiments.summary import column, markdown_table, spread
from jaxfuse.training import TrainingConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARENTS, ENSEMBLE = "parents", "ensemble"


@dataclass(frozen=True, kw_only=True)
class FusionTable:
    """Parents, their ensemble, and what every recipe makes of them.

    Attributes:
        title: what the table is about.
        published: name of its published figures in `jaxfuse.experiments.published`, if any.
        families: one for each row of parents.
        methods: names of `RECIPES`.
        seeds: of the parents.
        images: unlabelled training images that methods and repairs may look at.
        noise: samples of noise for the fit without data.
        points: proportions 0 ... 1 of the second network that are measured; 0 for none.
        finetuning: how fused networks and parents are trained further; None for not at all.
        finetuned: which methods are.
        pseudo_labels: whether ours is also trained on the images with the ensemble's labels.
    """

    title: str
    published: str = ""
    families: tuple[Family, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    images: int = 1000
    noise: int = 4000
    points: int = 0
    finetuning: TrainingConfig | None = None
    finetuned: tuple[str, ...] = ()
    pseudo_labels: TrainingConfig | None = None

    def cells(self) -> list[Cell]:
        """List parents, ensemble and methods of every family and seed."""
        rows = [family.name for family in self.families]
        return grid(rows, (PARENTS, ENSEMBLE, *self.methods), self.seeds)

    def measure(self, cell: Cell, nursery: Nursery) -> Values:
        """Measure accuracies on the evaluation images."""
        family = next(family for family in self.families if family.name == cell.row)
        parents = nursery.parents(family, cell.seed)
        if cell.method == PARENTS:
            return self._parents(family, parents, cell.seed, nursery)
        if cell.method == ENSEMBLE:
            return self._ensemble(parents)
        made = nursery.inversions(family, cell.seed, self.images)
        return self._recipe(RECIPES[cell.method], cell, parents, made, nursery)

    def _parents(
        self, family: Family, parents: Parents, seed: int, nursery: Nursery
    ) -> dict[str, Any]:
        values: dict[str, Any] = {
            "accuracy": [accuracy(parents, each) for each in parents.params],
            "examples": [len(share) for share in parents.shares],
        }
        if self.finetuning is not None:
            further = nursery.finetuned(family, seed, self.finetuning)
            values["finetuned"] = [accuracy(parents, each) for each in further]
        return values

    def _ensemble(self, parents: Parents) -> dict[str, Any]:
        predicted, labels = probabilities(parents), parents.test_labels
        values: dict[str, Any] = {"accuracy": ensemble_accuracy(predicted, labels)}
        if self.points:
            values["curve"] = [
                ensemble_accuracy(predicted, labels, (1 - t, t)) for t in self._proportions()
            ]
        return values

    def _recipe(
        self, recipe: Recipe, cell: Cell, parents: Parents, made: jax.Array, nursery: Nursery
    ) -> dict[str, Any]:
        fused = fuse_parents(recipe, parents, images=self.images, noise=self.noise, inversions=made)
        values: dict[str, Any] = {"status": fused.status}
        own = None
        for variant in VARIANTS:
            params = fused.make(variant, None)
            if params is not None:
                values[variant] = accuracy(parents, params)
            if params is not None and variant in ("average", recipe.own):
                own = params
        if self.points:
            for name in dict.fromkeys(("average", recipe.own)):
                curve = (fused.make(name, (1 - t, t)) for t in self._proportions())
                values[f"curve_{name}"] = [accuracy(parents, each) for each in curve]

        def tell(step: int, steps: int, loss: float) -> None:
            nursery.tell(f"{cell.row}, seed {cell.seed}: finetuning {recipe.label}", step / steps)

        if self.finetuning is not None and cell.method in self.finetuned:
            after = finetune(parents, 0, self.finetuning, cell.seed, own, progress=tell).params
            values["finetuned"] = accuracy(parents, after)
        if self.pseudo_labels is not None and recipe.ours:
            values["pseudo"] = self._on_pseudo_labels(parents, own, cell.seed)
        return values

    def _on_pseudo_labels(self, parents: Parents, params: Any, seed: int) -> float:
        """Train on the unlabelled images, with the classes that the ensemble gives them."""
        assert self.pseudo_labels is not None
        images = np.asarray(parents.unlabelled(self.images))
        predicted = probabilities(parents._replace(test_images=images)).mean(axis=0)
        labels = np.argmax(predicted, axis=-1).astype(np.int32)
        result = finetune(
            parents, 0, self.pseudo_labels, seed, params, images=images, labels=labels
        )
        return accuracy(parents, result.params)

    def _proportions(self) -> list[float]:
        return np.linspace(0, 1, self.points).tolist()

    def markdown(self, results: Results) -> str:
        """Lay out a table for every family, the verdict, and what was published."""
        parts = [f"## {self.title}", self._about(results)]
        for family in self.families:
            parts += [f"### {family.name}", *self._family(family, results)]
        parts += [
            "### One shot: ours, and the best of the others",
            "Without images: the best bare average of a method that sees none, against ours fitted "
            "on inversions. With images: the best of all methods, bare or after REPAIR, against "
            "ours fitted on images. The best is chosen seed by seed on the evaluation images, to "
            "the advantage of the others.",
            self._verdict(results),
        ]
        parts += published_lines(self.published)
        return "\n\n".join(parts) + "\n"

    def _about(self, results: Results) -> str:
        text = (
            f"Scale `{results.scale}`. Mean ± sample standard deviation over seeds, in percent. "
            "Dirichlet(0.5) and special/general splits are drawn with every seed. "
            f"{self.images} unlabelled training images, as many inversions of the parents, "
            f"{self.noise} samples of noise. Bold: the recipe's own result."
        )
        if self.finetuning is not None:
            text += (
                f" Finetuned: {self.finetuning.epochs} epoch(s) at a learning rate of "
                f"{self.finetuning.learning_rate} on the examples of all parents, from the "
                "recipe's own result, parents likewise."
            )
        return text

    def _family(self, family: Family, results: Results) -> list[str]:
        parents = results.of(family.name, PARENTS, self.seeds)
        ensemble = results.of(family.name, ENSEMBLE, self.seeds)
        if not parents:
            return ["Not run."]
        widths = ", ".join(dict.fromkeys(map(str, family.widths)))
        about = (
            f"{family.model} at width {widths} of the published, {family.dataset}: trained on "
            f"`{family.train_split}` for {family.training.epochs} epochs, evaluated on "
            f"`{family.test_split}`. "
        )
        each = [
            spread([values["accuracy"][index] for values in parents])
            for index in range(family.members)
        ]
        best = spread([max(values["accuracy"]) for values in parents])
        lines = [
            f"{about}{len(parents)} seed(s). Parents {', '.join(each)}; best parent {best}; "
            f"prediction ensemble {spread(column(ensemble, 'accuracy'))}."
        ]
        if self.finetuning is not None:
            best = spread([max(values["finetuned"]) for values in parents])
            lines[0] += (
                f" After finetuning the parents' mean is "
                f"{spread([float(np.mean(values['finetuned'])) for values in parents])} and the "
                f"best parent {best}."
            )
        head = ["method", *VARIANTS.values()]
        extra = {"finetuned": "finetuned", "pseudo": "on pseudo-labels"}
        shown = [
            name
            for name, wanted in (
                ("finetuned", self.finetuning is not None),
                ("pseudo", self.pseudo_labels is not None),
            )
            if wanted
        ]
        head += [extra[name] for name in shown]
        rows = []
        for method in self.methods:
            recipe, values = RECIPES[method], results.of(family.name, method, self.seeds)
            cells = []
            for variant in VARIANTS:
                text = spread(column(values, variant))
                cells.append(f"**{text}**" if variant == recipe.own and text != "-" else text)
            cells += [spread(column(values, name)) for name in shown]
            rows.append([recipe.label, *cells])
        return [*lines, markdown_table(head, rows)]

    def _verdict(self, results: Results) -> str:
        """Compare ours with the best of the others that see as much, seed by seed."""
        rows = []
        for family in self.families:
            for own, images in (("jaxfuse", False), ("jaxfuse_images", True)):
                found = [self._pair(family.name, own, images, seed, results) for seed in self.seeds]
                known = [pair for pair in found if pair is not None]
                if not known:
                    continue
                which = ", ".join(dict.fromkeys(pair.name for pair in known))
                best, ours, parents = (
                    np.array([getattr(pair, what) for pair in known])
                    for what in ("best", "ours", "parents")
                )
                rows.append(
                    [
                        family.name,
                        "yes" if images else "no",
                        which,
                        *map(spread, (best, ours, ours - best, ours - parents)),
                        str(len(known)),
                    ]
                )
        head = ["parents", "images", "best of the others", "its accuracy", "jaxfuse"]
        head += ["jaxfuse, less it", "jaxfuse, less parents' mean", "seeds"]
        return markdown_table(head, rows, words=3)

    def _pair(
        self, row: str, own: str, images: bool, seed: int, results: Results
    ) -> "_Pair | None":
        """Return what one seed says of one row, or None where something is not measured yet."""
        values = {name: results.of(row, name, (seed,)) for name in (PARENTS, *self.methods)}
        if own not in self.methods or not all(values.values()):
            return None
        rivals = {}
        for name in self.methods:
            recipe, scored = RECIPES[name], values[name][0]
            if recipe.ours or recipe.wider or (recipe.images and not images):
                continue
            known = [scored["average"], scored.get("repaired") if images else None]
            rivals[name] = max(value for value in known if value is not None)
        best = max(rivals, key=lambda name: rivals[name])
        return _Pair(
            RECIPES[best].label,
            rivals[best],
            values[own][0][RECIPES[own].own],
            float(np.mean(values[PARENTS][0]["accuracy"])),
        )

    def figures(self, results: Results) -> dict[str, "Figure"]:
        """Draw accuracies against proportions where they are measured, else bars."""
        done = [each for each in self.families if results.of(each.name, PARENTS, self.seeds)]
        if not done:
            return {}
        if self.points:
            return {"proportions": plot_proportions(self, [each.name for each in done], results)}
        return {"one_shot": plot_bars(self, [each.name for each in done], results)}


class _Pair(NamedTuple):
    """The best of the others, ours, and the parents' mean, of one seed."""

    name: str
    best: float
    ours: float
    parents: float
