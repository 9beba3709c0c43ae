"""The parents of an experiment: how they are trained, and where they are kept once they are."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx, traverse_util

from jaxfuse.checkpoints import read, write
from jaxfuse.data import Dataset, dirichlet, homogeneous, load, personalised
from jaxfuse.fusion import invert
from jaxfuse.models import create, functional
from jaxfuse.models.create import Width
from jaxfuse.symmetry import Symmetry, infer_symmetry
from jaxfuse.training import TrainingConfig, train
from jaxfuse.training.metrics import ApplyFn

PyTree = Any
Split = Literal["homogeneous", "personalised", "dirichlet"]
Told = Callable[[str, float], None]
"""Called with what is being done and the share of it that is."""

_FORMAT = 1  # of what is cached: a change of the training code that changes networks raises it
SPECIAL_CLASS = 9  # of the personalised split, as in the released code of OTFusion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What decides the parents of one row, but for the seed.

    Attributes:
        name: what the row is called.
        dataset: "digits", or a dataset that TensorFlow Datasets has prepared.
        train_split: split to train on.
        test_split: split to evaluate on.
        model: a name of `jaxfuse.models.MODEL_NAMES`.
        widths: multiplier of the hidden widths of every parent.
        split: "homogeneous" (all see all examples, from different seeds), "personalised"
            (OTFusion's special and general model) or "dirichlet" (GAMF's
            Dirichlet(0.5) shares). Splits are drawn anew with every seed, from
            `jax.random.key(seed)`.
        training: how each is trained.

    Examples:
        >>> Family(name="two", dataset="digits", model="mlp", widths=(1.0, 1.0),
        ...        training=TrainingConfig()).members
        2
    """

    name: str
    dataset: str
    train_split: str = "train"
    test_split: str = "test"
    model: str
    widths: tuple[Width, ...]
    split: Split = "homogeneous"
    training: TrainingConfig

    @property
    def members(self) -> int:
        """Number of parents."""
        return len(self.widths)

    def digest(self, seed: int, index: int, training: TrainingConfig | None = None) -> str:
        """Name a network by all that decides it, the same in every process.

        Networks that see all examples do not depend on how many there are.

        Args:
            seed: of the run.
            index: of the parent.
            training: a further training on the examples of all parents, if there was one.
        """
        drawn = None if self.split == "homogeneous" else [self.split, self.members]
        return digest(
            {
                "format": _FORMAT,
                "dataset": self.dataset,
                "train_split": self.train_split,
                "model": self.model,
                "width": self.widths[index],
                "training": self.training,
                "split": drawn,
                "seed": seed,
                "index": index,
                "finetuned": training,
            }
        )


