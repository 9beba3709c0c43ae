"""The parents of every table, at every scale."""

import dataclasses
from typing import Literal

from jaxfuse.experiments.family import Family, Split
from jaxfuse.models.create import Width
from jaxfuse.training import TrainingConfig

Scale = Literal["ci", "cpu", "full"]
SCALES: tuple[Scale, ...] = ("ci", "cpu", "full")

# A CPU of two cores trains VGG11 at this width in half a minute an epoch.
VGG_ON_CPU = 0.125

_DIGITS_MLP = TrainingConfig(epochs=20, learning_rate=0.1)
_DIGITS_LENET = TrainingConfig(epochs=12, learning_rate=0.02)
_DIGITS_VGG = TrainingConfig(epochs=20, batch_size=32, learning_rate=0.01, warmup_epochs=1)
# OTFusion's: SGD with learning rate 0.01, batches of 64, ten epochs; momentum 0.9 and a cosine
# schedule in place of its 0.5 and constant rate.
_MNIST_MLP = TrainingConfig(epochs=10, learning_rate=0.01)
_MNIST_LENET = TrainingConfig(epochs=3, learning_rate=0.01)
# Of four epochs one network in two has 41 % and the other 52.
_LENET_ON_CPU = TrainingConfig(epochs=12, batch_size=128, learning_rate=0.02, weight_decay=5e-4)
_LENET = dataclasses.replace(_LENET_ON_CPU, epochs=60)
_VGG_ON_CPU = TrainingConfig(
    epochs=8, batch_size=128, learning_rate=0.05, weight_decay=5e-4, warmup_epochs=1
)
# OTFusion's: 300 epochs, the rate halved every 30.
_VGG = TrainingConfig(
    epochs=300,
    batch_size=128,
    learning_rate=0.05,
    weight_decay=5e-4,
    schedule="step",
    step_epochs=30,
    step_factor=0.5,
    augment=True,
)


def mnist_family(scale: Scale, model: str, split: Split) -> Family:
    """Return two networks on MNIST, or on the digits at the scale of CI."""
    name = f"{'MLP' if model == 'mlp' else 'LeNet'}, {split}"
    if scale == "ci":
        training = _DIGITS_MLP if model == "mlp" else _DIGITS_LENET
        width = 0.25 if model == "mlp" else 1.0
        return Family(
            name=name,
            dataset="digits",
            model=model,
            widths=(width, width),
            split=split,
            training=training,
        )
    training = _MNIST_MLP if model == "mlp" else _MNIST_LENET
    if scale == "full":
        training = dataclasses.replace(training, epochs=10)
    return Family(
        name=name, dataset="mnist", model=model, widths=(1.0, 1.0), split=split, training=training
    )


def cifar_family(scale: Scale, model: str, split: Split, members: int) -> Family:
    """Return K networks on CIFAR-10, or on the digits at the scale of CI."""
    name = f"{members} networks, {split}"
    width: Width = 1.0
    if scale == "ci":
        training = _DIGITS_LENET if model == "lenet" else _DIGITS_VGG
        width = 1.0 if model == "lenet" else VGG_ON_CPU
        return Family(
            name=name,
            dataset="digits",
            model=model,
            widths=(width,) * members,
            split=split,
            training=training,
        )
    if model == "lenet":
        training = _LENET_ON_CPU if scale == "cpu" else _LENET
    else:
        training = _VGG_ON_CPU if scale == "cpu" else _VGG
        width = VGG_ON_CPU if scale == "cpu" else 1.0
    return Family(
        name=name,
        dataset="cifar10",
        # Of the test images only the first thousand are prepared.
        train_split="train[:40000]",
        test_split="train[40000:]",
        model=model,
        widths=(width,) * members,
        split=split,
        training=training,
    )
