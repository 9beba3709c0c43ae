"""Federated learning: what matched aggregation is worth, round by round."""

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxfuse.data import Dataset, load, partition
from jaxfuse.experiments.cells import Cell, Results, Values, grid
from jaxfuse.experiments.families import Scale
from jaxfuse.experiments.family import Nursery
from jaxfuse.experiments.plots import COLOURS, blank
from jaxfuse.experiments.published import published_lines
from jaxfuse.experiments.summary import column, markdown_table, mean, spread
from jaxfuse.federated import Clients, Moon, RoundConfig, federate
from jaxfuse.federated.apart import draw_apart
from jaxfuse.models import create
from jaxfuse.models.create import Width

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Contestant(NamedTuple):
    """A local method with an aggregation.

    Attributes:
        label: what its row is called.
        local: a name of `LOCAL_METHODS`.
        aggregate: a name of `AGGREGATORS`.
    """

    label: str
    local: str
    aggregate: str


CONTESTANTS: MappingProxyType[str, Contestant] = MappingProxyType(
    {
        "fedavg": Contestant("FedAvg", "sgd", "average"),
        "moon": Contestant("MOON", "moon", "average"),
        "fedma": Contestant("FedMA (fixed width)", "sgd", "fedma"),
        "ot_fusion": Contestant("OTFusion", "sgd", "ot_fusion"),
        "gamf": Contestant("GAMF, to the global network", "sgd", "gamf"),
        "gamf_moon": Contestant("GAMF + MOON", "moon", "gamf"),
        "gamf_many": Contestant("GAMF, all networks at once", "sgd", "gamf_many"),
        "matched": Contestant("jaxfuse, portfolio", "sgd", "matched"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Start:
    """A row of the table: so many clients, with what weights they begin.

    Attributes:
        name: of the row.
        clients: how many.
        apart: whether every client begins with weights of its own (FedMA's setting).
        methods: names of `CONTESTANTS`.
    """

    name: str
    clients: int
    apart: bool
    methods: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FederationTable:
    """Accuracy after every round, a row for each number of clients and way to begin.

    Attributes:
        title: what the table is about.
        dataset: name of the dataset.
        train_split: split that the clients share.
        test_split: split to evaluate on.
        model: architecture.
        width: multiplier of its widths.
        starts: the rows.
        config: of a round; equal weights for all clients and all methods.
        rounds: how many.
        concentration: of the Dirichlet split.
        mu: of MOON.
        seeds: of weights, split and order of examples.
    """

    title: str
    dataset: str
    train_split: str = "train"
    test_split: str = "test"
    model: str
    width: Width = 1.0
    starts: tuple[Start, ...]
    config: RoundConfig
    rounds: int
    concentration: float = 0.5
    mu: float = 5.0
    seeds: tuple[int, ...] = (0, 1, 2)

    def cells(self) -> list[Cell]:
        """List the methods of every row and seed."""
        return [
            cell for start in self.starts for cell in grid([start.name], start.methods, self.seeds)
        ]

    def measure(self, cell: Cell, nursery: Nursery) -> Values:
        """Run all rounds of one method."""
        start = next(start for start in self.starts if start.name == cell.row)
        contestant = CONTESTANTS[cell.method]
        data = self._data(nursery)
        key = jax.random.key(cell.seed)
        split = partition(
            "noniid-labeldir",
            data.train_labels,
            clients=start.clients,
            key=jax.random.fold_in(key, 0),
            concentration=self.concentration,
        )
        keys = jax.random.split(jax.random.fold_in(key, 1), 1 + start.clients)
        shape = {"input_shape": data.input_shape, "classes": data.classes, "width": self.width}
        begin = draw_apart(self.model, keys[1:], **shape) if start.apart else None
        result = federate(
            create(self.model, key=keys[0], **shape),
            Clients.of(data, split),
            data.test(),
            self.config,
            rounds=self.rounds,
            local=Moon(mu=self.mu) if contestant.local == "moon" else contestant.local,
            aggregate=contestant.aggregate,
            begin=begin,
            executor="vmap",
            key=jax.random.fold_in(key, 2),
            progress=lambda row: nursery.tell(
                f"{start.name}, {contestant.label}, seed {cell.seed}", row.round / self.rounds
            ),
        )
        rows = result.history
        return {
            "accuracy": [round(row.accuracy, 5) for row in rows],
            "kept": [None if np.isnan(row.kept) else round(row.kept, 5) for row in rows],
            "seconds": float(np.median([row.seconds for row in rows[1:]])),
        }

    def _data(self, nursery: Nursery) -> Dataset:
        options: Any = {}
        if self.dataset != "digits":
            options = {"train_split": self.train_split, "test_split": self.test_split}
        return load(self.dataset, nursery.data_dir, **options)

    def markdown(self, results: Results) -> str:
        """Lay out the accuracies and what the matching left in place."""
        config = self.config
        parts = [
            f"## {self.title}",
            f"Scale `{results.scale}`: {self.model} at width {self.width} of the published, "
            f"{self.dataset} (`{self.train_split}`), shared by Dirichlet({self.concentration}), "
            f"evaluated on `{self.test_split}`. {self.rounds} rounds of {config.epochs} local "
            f"epochs, batches of {config.batch_size}, SGD of learning rate "
            f"{config.learning_rate:g} and momentum {config.momentum:g}; all clients in every "
            f"round, with equal weights. MOON's mu is {self.mu:g}. Mean ± sample standard "
            f"deviation over {len(self.seeds)} seed(s), in percent. In place: the share of units "
            "that the matching left where they were, in the first round and over the others; a "
            "dash where units are merged. Seconds of a round, the median, compiled.",
        ]
        head = (
            "method",
            "first round",
            f"round {self.rounds}",
            "best round",
            "in place, first",
            "in place, later",
            "seconds",
        )
        for start in self.starts:
            rows = []
            for method in start.methods:
                values = results.of(start.name, method, self.seeds)
                if values:
                    rows.append(_row(CONTESTANTS[method].label, values))
            body = markdown_table(head, rows) if rows else "Not run."
            parts += [f"### {start.name}", body]
        return "\n\n".join([*parts, *published_lines("federation")]) + "\n"

    def figures(self, results: Results) -> dict[str, "Figure"]:
        """Draw accuracy against rounds, a panel for each row."""
        columns = 2 if len(self.starts) > 1 else 1
        lines = -(-len(self.starts) // columns)
        figure = blank(5.2 * columns, 3.4 * lines + 0.8)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        known: dict[str, Any] = {}
        for panel, start in zip(panels, self.starts, strict=False):
            for index, (name, contestant) in enumerate(CONTESTANTS.items()):
                values = results.of(start.name, name, self.seeds)
                if not values:
                    continue
                middle = 100 * np.mean(column(values, "accuracy"), axis=0)
                (line,) = panel.plot(
                    np.arange(1, len(middle) + 1),
                    middle,
                    color=COLOURS[index % len(COLOURS)],
                    marker="osD^vPX*"[index % 8],
                    markersize=3.5,
                    linewidth=2.0 if name == "matched" else 1.2,
                )
                known.setdefault(contestant.label, line)
            panel.set_title(start.name, loc="left", fontsize=10)
            panel.set(xlabel="round", ylabel="accuracy, %")
            panel.grid(alpha=0.3)
        for panel in panels[len(self.starts) :]:
            panel.set_visible(False)
        figure.legend(
            list(known.values()),
            list(known),
            loc="outside lower center",
            ncols=1 + columns,
            frameon=False,
            fontsize=8,
        )
        return {"rounds": figure}


def _row(label: str, values: list[Values]) -> list[str]:
    curves = column(values, "accuracy")
    kept = column(values, "kept")
    return [
        label,
        spread(curve[0] for curve in curves),
        spread(curve[-1] for curve in curves),
        spread(max(curve) for curve in curves),
        spread([mean(each[0] for each in kept)], digits=1),
        spread([mean(share for each in kept for share in each[1:])], digits=1),
        spread([mean(column(values, "seconds"))], factor=1, digits=2),
    ]


def clients(scale: Scale) -> FederationTable:
    """Return GAMF's figure 5 and table 5: clients that begin with the same weights."""
    # Joint matchings are programs that grow with the clients.
    methods = tuple(name for name in CONTESTANTS if name != "gamf_many")
    counts = (5,) if scale == "ci" else (5, 10, 16, 20)
    starts = tuple(
        Start(
            name=f"{count} clients",
            clients=count,
            apart=False,
            methods=tuple(CONTESTANTS) if count == 5 else methods,
        )
        for count in counts
    )
    return _table(scale, "Clients that begin with the same weights", starts)


def apart(scale: Scale) -> FederationTable:
    """Return FedMA's setting: every client begins with weights of its own."""
    methods = tuple(name for name in CONTESTANTS if "moon" not in name)
    count = 4 if scale == "ci" else 10
    start = Start(
        name=f"{count} clients, each with weights of its own",
        clients=count,
        apart=True,
        methods=methods,
    )
    return _table(scale, "Clients that begin apart", (start,))


def _table(scale: Scale, title: str, starts: tuple[Start, ...]) -> FederationTable:
    if scale == "ci":
        return FederationTable(
            title=title,
            dataset="digits",
            model="mlp",
            width=0.25,
            starts=starts,
            config=RoundConfig(epochs=5, batch_size=32, learning_rate=0.02, weighting="uniform"),
            rounds=5,
            mu=1.0,
            seeds=(0,),
        )
    config = RoundConfig(epochs=5, weighting="uniform")
    if scale == "cpu":
        return FederationTable(
            title=title,
            dataset="mnist",
            train_split="train[:6000]",
            model="mlp",
            width=0.25,
            starts=starts,
            config=config,
            rounds=15,
            mu=1.0,
        )
    return FederationTable(
        title=title,
        dataset="cifar10",
        train_split="train[:40000]",
        test_split="train[40000:]",
        model="vgg11",
        starts=starts,
        config=dataclasses.replace(config, epochs=10, augment=True),
        rounds=55,
    )


FEDERATED_TABLES = MappingProxyType({"clients": clients, "apart": apart})
"""By name: from the scale to the table."""
