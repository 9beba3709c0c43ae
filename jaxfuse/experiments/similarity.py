"""First- against second-order similarity: which tells how good a matching is?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxfuse.affinity import Gaussian, Linear
from jaxfuse.experiments.cells import Cell, Results, Values, grid
from jaxfuse.experiments.family import Family, Nursery
from jaxfuse.experiments.plots import blank
from jaxfuse.experiments.published import published_lines
from jaxfuse.experiments.recipes import RECIPES, align
from jaxfuse.experiments.scores import accuracy
from jaxfuse.experiments.summary import markdown_table, spread
from jaxfuse.fusion import average
from jaxfuse.matching import build_problem
from jaxfuse.symmetry import permute

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RESAMPLES = 2000
_FEWEST = 5  # points of a seed that a correlation is taken of
ORDERS = {"linear": "first order (linear)", "gaussian": "second order (Gaussian)"}


@dataclass(frozen=True, kw_only=True)
class SimilarityTable:
    """Random perturbations of matchings: their similarity and the accuracy of the average.

    Of every group a share of the units, drawn at random, changes places in a cycle.

    Attributes:
        title: what the table is about.
        families: pairs of networks.
        methods: recipes whose matchings are perturbed.
        seeds: of the parents.
        shares: of the units that change places.
        draws: perturbations for each share.
    """

    title: str
    families: tuple[Family, ...]
    methods: tuple[str, ...] = ("jaxfuse_weights", "gamf")
    seeds: tuple[int, ...] = (0, 1, 2)
    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
    draws: int = 4

    def cells(self) -> list[Cell]:
        """List the matchings of every family and seed."""
        return grid([family.name for family in self.families], self.methods, self.seeds)

    def measure(self, cell: Cell, nursery: Nursery) -> Values:
        """Measure both similarities and the accuracy of all perturbations of one matching."""
        family = next(family for family in self.families if family.name == cell.row)
        parents = nursery.parents(family, cell.seed)
        a, b = parents.params
        symmetry = parents.symmetries[0]
        recipe = RECIPES[cell.method]
        found: Any = align(recipe, parents, parents.unlabelled(2))
        problems = {
            "linear": build_problem(a, b, symmetry, Linear()),
            "gaussian": build_problem(a, b, symmetry, Gaussian()),
        }
        generator = np.random.default_rng(cell.seed)
        values: dict[str, list[float]] = {name: [] for name in ("share", *problems, "accuracy")}
        plan = [0.0, *(share for share in self.shares for _ in range(self.draws))]
        for share in plan:
            orders = {
                group: _perturb(np.asarray(order), share, generator)
                for group, order in found.permutations.items()
            }
            values["share"].append(share)
            for name, problem in problems.items():
                values[name].append(float(problem.objective_at(orders)))
            params = average([a, permute(b, symmetry, orders)])
            values["accuracy"].append(accuracy(parents, params))
        return values

    def markdown(self, results: Results) -> str:
        """Lay out the rank correlations."""
        parts = [f"## {self.title}", self._about(results)]
        rows = []
        for family in self.families:
            for which, wanted in (("all", 1.0), ("of a tenth of the units or less", 0.1)):
                for order, label in ORDERS.items():
                    points = self._points(family.name, results, order, wanted)
                    if points is None:
                        continue
                    found = rank_correlation(points.similarity, points.accuracy)
                    rows.append(
                        [
                            family.name,
                            which,
                            label,
                            f"{found.value:.3f}",
                            f"{found.low:.3f} to {found.high:.3f}",
                            spread(points.by_seed, factor=1, digits=3),
                            str(len(points.accuracy)),
                        ]
                    )
        head = ["parents", "perturbations", "similarity", "Spearman", "95 % interval"]
        parts.append(markdown_table([*head, "by seed", "points"], rows, words=3))
        parts += published_lines("similarity")
        return "\n\n".join(parts) + "\n"

    def _about(self, results: Results) -> str:
        family = self.families[0]
        return (
            f"Scale `{results.scale}`: {family.dataset}, {family.model}, evaluated on "
            f"`{family.test_split}`, {len(self.seeds)} seeds. The matchings found by "
            f"{' and '.join(RECIPES[name].label for name in self.methods)}, with a share of the "
            f"units of every layer in each other's places: {self.draws} draws of each of "
            f"{', '.join(map(str, self.shares))}. Accuracy is that of the bare average. Points "
            "are pooled over seeds, each seed's ranks on a scale of 0 to 1; the interval is a "
            f"percentile bootstrap over the points, {_RESAMPLES} resamples."
        )

    def _points(self, row: str, results: Results, order: str, largest: float) -> "_Points | None":
        similarity, accuracies, by_seed = [], [], []
        for seed in self.seeds:
            found = [results.of(row, method, (seed,)) for method in self.methods]
            if not all(found):
                continue
            both = np.concatenate(
                [
                    np.stack([each[0][order], each[0]["accuracy"], each[0]["share"]])
                    for each in found
                ],
                axis=1,
            )
            both = both[:, both[2] <= largest]
            if both.shape[1] < _FEWEST:
                continue
            # Networks of different seeds have objectives of different sizes: ranks are comparable.
            ranks = [stats.rankdata(line) / both.shape[1] for line in both[:2]]
            similarity.append(ranks[0])
            accuracies.append(ranks[1])
            by_seed.append(_spearman(*both[:2]))
        if not similarity:
            return None
        return _Points(np.concatenate(similarity), np.concatenate(accuracies), by_seed)

    def figures(self, results: Results) -> dict[str, "Figure"]:
        """Draw accuracy against both similarities, one panel each, a colour a seed."""
        cells = [cell for cell in self.cells() if cell in results.cells]
        if not cells:
            return {}
        figure = blank(9.0, 3.0 * len(self.families) + 0.4)
        panels = figure.subplots(len(self.families), 2, squeeze=False)
        colours = ("#0072B2", "#D55E00", "#009E73")
        for line, family in zip(panels, self.families, strict=True):
            for panel, (order, label) in zip(line, ORDERS.items(), strict=True):
                for cell in cells:
                    if cell.row != family.name:
                        continue
                    values = results.cells[cell]
                    place = self.seeds.index(cell.seed) % len(colours)
                    panel.scatter(
                        values[order],
                        100 * np.array(values["accuracy"]),
                        s=12,
                        alpha=0.7,
                        color=colours[place],
                        marker="os^v"[self.methods.index(cell.method) % 4],
                    )
                panel.set(xlabel=f"similarity, {label}", ylabel="accuracy of the average, %")
                shapes = zip(("circles", "squares", "triangles"), self.methods, strict=False)
                told = ", ".join(f"{shape}: {RECIPES[name].label}" for shape, name in shapes)
                panel.set_title(f"{family.name}\ncolours: seeds, {told}", loc="left", fontsize=8)
                panel.grid(alpha=0.3)
        return {"similarity": figure}


class Correlation(NamedTuple):
    """Spearman's rank correlation with a 95 % interval."""

    value: float
    low: float
    high: float


