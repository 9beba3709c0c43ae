"""`jaxfuse federate`: train one network on the examples of many clients."""

import dataclasses
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import tyro
from jax.sharding import AxisType
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from jaxfuse.checkpoints import write
from jaxfuse.cli.options import refuse_given
from jaxfuse.data import Dataset, Partition, load, partition
from jaxfuse.federated import AGGREGATORS, LOCAL_METHODS, Clients, Round, RoundConfig, federate
from jaxfuse.federated.apart import draw_apart
from jaxfuse.federated.logs import RunLogs
from jaxfuse.models import MODEL_NAMES, create
from jaxfuse.models.create import Width

if TYPE_CHECKING:
    AggregatorName = str
    LocalName = str
    ModelName = str
else:  # the command line takes the choices from the tables
    AggregatorName = Literal[tuple(AGGREGATORS)]
    LocalName = Literal[tuple(LOCAL_METHODS)]
    ModelName = Literal[MODEL_NAMES]

_STRENGTH = {"fedprox": "mu", "moon": "mu", "feddyn": "alpha", "scaffold": "server_rate"}


@dataclass(frozen=True)
class Federate:
    """Train one network on the examples of many clients, which stay where they are.

    A simulation: every round is one compiled program, in which the clients train side by side and
    the server matches their units before it averages. Writes rounds.csv, rounds.json, rounds.png,
    TensorBoard events, the split and the network. The same command goes on where it was stopped.
    """

    dataset: str = "digits"
    """digits (needs no files), mnist, cifar10, tiny_imagenet32, or another TFDS dataset of labelled
    images."""
    data_dir: Path | None = None
    """Folder of prepared TFDS datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    train_split: str = "train"
    """TFDS split to train on, such as "train[:40000]"."""
    test_split: str = "test"
    """TFDS split to evaluate on."""
    model: ModelName = "mlp"
    """Architecture."""
    width: Width = 1.0
    """Multiplier of the hidden widths; for vgg11 also half, double or quad, which scale the inner
    widths only."""
    bias: bool = False
    """Give the linear maps biases, in an MLP, LeNet or VGG."""
    norm: Literal["batch", "layer", "group"] | None = None
    """Normalisation after every hidden map; by default the paper's."""
    clients: int = 10
    """How many clients share the training examples."""
    split: str = "dirichlet"
    """How: homo, noniid-labeldir (dirichlet), noniid-#labelK (label-K), iid-diff-quantity
    (quantity), client-dirichlet (hsu), mixed; or a JSON file of a partition."""
    concentration: float = 0.5
    """Of the Dirichlet distribution of a split; small makes clients differ."""
    noise: float = 0.0
    """Standard deviation of the feature noise of the noisiest client, on pixels from 0 to 1."""
    rounds: int = 20
    """Rounds in all."""
    local: LocalName = "sgd"
    """How clients train."""
    strength: float | None = None
    """Weight of the local method's own term: mu of fedprox and moon, alpha of feddyn, the server's
    rate of scaffold. The method's default if not given."""
    aggregate: AggregatorName = "average"
    """What the server makes of the clients' networks."""
    apart: bool = False
    """Let every client begin with weights of its own, where matching matters most."""
    config: Annotated[RoundConfig, tyro.conf.arg(name="")] = field(default_factory=RoundConfig)
    """How a round goes."""
    executor: Literal["auto", "vmap", "map", "shard_map"] = "auto"
    """How clients share the machine: at once, in turn, or over devices; auto times them."""
    chunk: int = 1
    """Clients at a time, with --executor map."""
    evaluate_every: int = 1
    """Rounds between two evaluations on the test examples."""
    seed: int = 0
    """Seed of weights, split, cohorts and order of examples."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("jaxfuse-federate")
    """Folder for what is written."""
    fresh: bool = False
    """Begin anew, whatever the folder holds of this command."""

    def run(self, console: Console) -> None:
        """Train, and write what came of it."""
        options: dict[str, Any] = {}
        if self.dataset == "digits":
            given = ("data_dir", "train_split", "test_split")
            refuse_given(self, given, "has no effect on digits: they need no files")
        else:
            options = {"train_split": self.train_split, "test_split": self.test_split}
        if self.strength is not None and self.local not in _STRENGTH:
            raise ValueError(f"--strength has no effect on {self.local}, which adds no term")
        data = load(self.dataset, self.data_dir, **options)
        key = jax.random.key(self.seed)
        split = self._split(data, jax.random.fold_in(key, 0))
        clients = Clients.of(data, split)
        if self.fresh:
            shutil.rmtree(self.out / "checkpoints", ignore_errors=True)
        history, path = self._train(data, clients, split, key, console)
        table = Table("round", "accuracy", "test loss", "training loss", "clients", "kept", "s")
        for row in history:
            table.add_row(
                str(row.round),
                f"{row.accuracy:.2%}",
                f"{row.loss:.3f}",
                f"{row.train_loss:.3f}",
                f"{row.clients - row.left_out}",
                f"{row.kept:.1%}",
                f"{row.seconds:.2f}",
            )
        console.print(table)
        names = ("rounds.csv", "rounds.json", "split.json", "network.safetensors", "tensorboard")
        for file in (path, *(self.out / name for name in names)):
            console.print(f"Wrote {file}", soft_wrap=True)

    def _split(self, data: Dataset, key: jax.Array) -> Partition:
        labels = data.train_labels
        if Path(self.split).suffix:
            given = ("clients", "concentration", "noise")
            refuse_given(self, given, f"has no effect on a split that is read from {self.split}")
            return Partition.load(self.split, labels)
        return partition(
            self.split,
            labels,
            clients=self.clients,
            key=key,
            concentration=self.concentration,
            noise=self.noise,
        )

    def _train(
        self,
        data: Dataset,
        clients: Clients,
        split: Partition,
        key: jax.Array,
        console: Console,
    ) -> tuple[tuple[Round, ...], Path]:
        keys = jax.random.split(jax.random.fold_in(key, 1), 1 + clients.count)
        shape = {"input_shape": data.input_shape, "classes": data.classes, "width": self.width}
        make = {**shape, "bias": self.bias, "norm": self.norm}
        begin = draw_apart(self.model, keys[1:], **make) if self.apart else None
        devices = jax.devices()
        mesh = jax.make_mesh((len(devices),), ("clients",), (AxisType.Auto,))
        columns = (
            TextColumn("rounds"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", style="dim"),
        )
        with ExitStack() as stack:
            progress = stack.enter_context(Progress(*columns, console=console))
            logs: list[RunLogs] = []
            task = progress.add_task("", total=self.rounds, text="compiling")

            def tell(row: Round) -> None:
                text = f"accuracy {row.accuracy:.2%}, training loss {row.train_loss:.3f}"
                progress.update(task, completed=row.round, text=text)
                if not logs:
                    # Not before the first round: what another run has left here is then refused.
                    split.save(self.out / "split.json")
                    logs.append(stack.enter_context(RunLogs(self.out, _settings(self))))
                logs[0].add(row)

            result = federate(
                create(self.model, key=keys[0], **make),
                clients,
                data.test(),
                self.config,
                rounds=self.rounds,
                local=self._method(),
                aggregate=self.aggregate,
                begin=begin,
                executor=self.executor,
                chunk=self.chunk,
                mesh=mesh,
                key=jax.random.fold_in(key, 2),
                evaluate_every=self.evaluate_every,
                checkpoint_dir=self.out / "checkpoints",
                progress=tell,
            )
            write(self.out / "network.safetensors", result.params, force=True)
            title = f"{self.dataset}, {clients.count} clients: {self.local}, {self.aggregate}"
            return result.history, logs[0].plot(title)

    def _method(self) -> Any:
        method = LOCAL_METHODS[self.local]
        if self.strength is None:
            return method
        return dataclasses.replace(method, **{_STRENGTH[self.local]: self.strength})  # pyright: ignore


def _settings(command: Federate) -> dict[str, Any]:
    """Return what the command was given, as JSON has it."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(command).items()
    }
