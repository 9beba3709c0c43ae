"""Reference models in Flax NNX, and modules as pure functions."""

from jaxfuse.models.autoencoder import Autoencoder
from jaxfuse.models.convnext import ConvNeXt
from jaxfuse.models.create import MODEL_NAMES, create
from jaxfuse.models.densenet import DenseNet
from jaxfuse.models.functional import (
    InferenceFunction,
    TrainingFunction,
    functional,
    training_function,
    with_params,
)
from jaxfuse.models.gcn import GCN
from jaxfuse.models.gpt2 import GPT2
from jaxfuse.models.lenet import LeNet
from jaxfuse.models.llama import Llama
from jaxfuse.models.mixer import MLPMixer
from jaxfuse.models.mlp import MLP
from jaxfuse.models.mobilenet import MobileNetV2
from jaxfuse.models.moe import MoENetwork
from jaxfuse.models.recurrent import Tagger
from jaxfuse.models.resnet import ResNet
from jaxfuse.models.resnet_cifar import CifarResNet
from jaxfuse.models.siamese import Siamese
from jaxfuse.models.t5 import T5
from jaxfuse.models.unet import UNet
from jaxfuse.models.vgg import VGG11, VGG11_WIDTHS, VGG16
from jaxfuse.models.vit import ViT

__all__ = [
    "GCN",
    "GPT2",
    "MLP",
    "MODEL_NAMES",
    "T5",
    "VGG11",
    "VGG11_WIDTHS",
    "VGG16",
    "Autoencoder",
    "CifarResNet",
    "ConvNeXt",
    "DenseNet",
    "InferenceFunction",
    "LeNet",
    "Llama",
    "MLPMixer",
    "MoENetwork",
    "MobileNetV2",
    "ResNet",
    "Siamese",
    "Tagger",
    "TrainingFunction",
    "UNet",
    "ViT",
    "create",
    "functional",
    "training_function",
    "with_params",
]
