"""Every matcher on real pairs: one-shot accuracy at one half, barrier, objective, seconds.

Run from the root of the repository, with TFDS_DATA_DIR and the folder of the published networks:
`python -m benchmarks.matchers --checkpoints FOLDER`. Rows that the JSON file holds are kept.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from benchmarks.record import write_json
from jaxfuse import (
    Linear,
    SinkhornRebasin,
    StraightThrough,
    Symmetry,
    align_params,
    average,
    build_problem,
    fuse,
    infer_symmetry,
)
from jaxfuse.atomic import write_text
from jaxfuse.checkpoints import convert, read
from jaxfuse.cli.model import fit_model
from jaxfuse.connectivity import interpolate
from jaxfuse.data import load, load_tfds
from jaxfuse.fusion.repair import LeastSquares, RepairActivations, ResetStatistics
from jaxfuse.methods import METHODS, AnyMethod
from jaxfuse.models import create, functional
from jaxfuse.status import Status
from jaxfuse.symmetry.axes import is_statistic
from jaxfuse.symmetry.tree import named_leaves
from jaxfuse.training import recommended_config, train

PyTree = Any
RESULTS = Path(__file__).parent / "results"
IMAGES = 1000  # unlabelled training images that methods and repairs may look at
NOISE = 4000  # samples of noise for the repair without data
# Inside a loop XLA compiles gradients of convolutions badly on a CPU, so on
# convolutional networks these take fewer and smaller steps.
SHORT: dict[str, AnyMethod] = {
    "sinkhorn_rebasin_midpoint": SinkhornRebasin("midpoint", steps=10, batch_size=50),
    "straight_through": StraightThrough(steps=10, batch_size=50),
}
# Schemes that are "portfolio" for two networks, entry by entry (tests/many/test_schemes.py).
SAME_FOR_TWO = ("all_to_one", "sequential", "hierarchical")
POINTS = 5  # of the line between two networks
BATCH = 500


class Pair(NamedTuple):
    """Two trained networks, unlabelled images to match on, and the test set that judges."""

    name: str
    params: tuple[PyTree, PyTree]
    apply_fn: Any
    symmetry: Symmetry
    fit: jax.Array
    targets: jax.Array
    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Row:
    """One method on one pair; accuracies are shares of correct test images at one half.

    Attributes:
        pair: the pair.
        method: the name in `jaxfuse.methods.METHODS`.
        data: whether the matching has seen the unlabelled images.
        average: the bare average of the aligned networks.
        norm: after `repair="norm"`, without data.
        noise: after the layerwise regression on noise in place of inputs, without data; for
            networks without running statistics.
        repaired: after REPAIR with images, or the reset of running statistics where there are some.
        fitted: after the layerwise regression, with images.
        barrier: largest rise of the loss over the line between the end points' losses, at five
            points.
        objective: the linear weight objective of the permutations, whatever the method maximised.
        seconds: of a second call, compiled.
        compile_seconds: of the first call, less the second.
        status: what the matching says of itself.
    """

    pair: str
    method: str
    data: bool
    average: float
    norm: float | None
    noise: float | None
    repaired: float | None
    fitted: float | None
    barrier: float | None
    objective: float | None
    seconds: float
    compile_seconds: float
    status: str


@dataclass(frozen=True)
class Config:
    """Compare the matchers on real pairs.

    Attributes:
        checkpoints: folder of the published networks; pairs that need it are left out without.
        data_dir: folder of prepared TFDS datasets.
        pairs: pattern of pairs: mnist, resnet20, digits_mlp, digits_lenet.
        only: pattern of methods.
        seeds: pairs of networks trained for each digits model.
        json: file for the results; rows that it holds are kept.
        markdown: file for the table.
        fresh: measure all rows again.
    """

    checkpoints: Path | None = Path(os.environ.get("JAXFUSE_CHECKPOINTS", "checkpoints"))
    data_dir: Path | None = None
    pairs: str = "*"
    only: str = "*"
    seeds: int = 3
    json: Path = RESULTS / "matchers.json"
    markdown: Path = RESULTS / "matchers.md"
    fresh: bool = False


def pairs(config: Config) -> Iterator[Pair]:
    """Make the pairs that are asked for, one at a time."""
    for name, make in (("mnist", mnist_pair), ("resnet20", resnet_pair)):
        if fnmatch(name, config.pairs) and config.checkpoints and config.checkpoints.is_dir():
            yield make(config.checkpoints, config.data_dir)
    for model in ("mlp", "lenet"):
        for seed in range(config.seeds):
            if fnmatch(f"digits_{model}", config.pairs):
                yield digits_pair(model, seed)


def digits_pair(model: str, seed: int) -> Pair:
    data = load("digits")
    settings, networks = recommended_config("digits", model), []
    for key in jax.random.split(jax.random.key(seed)):
        weights, order = jax.random.split(key)
        module = create(model, input_shape=data.input_shape, classes=data.classes, key=weights)
        networks.append((train(module, *data.train(), settings, key=order).params, module))
    apply_fn, _ = functional(networks[0][1])
    images, labels = data.train()
    test = data.test()
    return _pair(f"digits_{model}_{seed}", [p for p, _ in networks], apply_fn, images, labels, test)


def mnist_pair(folder: Path, data_dir: Path | None) -> Pair:
    data = load("mnist", data_dir)
    raw = [read(folder / f"mnist_mlp_{index}.safetensors") for index in range(2)]
    model = fit_model(
        "mlp", raw[0], width=1.0, norm=None, input_shape=data.input_shape, classes=data.classes
    )
    params = [convert(tree, model.template, channels=1) for tree in raw]
    return _pair("mnist", params, model.apply_fn, *data.train(), data.test())


def resnet_pair(folder: Path, data_dir: Path | None) -> Pair:
    """The published ResNet-20 pair, whose images are normalised by ImageNet's statistics."""
    data = load_tfds("cifar10", data_dir, train_split=f"train[:{IMAGES}]")
    data = replace(data, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    raw = [read(folder / f"resnet20_cifar10_{index}.safetensors") for index in range(2)]
    model = fit_model("resnet20", raw[0], width=1.0, norm=None)
    params = [convert(tree, model.template, channels=3) for tree in raw]
    return _pair("resnet20", params, model.apply_fn, *data.train(), data.test())


def _pair(
    name: str,
    params: Sequence[PyTree],
    apply_fn: Any,
    images: np.ndarray,
    labels: np.ndarray,
    test: tuple[np.ndarray, np.ndarray],
) -> Pair:
    a, b = params
    fit, targets = jnp.asarray(images[:IMAGES]), jnp.asarray(labels[:IMAGES])
    symmetry = infer_symmetry(apply_fn, a, fit[:2])
    return Pair(name, (a, b), apply_fn, symmetry, fit, targets, *test)


class Judge:
    """Evaluates networks of one architecture on the test set of a pair."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.has_statistics = any(map(is_statistic, named_leaves(pair.params[0])))
        self._batch = jax.jit(self._sums)

    def _sums(self, params: PyTree, images: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        logits = jax.nn.log_softmax(self.pair.apply_fn(params, images))
        chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)
        return jnp.sum(jnp.argmax(logits, axis=1) == labels), -jnp.sum(chosen)

    def __call__(self, params: PyTree) -> tuple[float, float]:
        """Return the accuracy and the mean loss."""
        images, labels = self.pair.images, self.pair.labels
        sums = [
            self._batch(params, images[i : i + BATCH], labels[i : i + BATCH])
            for i in range(0, len(labels), BATCH)
        ]
        correct, loss = (sum(float(part[i]) for part in sums) / len(labels) for i in (0, 1))
        return correct, loss

    def barrier(self, other: PyTree) -> float:
        """Return the rise of the loss over the straight line, statistics reset on the way."""
        ts, losses = np.linspace(0, 1, POINTS), []
        for t in ts:
            point = interpolate(self.pair.params[0], other, float(t))
            if self.has_statistics and 0 < t < 1:
                point = self.reset(point)
            losses.append(self(point)[1])
        line = (1 - ts) * losses[0] + ts * losses[-1]
        return float(np.max(np.array(losses) - line))

    def reset(self, params: PyTree) -> PyTree:
        """Measure the running statistics anew, on the unlabelled images."""
        return fuse(
            [params],
            symmetry=self.pair.symmetry,
            apply_fn=self.pair.apply_fn,
            inputs=self.pair.fit,
            repair=ResetStatistics(),
        )


def measure(pair: Pair, judge: Judge, method: str, data: bool) -> Row:
    """Align the pair with one method, fuse it with every repair, and evaluate."""
    entry = METHODS[method]
    chosen = entry.method
    if any(leaf.ndim == 4 for leaf in jax.tree.leaves(pair.params[0])):
        chosen = SHORT.get(method, chosen)
    inputs = pair.fit if data else None
    call = functools.partial(
        align_params,
        *pair.params,
        method=chosen,
        symmetry=pair.symmetry,
        apply_fn=pair.apply_fn if data else None,
        inputs=inputs,
        targets=pair.targets if entry.data == "targets" else None,
        key=jax.random.key(0),
    )
    first = float(call().seconds)
    alignment = call()
    seconds = float(alignment.seconds)
    make = functools.partial(
        fuse, pair.params, None, alignment, symmetry=pair.symmetry, apply_fn=pair.apply_fn
    )
    noise = jax.ShapeDtypeStruct((NOISE, *pair.fit.shape[1:]), jnp.float32)
    repaired = ResetStatistics() if judge.has_statistics else RepairActivations()

    by_maps = alignment.maps is not None
    # Other maps take network B to another function: there is no line between the two.
    keeps_function = not by_maps or method in ("procrustes", "scale")

    def score(**options: Any) -> float | None:
        try:
            return judge(make(**options))[0]
        except ValueError:
            # Maps may leave units that not all networks have, which no repair but a reset takes.
            if not by_maps:
                raise
            return None

    objective = None
    if not by_maps:
        problem = build_problem(pair.params[0], alignment.params, pair.symmetry, Linear())
        objective = float(problem.objective_at(problem.identity()))
    return Row(
        pair.name,
        method,
        data,
        average=judge(make(repair=None))[0],
        norm=score(repair="norm"),
        noise=None if judge.has_statistics else score(repair=LeastSquares(), inputs=noise),
        repaired=score(repair=repaired, inputs=pair.fit),
        fitted=score(repair=LeastSquares(), inputs=pair.fit),
        barrier=judge.barrier(alignment.params) if keeps_function else None,
        objective=objective,
        seconds=seconds,
        compile_seconds=max(first - seconds, 0.0),
        status=Status(int(alignment.status)).name,
    )


def reference(pair: Pair, judge: Judge) -> dict[str, Any]:
    """Evaluate the parents, their ensemble and the plain average."""
    logits = [
        np.concatenate(
            [
                np.asarray(jax.jit(pair.apply_fn)(params, pair.images[i : i + BATCH]))
                for i in range(0, len(pair.labels), BATCH)
            ]
        )
        for params in pair.params
    ]
    mean = np.mean([np.asarray(jax.nn.softmax(each)) for each in logits], axis=0)
    plain = average(pair.params)
    if judge.has_statistics:
        plain = judge.reset(plain)
    return {
        "pair": pair.name,
        "parents": [judge(params)[0] for params in pair.params],
        "ensemble": float(np.mean(np.argmax(mean, axis=1) == pair.labels)),
        "plain": judge(plain)[0],
        "test_images": len(pair.labels),
    }


def table(rows: Sequence[Row], references: Sequence[dict[str, Any]]) -> str:
    """Lay out the results as Markdown, the digits averaged over their seeds."""
    lines = []
    for name in dict.fromkeys(row.pair.rstrip("0123456789") for row in rows):
        own = [row for row in rows if row.pair.rstrip("0123456789") == name]
        known = [each for each in references if each["pair"].rstrip("0123456789") == name]
        parents = np.mean([each["parents"] for each in known], axis=0) * 100
        lines += [
            f"### {name.rstrip('_')}",
            "",
            f"Parents {parents[0]:.2f} and {parents[1]:.2f} %, ensemble "
            f"{100 * np.mean([each['ensemble'] for each in known]):.2f} %, plain average "
            f"{100 * np.mean([each['plain'] for each in known]):.2f} %; "
            f"{known[0]['test_images']} test images, {len(known)} pair(s).",
            "",
            "| method | images | average % | norm % | noise fit % | repaired % | fitted % | "
            "barrier | J | seconds | compile s |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for method, data in dict.fromkeys((row.method, row.data) for row in own):
            same = [row for row in own if (row.method, row.data) == (method, data)]
            shares = [
                _cell([getattr(row, column) for row in same], 100, 2)
                for column in ("average", "norm", "noise", "repaired", "fitted")
            ]
            others = [
                _cell([getattr(row, column) for row in same], 1, digits)
                for column, digits in (("barrier", 3), ("objective", 2), ("seconds", 2))
            ]
            compile_s = _cell([row.compile_seconds for row in same], 1, 1)
            cells = [method, "yes" if data else "no", *shares, *others, compile_s]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(values: Sequence[float | None], factor: float, digits: int) -> str:
    known = [factor * value for value in values if value is not None]
    if not known:
        return "-"
    text = f"{np.mean(known):.{digits}f}"
    return text if len(known) == 1 else f"{text} +- {np.std(known):.{digits}f}"


def main(config: Config) -> None:
    console = Console(width=None if sys.stdout.isatty() else 180)
    held: dict[str, Any] = {"rows": [], "references": []}
    if config.json.exists() and not config.fresh:
        held = json.loads(config.json.read_text())
    rows = {(r["pair"], r["method"], r["data"]): Row(**r) for r in held["rows"]}
    references = {each["pair"]: each for each in held["references"]}
    for pair in pairs(config):
        judge = Judge(pair)
        references.setdefault(pair.name, None)
        if references[pair.name] is None:
            references[pair.name] = reference(pair, judge)
        for method, entry in METHODS.items():
            if method in SAME_FOR_TWO:
                continue
            variants = {"no": (False,), "may": (False, True)}.get(entry.data, (True,))
            for data in variants if fnmatch(method, config.only) else ():
                key = (pair.name, method, data)
                if key in rows and not config.fresh:
                    continue
                started = time.perf_counter()
                try:
                    rows[key] = measure(pair, judge, method, data)
                except ValueError as error:
                    console.print(f"{pair.name} {method}: refused: {error}", soft_wrap=True)
                    continue
                console.print(asdict(rows[key]), f"{time.perf_counter() - started:.1f} s")
                _write(config, list(rows.values()), list(references.values()))
    console.print(table(list(rows.values()), list(references.values())))


def _write(config: Config, rows: Sequence[Row], references: Sequence[dict[str, Any]]) -> None:
    content = {"references": list(references), "rows": [asdict(row) for row in rows]}
    write_json(config.json, content)
    write_text(config.markdown, table(rows, references) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
