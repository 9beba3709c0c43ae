"""`jaxfuse demo`: train two networks, align them, fuse them, compare."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import tyro
from rich.console import Console

from jaxfuse.align import AFFINITIES
from jaxfuse.atomic import write_text
from jaxfuse.cli.options import refuse_given
from jaxfuse.cli.progress import Bars, bars
from jaxfuse.data import Dataset, dirichlet, homogeneous, load, personalised
from jaxfuse.models import MODEL_NAMES, create, functional
from jaxfuse.models.create import Width
from jaxfuse.reporting import Comparison, compare, comparison_table, plot_barriers
from jaxfuse.training import recommended_config, train

if TYPE_CHECKING:
    ModelName = str
else:  # the command line takes the choices from the table
    ModelName = Literal[MODEL_NAMES]


@dataclass(frozen=True)
class Demo:
    """Train two networks from different seeds, align them, fuse them, and compare the results."""

    dataset: str = "digits"
    """digits (needs no files), mnist, cifar10, or another TFDS dataset of labelled images."""
    data_dir: Path | None = None
    """Folder of prepared TFDS datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    train_split: str = "train"
    """TFDS split to train on, such as "train[:40000]"."""
    test_split: str = "test"
    """TFDS split to evaluate on."""
    model: ModelName = "mlp"
    """Architecture of both networks."""
    width: Width = 1.0
    """Multiplier of the hidden widths; for vgg11 also half, double or quad, which scale the inner
    widths only."""
    bias: bool = False
    """Give the linear maps biases, in an MLP, LeNet or VGG."""
    norm: Literal["batch", "layer", "group"] | None = None
    """Normalisation after every hidden map; by default the paper's, which is none for MLP, LeNet
    and VGG. In group normalisation units move within a group, and groups as wholes."""
    split: Literal["homogeneous", "personalised", "dirichlet"] = "homogeneous"
    """What each network is trained on: all the data; one class and a tenth of the rest against
    what is left; or a Dirichlet(0.5) share of every class."""
    epochs: int | None = None
    """Epochs of training; by default what suits the dataset and model."""
    seed: int = 0
    """Seed of weights, order of examples and split."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("jaxfuse-demo")
    """Folder for the picture, the results and, for TFDS data, the training checkpoints."""

    def run(self, console: Console) -> None:
        """Run the demo and print its table."""
        self._check()
        with bars(console) as progress:
            data = load(
                self.dataset,
                self.data_dir,
                **({} if self.dataset == "digits" else self._splits()),
                progress=lambda done, total: progress.update("reading the data", done / total),
            )
            parents, apply_fn = self._train(data, progress)
            images, labels = data.test()
            comparison = compare(
                parents,
                apply_fn,
                images,
                labels,
                affinities={name: AFFINITIES[name] for name in ("linear", "gaussian")},
                progress=lambda text, share: progress.update("aligning and fusing", share, text),
            )
        self._report(comparison, len(labels), console)

    def _check(self) -> None:
        """Refuse what can't work before anything slow begins."""
        if self.dataset == "digits":
            options = ("data_dir", "train_split", "test_split")
            refuse_given(self, options, "has no effect on digits: they need no files")

    def _splits(self) -> dict[str, Any]:
        return {"train_split": self.train_split, "test_split": self.test_split}

    def _train(self, data: Dataset, progress: Bars) -> tuple[list[Any], Any]:
        split_key, *seeds = jax.random.split(jax.random.key(self.seed), 3)
        shares = {
            "homogeneous": lambda: homogeneous(data.train_labels),
            "personalised": lambda: personalised(data.train_labels, key=split_key),
            "dirichlet": lambda: dirichlet(data.train_labels, key=split_key),
        }[self.split]()
        config = recommended_config(self.dataset, self.model)
        if self.epochs is not None:
            config = dataclasses.replace(config, epochs=self.epochs)
        images, labels = data.train()
        parents, apply_fn = [], None
        for index, (seed, share) in enumerate(zip(seeds, shares, strict=True)):
            name = f"training network {index}"
            progress.update(name, 0.0, "compiling")
            weights_key, order_key = jax.random.split(seed)
            module = create(
                self.model,
                input_shape=data.input_shape,
                classes=data.classes,
                width=self.width,
                bias=self.bias,
                norm=self.norm,
                key=weights_key,
            )
            apply_fn, _ = functional(module)
            result = train(
                module,
                images[share],
                labels[share],
                config,
                key=order_key,
                checkpoint_dir=self._checkpoints(index),
                progress=lambda step, steps, loss, name=name: progress.update(
                    name, step / steps, f"loss {loss:.3f}"
                ),
            )
            parents.append(result.params)
        return parents, apply_fn

    def _checkpoints(self, index: int) -> Path | None:
        """Say where a training that takes longer than seconds is resumed from."""
        if self.dataset == "digits":
            return None
        options = (self.dataset, self.model, self.width, self.bias, self.norm, self.split)
        run = "-".join(str(option) for option in (*options, self.epochs, self.seed))
        return self.out / "checkpoints" / run / str(index)

    def _report(self, comparison: Comparison, examples: int, console: Console) -> None:
        model = self.model if self.width == 1 else f"{self.model} at width {self.width}"
        title = f"{model} on {self.dataset}, two seeds, {examples} test examples"
        picture, results = self.out / "barrier.png", self.out / "results.json"
        plot_barriers(comparison.curves, picture, title)
        settings = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self).items()
        }
        rows = [dataclasses.asdict(row) for row in comparison.rows]
        curves = [dataclasses.asdict(curve) for curve in comparison.curves]
        write_text(
            results, json.dumps({"settings": settings, "rows": rows, "curves": curves}, indent=1)
        )
        console.print(comparison_table(comparison.rows, title))
        console.print(f"The loss between the networks is drawn in {picture}", soft_wrap=True)
        console.print(f"All figures are in {results}", soft_wrap=True)
