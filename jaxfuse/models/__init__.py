"""Reference models in Flax NNX, and modules as pure functions."""

from jaxfuse.models.create import MODEL_NAMES, create
from jaxfuse.models.functional import (
    InferenceFunction,
    TrainingFunction,
    functional,
    training_function,
    with_params,
)
from jaxfuse.models.lenet import LeNet
from jaxfuse.models.mlp import MLP
from jaxfuse.models.vgg import VGG11, VGG11_WIDTHS

__all__ = [
    "MLP",
    "MODEL_NAMES",
    "VGG11",
    "VGG11_WIDTHS",
    "InferenceFunction",
    "LeNet",
    "TrainingFunction",
    "create",
    "functional",
    "training_function",
    "with_params",
]
