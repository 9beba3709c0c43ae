"""`jaxfuse fuse`: K checkpoints in, one network out."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console

from jaxfuse.align import AFFINITIES
from jaxfuse.atomic import write_text
from jaxfuse.checkpoints import convert, read, write
from jaxfuse.checkpoints.write import check_writable
from jaxfuse.cli.model import Model, fit_model
from jaxfuse.cli.options import refuse_given
from jaxfuse.cli.progress import Bars, bars
from jaxfuse.data import load
from jaxfuse.fusion import fuse, invert
from jaxfuse.fusion.average import normalise_weights
from jaxfuse.methods import METHODS
from jaxfuse.models import MODEL_NAMES
from jaxfuse.models.create import Width
from jaxfuse.reporting import compare, comparison_table, plot_barriers
from jaxfuse.symmetry import Symmetry, infer_chain, infer_symmetry
from jaxfuse.symmetry.chain import read_chain
from jaxfuse.symmetry.chain.layers import REMEDY

PyTree = Any
if TYPE_CHECKING:
    AffinityName = str
    MethodName = str
    ModelName = str
else:  # the command line takes the choices from the tables
    AffinityName, MethodName = Literal[tuple(AFFINITIES)], Literal[tuple(METHODS)]
    ModelName = Literal[MODEL_NAMES]


@dataclass(frozen=True)
class Fuse:
    """Align the networks of several checkpoints to the first and fuse them into one."""

    checkpoints: tyro.conf.Positional[tuple[Path, ...]]
    """Two or more: .safetensors files or orbax folders, in Flax's or PyTorch's layout."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Where the fused network goes, in the layout of the first: a .safetensors file, or an orbax
    folder if the name has no suffix."""
    force: bool = False
    """Replace the output if it exists and is a checkpoint of the same format."""
    weights: tuple[float, ...] | None = None
    """Share of each network, normalised to sum to one; equal by default."""
    affinity: AffinityName = "linear"
    """How edges are compared in the network that is written."""
    method: MethodName = "portfolio"
    """How the matching is found."""
    inverted: int | None = None
    """Number of images to make by inverting the networks, which takes no data; 1000 do. Units are
    matched by their activations on these too, and every layer is fitted to its parents' there. For
    classifiers; needs --model."""
    channels: int | None = None
    """Channels of the input images, 1 for grey ones and vectors. Needed without --evaluate where
    networks with a dense first map come in different layouts, whose images are in other orders."""
    model: ModelName | None = None
    """Architecture, whose symmetry is traced; needed for all but feed-forward chains, and to
    evaluate."""
    width: Width = 1.0
    """Multiplier of the model's hidden widths; for vgg11 also half, double or quad, which scale
    the inner widths only."""
    norm: Literal["batch", "layer", "group"] | None = None
    """Normalisation of the model. By default batch or layer, by what the first checkpoint holds;
    group must be named, as its parameters look like those of layer, and without --evaluate both."""
    evaluate: str | None = None
    """Dataset to evaluate on: digits, mnist, cifar10, or another TFDS dataset."""
    data_dir: Path | None = None
    """Folder of prepared TFDS datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    test_split: str = "test"
    """TFDS split to evaluate on."""
    report: Path | None = None
    """Folder for barrier.png and results.json of the evaluation."""

    def run(self, console: Console) -> None:
        """Fuse, write, and print what was made."""
        self._check()
        loaded = [read(path) for path in self.checkpoints]
        with bars(console) as progress:
            if self.evaluate is None:
                progress.update(f"aligning {len(loaded)} networks", 0.0)
                fused = self._fuse(loaded)
                progress.update(f"aligning {len(loaded)} networks", 1.0)
                summary = None
            else:
                fused, summary = self._compare(loaded, progress)
            write(self.output, fused, force=self.force)
        if summary is not None:
            summary(console)
        console.print(
            f"Wrote {self.output}, fused from {len(loaded)} networks ({self.affinity} affinity)",
            soft_wrap=True,
        )
        if summary is None:
            console.print("Its accuracy was not measured: pass --model and --evaluate DATASET")

    def _check(self) -> None:
        """Refuse what can't work before anything slow begins."""
        if len(self.checkpoints) < 2:
            raise ValueError("give two checkpoints or more to fuse")
        if self.weights is not None and len(self.weights) != len(self.checkpoints):
            raise ValueError(
                f"got {len(self.weights)} weights for {len(self.checkpoints)} checkpoints: give "
                "one for each"
            )
        if self.evaluate is not None and self.model is None:
            raise ValueError(f"--evaluate needs --model, to run the networks: {_MODELS}")
        normalise_weights(self.weights, len(self.checkpoints))  # refuses negative ones and others
        if self.model is None:
            refuse_given(self, ("width", "norm", "inverted"), f"needs --model: {_MODELS}")
        if self.evaluate is None:
            options = ("data_dir", "test_split", "report")
            refuse_given(self, options, "needs --evaluate DATASET")
        else:
            refuse_given(self, ("channels",), "has no effect with --evaluate: the images tell")
        if self.evaluate == "digits":
            options = ("data_dir", "test_split")
            refuse_given(self, options, "has no effect on digits: they need no files")
        for name in ("channels", "inverted"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be 1 or more, got {value}")
        check_writable(self.output, force=self.force)

    def _fuse(self, loaded: list[PyTree]) -> PyTree:
        """Fuse without data, in the symmetry of the model or of the chain that the tree shows."""
        channels = self.channels or 1
        first, model = loaded[0], None
        if self.model is None:
            like, symmetry = first, _read_symmetry(first)
        else:
            model = fit_model(self.model, first, width=self.width, norm=self.norm)
            images = jax.ShapeDtypeStruct((2, *model.input_shape), jnp.float32)
            like = model.template
            symmetry = infer_symmetry(model.apply_fn, like, images)
        self._check_input_order(loaded)
        networks = [
            tree
            if jax.tree.structure(tree) == jax.tree.structure(like)
            else convert(tree, like, channels=channels)
            for tree in loaded
        ]
        fused = fuse(
            networks,
            self.weights,
            symmetry=symmetry,
            affinity=self.affinity,
            method=self.method,
            **({} if model is None else self._looks(model, networks)),
        )
        return fused if like is first else convert(fused, first, channels=channels)

    def _looks(self, model: Model, networks: list[PyTree]) -> dict[str, Any]:
        """Return what alignment and repair look at besides weights."""
        if self.inverted is None:
            return {}
        shape = jax.ShapeDtypeStruct((self.inverted, *model.input_shape), jnp.float32)
        return {"apply_fn": model.apply_fn, "inputs": invert(model.apply_fn, networks, shape)}

    def _check_input_order(self, loaded: list[PyTree]) -> None:
        """Refuse chains of two layouts where nothing tells the order of a dense map's inputs."""
        if self.channels is not None:
            return
        try:
            chains = [read_chain(tree) for tree in loaded]
        except ValueError:
            return  # other networks are converted by names, which refuses what they don't tell
        if chains[0].kernels[0].is_convolution:
            return
        for chain, path in zip(chains, self.checkpoints, strict=True):
            if chain.input_major != chains[0].input_major:
                raise ValueError(
                    f"{path} and {self.checkpoints[0]} have different layouts, and no parameter "
                    "tells the order of the inputs: give the --channels of the input images (1 "
                    "for grey ones and vectors), or --evaluate DATASET"
                )

    def _compare(
        self, loaded: list[PyTree], progress: Bars
    ) -> tuple[PyTree, Callable[[Console], None]]:
        assert self.evaluate is not None
        assert self.model is not None
        data = load(
            self.evaluate,
            self.data_dir,
            **({} if self.evaluate == "digits" else {"test_split": self.test_split}),
            progress=lambda done, total: progress.update("reading the data", done / total),
        )
        model = fit_model(
            self.model,
            loaded[0],
            width=self.width,
            norm=self.norm,
            input_shape=data.input_shape,
            classes=data.classes,
        )
        channels = data.input_shape[-1]
        networks = [convert(tree, model.template, channels=channels) for tree in loaded]
        images, labels = data.test()
        if self.inverted is not None:
            progress.update("inverting the networks", 0.0)
        inputs = jax.block_until_ready(self._looks(model, networks).get("inputs"))
        if self.inverted is not None:
            progress.update("inverting the networks", 1.0)
        comparison = compare(
            networks,
            model.apply_fn,
            images,
            labels,
            affinities={name: AFFINITIES[name] for name in ("linear", "gaussian", self.affinity)},
            method=self.method,
            inputs=inputs,
            weights=self.weights,
            names=[path.name for path in self.checkpoints],
            progress=lambda text, share: progress.update("aligning and fusing", share, text),
        )
        title = f"{self.model} on {self.evaluate}, {len(labels)} test examples"

        def summary(console: Console) -> None:
            console.print(comparison_table(comparison.rows, title))
            if self.report is not None:
                picture, results = self.report / "barrier.png", self.report / "results.json"
                if comparison.curves:
                    plot_barriers(comparison.curves, picture, title)
                    console.print(
                        f"The loss between the networks is drawn in {picture}", soft_wrap=True
                    )
                rows = [asdict(row) for row in comparison.rows]
                write_text(results, json.dumps({"title": title, "rows": rows}, indent=1))
                console.print(f"All figures are in {results}", soft_wrap=True)

        fused = convert(comparison.fused[self.affinity], loaded[0], channels=channels)
        return fused, summary


_MODELS = f"one of {', '.join(MODEL_NAMES)}"


def _read_symmetry(params: PyTree) -> Symmetry:
    """Read the symmetry of a chain off its tree; say what to do for another network."""
    try:
        return infer_chain(params)
    except ValueError as error:
        reason = str(error).removesuffix(REMEDY).strip()
        raise ValueError(f"{reason} Name its architecture with --model: {_MODELS}") from None
