"""Every table at every scale."""

import dataclasses
from collections.abc import Callable
from types import MappingProxyType

from jaxfuse.experiments.cells import Table
from jaxfuse.experiments.families import Scale, cifar_family, mnist_family
from jaxfuse.experiments.family import Family, Split
from jaxfuse.experiments.fusion import FusionTable
from jaxfuse.experiments.similarity import SimilarityTable
from jaxfuse.experiments.timing import TimeTable
from jaxfuse.experiments.widths import WidthsTable
from jaxfuse.training import TrainingConfig

_RIVALS = ("plain", "ot_weights", "ot_activations", "git_rebasin", "gamf", "gamf_code")
_OURS = ("jaxfuse_weights", "jaxfuse", "jaxfuse_images")
_SPLITS: tuple[Split, ...] = ("homogeneous", "personalised")
_OPEN = (
    "activations",
    "activations_first",
    "universe",
    "by_class",
    "cca",
    "zip_it",
    "partial_zip",
    "partial",
)

_HET4_IN_CI = (
    "plain",
    "ot_activations",
    "git_rebasin",
    *_OURS,
    "activations",
    "by_class",
    "zip_it",
)


def mnist(scale: Scale) -> FusionTable:
    """GAMF's figure 3, by OTFusion's protocol."""
    models = ("mlp",) if scale == "ci" else ("mlp", "lenet")
    families = [mnist_family(scale, model, split) for model in models for split in _SPLITS]
    return FusionTable(
        title=f"Two networks on {_data(scale, 'MNIST')}",
        published="mnist",
        families=tuple(families),
        methods=(*_rivals(scale), *_OURS),
        points=11,
        **_sizes(scale),
    )


def lenet(scale: Scale) -> FusionTable:
    """GAMF's table 1."""
    return _cifar(scale, "lenet")


def vgg11(scale: Scale) -> FusionTable:
    """GAMF's table 2."""
    return _cifar(scale, "vgg11")


def similarity(scale: Scale) -> SimilarityTable:
    """GAMF's figure 4."""
    return SimilarityTable(
        title="First- against second-order similarity",
        families=_homogeneous(scale),
        seeds=_seeds(scale),
        draws=2 if scale == "ci" else 8,
    )


def time(scale: Scale) -> TimeTable:
    """The question of GAMF's table 4."""
    return TimeTable(
        title="Time against accuracy",
        families=_homogeneous(scale),
        methods=(*_rivals(scale)[1:], *_OURS),
        **_sizes(scale),
    )


def widths(scale: Scale) -> WidthsTable:
    """OTFusion's teacher and student, and its skill transfer."""
    families = []
    for split in _SPLITS:
        family = mnist_family(scale, "mlp", split)
        wide = family.widths[0]
        assert not isinstance(wide, str)
        for name, both in (
            ("narrow and wide into narrow", (wide / 2, wide)),
            ("wide and narrow into wide", (wide, wide / 2)),
        ):
            families.append(dataclasses.replace(family, name=f"{name}, {split}", widths=both))
    return WidthsTable(title="Different widths", families=tuple(families), **_sizes(scale))


def het4(scale: Scale) -> FusionTable:
    """Four heterogeneous networks, where every published method fails."""
    scales: tuple[Scale, Scale] = ("ci", scale)
    digits, own = (cifar_family(each, "lenet", "dirichlet", 4) for each in scales)
    if scale != "ci":
        digits = dataclasses.replace(digits, name=f"{digits.name}, the digits")
        own = dataclasses.replace(own, name=f"{own.name}, CIFAR-10")
    return FusionTable(
        title="Four heterogeneous networks",
        published="het4",
        families=(digits,) if scale == "ci" else (digits, own),
        methods=_HET4_IN_CI if scale == "ci" else (*_RIVALS, *_OURS, *_OPEN),
        finetuning=_finetuning("full" if scale == "full" else "ci"),
        finetuned=("plain", "git_rebasin", "gamf", *_OURS, "by_class"),
        pseudo_labels=TrainingConfig(epochs=20, batch_size=64, learning_rate=0.01),
        seeds=_seeds(scale),
        images=400,
        noise=500,
    )


def _data(scale: Scale, name: str) -> str:
    return "the digits" if scale == "ci" else name


def _homogeneous(scale: Scale) -> tuple[Family, ...]:
    models = ("mlp",) if scale == "ci" else ("mlp", "lenet")
    return tuple(mnist_family(scale, model, "homogeneous") for model in models)


def _cifar(scale: Scale, model: str) -> FusionTable:
    counts = (2,) if scale == "ci" else (2, 4)
    splits: tuple[Split, ...] = ("homogeneous", "dirichlet")
    if (scale, model) == ("ci", "vgg11"):
        splits = splits[:1]
    return FusionTable(
        title=f"{'LeNet' if model == 'lenet' else 'VGG11'} on {_data(scale, 'CIFAR-10')}",
        published=model,
        families=tuple(
            cifar_family(scale, model, split, count) for count in counts for split in splits
        ),
        methods=(*_rivals(scale), *_OURS),
        finetuning=_finetuning(scale),
        finetuned=("plain", "ot_activations", "git_rebasin", "gamf", *_OURS),
        **_sizes(scale, convolutions=True),
    )


def _rivals(scale: Scale) -> tuple[str, ...]:
    # In CI, where most of the time goes to compilation, one GAMF is enough.
    return _RIVALS[:-1] if scale == "ci" else _RIVALS


def _finetuning(scale: Scale) -> TrainingConfig:
    # GAMF and OTFusion do not state theirs.
    epochs = {"ci": 2, "cpu": 1, "full": 30}[scale]
    decay = 0.0 if scale == "ci" else 5e-4
    return TrainingConfig(
        epochs=epochs,
        batch_size=64 if scale == "ci" else 128,
        learning_rate=0.01,
        weight_decay=decay,
    )


def _sizes(scale: Scale, convolutions: bool = False) -> dict:
    if scale == "ci":
        return {"seeds": _seeds(scale), "images": 400, "noise": 500}
    # One sample is as many rows of a convolution's regression as there are pixels.
    return {"seeds": _seeds(scale), "images": 1000, "noise": 1000 if convolutions else 4000}


def _seeds(scale: Scale) -> tuple[int, ...]:
    return (0,) if scale == "ci" else (0, 1, 2)


TABLES: MappingProxyType[str, Callable[[Scale], Table]] = MappingProxyType(
    {
        "mnist": mnist,
        "lenet": lenet,
        "vgg11": vgg11,
        "similarity": similarity,
        "time": time,
        "widths": widths,
        "het4": het4,
    }
)
"""By name: from the scale to the table."""