class _Points(NamedTuple):
    similarity: np.ndarray
    accuracy: np.ndarray
    by_seed: list[float]


def rank_correlation(x: np.ndarray, y: np.ndarray, resamples: int = _RESAMPLES) -> Correlation:
    """Return Spearman's correlation and its percentile bootstrap interval over the points.

    Examples:
        >>> found = rank_correlation(np.arange(20.0), np.arange(20.0) ** 3, 100)
        >>> found.value, found.low
        (1.0, 1.0)
    """
    # The name of this argument changed in SciPy 1.15, which takes the old one too.
    seeded: dict[str, Any] = {"random_state": np.random.default_rng(0)}
    found = stats.bootstrap(
        (x, y),
        _spearman,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=resamples,
        **seeded,
    )
    low, high = found.confidence_interval
    return Correlation(_spearman(x, y), float(low), float(high))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    found: Any = stats.spearmanr(x, y)
    return float(round(found.statistic, 12))


def _perturb(order: np.ndarray, share: float, generator: np.random.Generator) -> jax.Array:
    """Let a share of the entries, at least two unless it is zero, change places in a cycle."""
    order = order.copy()
    if share > 0:
        count = max(2, round(share * len(order)))
        places = generator.permutation(len(order))[:count]
        order[places] = order[np.roll(places, 1)]
    return jnp.asarray(order, jnp.int32)