class Parents(NamedTuple):
    """Trained networks with the examples that they have seen.

    Attributes:
        params: parameter trees.
        modules: the untrained modules.
        apply_fns: pure functions of them; one and the same where the widths are.
        symmetries: one for each.
        shares: per parent the indices of its training examples.
        images: `[n, h, w, c]` normalised training images.
        labels: `[n]`.
        test_images: `[m, h, w, c]`.
        test_labels: `[m]`.
    """

    params: tuple[PyTree, ...]
    modules: tuple[nnx.Module, ...]
    apply_fns: tuple[ApplyFn, ...]
    symmetries: tuple[Symmetry, ...]
    shares: tuple[np.ndarray, ...]
    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def apply_fn(self) -> ApplyFn:
        """The function of the first network."""
        return self.apply_fns[0]

    def union(self) -> np.ndarray:
        """Return the indices of the examples that any parent has seen."""
        return np.unique(np.concatenate(self.shares))

    def unlabelled(self, count: int, of: int | None = None) -> jax.Array:
        """Return training images `[count, h, w, c]`, of every parent as many, or of one alone."""
        owners = self.shares if of is None else (self.shares[of],)
        each = -(-count // len(owners))
        generator = np.random.default_rng(0)
        picked = [generator.permutation(share)[:each] for share in owners]
        return jax.numpy.asarray(self.images[np.concatenate(picked)[:count]])

    def inversions(self, count: int) -> jax.Array:
        """Make images `[count, h, w, c]` that all parents take for the classes, without data."""
        shape = jax.ShapeDtypeStruct((count, *self.images.shape[1:]), jax.numpy.float32)
        return invert(self.apply_fn, self.params, shape)


class Nursery:
    """Trains parents, or takes them from the cache.

    Args:
        cache: folder of trained networks, safetensors files named by their configuration.
        data_dir: folder of prepared TFDS datasets, as in `jaxfuse.data.load`.
        tell: called while networks are trained.
    """

    def __init__(
        self, cache: Path, data_dir: Path | None = None, tell: Told = lambda text, share: None
    ) -> None:
        self.cache, self.data_dir, self.tell = cache, data_dir, tell
        self._data: tuple[tuple[str, ...], Dataset] | None = None
        self._parents: tuple[tuple[Family, int], Parents] | None = None
        self._inversions: tuple[tuple[Family, int, int], jax.Array] | None = None

    def data(self, family: Family) -> Dataset:
        """Load a dataset, or return it where it was the last one."""
        wanted = (family.dataset, family.train_split, family.test_split)
        if self._data is None or self._data[0] != wanted:
            splits = {"train_split": family.train_split, "test_split": family.test_split}
            options: Any = {} if family.dataset == "digits" else splits
            self._data = (wanted, load(family.dataset, self.data_dir, **options))
        return self._data[1]

    def parents(self, family: Family, seed: int) -> Parents:
        """Return all parents of a family, trained from one seed."""
        if self._parents is None or self._parents[0] != (family, seed):
            self._parents = ((family, seed), self._raise(family, seed))
        return self._parents[1]

    def inversions(self, family: Family, seed: int, count: int) -> jax.Array:
        """Invert all parents, or return what came of it where it was the last."""
        if self._inversions is None or self._inversions[0] != (family, seed, count):
            self.tell(f"{family.name}, seed {seed}: inverting {family.members} networks", 0.0)
            made = self.parents(family, seed).inversions(count)
            self._inversions = ((family, seed, count), made)
        return self._inversions[1]

    def finetuned(self, family: Family, seed: int, training: TrainingConfig) -> list[PyTree]:
        """Train every parent further, on the examples of all."""
        parents = self.parents(family, seed)
        return [
            self._cached(
                family.digest(seed, index, training),
                lambda index=index: finetune(parents, index, training, seed).params,
            )
            for index in range(family.members)
        ]

    def _raise(self, family: Family, seed: int) -> Parents:
        data = self.data(family)
        images, labels = data.train()
        shares = _shares(family, data.train_labels, seed)
        params, modules, functions = [], [], []
        for index, (width, share) in enumerate(zip(family.widths, shares, strict=True)):
            key = jax.random.fold_in(jax.random.key(seed), index)
            weights_key, order_key = jax.random.split(key)
            module = create(
                family.model,
                input_shape=data.input_shape,
                classes=data.classes,
                width=width,
                key=weights_key,
            )
            name = family.digest(seed, index)
            checkpoints = None if family.dataset == "digits" else self.cache / f"{name}-unfinished"
            text = f"{family.name}, seed {seed}: training network {index}"

            def run(
                module: nnx.Module = module,
                share: np.ndarray = share,
                key: jax.Array = order_key,
                folder: Path | None = checkpoints,
                text: str = text,
            ) -> PyTree:
                return train(
                    module,
                    images[share],
                    labels[share],
                    family.training,
                    key=key,
                    checkpoint_dir=folder,
                    progress=lambda step, steps, loss: self.tell(text, step / steps),
                ).params

            params.append(self._cached(name, run))
            if checkpoints is not None:
                shutil.rmtree(checkpoints, ignore_errors=True)
            modules.append(module)
            functions.append(functional(module)[0])
        symmetries = tuple(
            infer_symmetry(function, own, images[:2])
            for function, own in zip(functions, params, strict=True)
        )
        return Parents(
            tuple(params), tuple(modules), tuple(functions), symmetries, shares, images, labels,
            *data.test(),
        )  # fmt: skip

    def _cached(self, name: str, make: Callable[[], PyTree]) -> PyTree:
        path = self.cache / f"{name}.safetensors"
        if not path.exists():
            write(path, make(), force=True)
        # Read back in either case: a network has no other past than its file.
        flat = {
            tuple(name.split("/")): jax.numpy.asarray(leaf) for name, leaf in read(path).items()
        }
        return traverse_util.unflatten_dict(flat)


def finetune(
    parents: Parents,
    index: int,
    training: TrainingConfig,
    seed: int,
    params: PyTree = None,
    *,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Any:
    """Train a network further on the examples that any parent has seen: the same for everyone.

    Args:
        parents: whose examples they are.
        index: the parent whose module is trained.
        training: how.
        seed: of the run; the order of the examples follows from it.
        params: where to start; the parent itself by default.
        images: other examples than those of the parents, with their `labels`.
        labels: of the images.
        progress: as in `jaxfuse.training.train`.

    Returns:
        A `TrainingResult`.
    """
    if images is None or labels is None:
        seen = parents.union()
        images, labels = parents.images[seen], parents.labels[seen]
    return train(
        parents.modules[index],
        images,
        labels,
        training,
        key=jax.random.fold_in(jax.random.key(seed), 1000),
        params=parents.params[index] if params is None else params,
        progress=progress,
    )


def digest(content: Any) -> str:
    """Return 16 hexadecimal digits that name a configuration, the same in every process.

    Examples:
        >>> digest({"b": 1, "a": TrainingConfig()}) == digest({"a": TrainingConfig(), "b": 1})
        True
    """

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        raise TypeError(f"{value!r} is no part of a configuration")

    text = json.dumps(content, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shares(family: Family, labels: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
    key = jax.random.key(seed)
    match family.split:
        case "homogeneous":
            return homogeneous(labels, clients=family.members)
        case "personalised":
            return personalised(labels, key=key, special_class=SPECIAL_CLASS)
        case "dirichlet":
            return dirichlet(labels, key=key, clients=family.members)
