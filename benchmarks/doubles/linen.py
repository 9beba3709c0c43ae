"""Models in Flax Linen."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.doubles.double import Double
from jaxfuse.models.sequence import Inputs, array_inputs, token_inputs

CLASSES = 5
VOCABULARY = 24
LENGTH = 16


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        """Map rows `[n, 6]` to logits."""
        x = x.reshape((x.shape[0], -1))
        for features in (12, 10):
            x = nn.relu(nn.Dense(features)(x))
        return nn.Dense(CLASSES)(x)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        """Map images `[n, h, w, c]` to logits."""
        for features in (6, 8):
            x = nn.Conv(features, (3, 3))(x)
            x = nn.BatchNorm(use_running_average=not train)(x)
            x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(12)(x))
        return nn.Dense(CLASSES)(x)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut without weights: skipped pixels, padded channels."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train: bool = False):
        """Map images `[n, h, w, c]` to images."""
        strides = (self.stride, self.stride)
        y = nn.Conv(self.features, (3, 3), strides, use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(self.features, (3, 3), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=not train)(y)
        if y.shape != x.shape:
            missing = self.features - x.shape[-1]
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        """Map images `[n, h, w, c]` to logits."""
        x = nn.Conv(6, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        for features, stride in ((6, 1), (12, 2), (12, 1)):
            x = ResidualBlock(features, stride)(x, train)
        return nn.Dense(CLASSES)(x.mean(axis=(1, 2)))


class EncoderBlock(nn.Module):
    heads: int = 4
    hidden: int = 24

    @nn.compact
    def __call__(self, x, _=None):
        """Map the carry of a scan, tokens `[n, t, width]`, to the next."""
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(y)
        y = nn.Dense(self.hidden)(nn.LayerNorm()(x))
        x = x + nn.Dense(x.shape[-1])(nn.gelu(y))
        return x, None


class Transformer(nn.Module):
    """Encoder; with `scanned` its blocks are one scan with rematerialisation."""

    width: int = 16
    layers: int = 2
    scanned: bool = False

    @nn.compact
    def __call__(self, tokens):
        """Map tokens `[n, t]` to the logits of their tags."""
        x = nn.Embed(VOCABULARY, self.width)(tokens)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, LENGTH, self.width))
        if self.scanned:
            blocks = nn.scan(
                nn.remat(EncoderBlock, prevent_cse=False),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.layers,
            )
            x, _ = blocks()(x, None)
        else:
            for _ in range(self.layers):
                x, _ = EncoderBlock()(x)
        return nn.Dense(CLASSES)(nn.LayerNorm()(x))


class Tagger(nn.Module):
    cell: Callable[[int], nn.RNNCellBase]

    @nn.compact
    def __call__(self, tokens):
        """Map tokens `[n, t]` to the logits of their tags."""
        x = nn.Embed(VOCABULARY, 10)(tokens)
        x = nn.RNN(self.cell(12))(x)
        return nn.Dense(CLASSES)(x)


def weights_only(model: nn.Module, inputs: Inputs) -> Double:
    """Make a double whose params are the collection `params`."""

    def make(key):
        arrays = inputs(key)
        params = jax.jit(model.init)(key, *arrays)["params"]
        return lambda params, *arrays: model.apply({"params": params}, *arrays), params, arrays

    return Double(make)


def all_variables(model: nn.Module, inputs: Inputs) -> Double:
    """Make a double whose params are all collections, running statistics among them."""

    def make(key):
        arrays = inputs(key)
        return model.apply, jax.jit(model.init)(key, *arrays), arrays

    return Double(make)


IMAGES = array_inputs(2, 8, 8, 3)
TOKENS = token_inputs(VOCABULARY, LENGTH)

LINEN: Mapping[str, Double] = MappingProxyType(
    {
        "mlp": weights_only(MLP(), array_inputs(16, 6)),
        "cnn_batch_norm": all_variables(CNN(), IMAGES),
        "resnet": all_variables(ResNet(), IMAGES),
        "transformer": weights_only(Transformer(), TOKENS),
        "transformer_scanned": weights_only(Transformer(scanned=True), TOKENS),
        "lstm": weights_only(Tagger(nn.OptimizedLSTMCell), TOKENS),
        "gru": weights_only(Tagger(nn.GRUCell), TOKENS),
    }
)
"""Doubles by name."""
