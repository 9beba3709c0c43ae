"""Models in Equinox: a module is its own params, written for one example, mapped over a batch."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp

from benchmarks.doubles.double import Double
from jaxfuse.models.sequence import Inputs, array_inputs, token_inputs

CLASSES = 5
VOCABULARY = 24
LENGTH = 16


class CNN(eqx.Module):
    """Convolutions with channels first, then a flatten into dense layers."""

    convs: list[eqx.nn.Conv2d]
    pool: eqx.nn.MaxPool2d
    hidden: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.convs = [
            eqx.nn.Conv2d(3, 6, 3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(6, 8, 3, padding=1, key=keys[1]),
        ]
        self.pool = eqx.nn.MaxPool2d(2, 2)
        self.hidden = eqx.nn.Linear(32, 12, key=keys[2])
        self.head = eqx.nn.Linear(12, CLASSES, key=keys[3])

    def __call__(self, x):
        """Map one image `[c, h, w]` to logits."""
        for conv in self.convs:
            x = self.pool(jax.nn.relu(conv(x)))
        return self.head(jax.nn.relu(self.hidden(jnp.ravel(x))))


class Attention(eqx.Module):
    """Tagger of one pre-norm encoder block."""

    embedding: eqx.nn.Embedding
    position: jax.Array
    attention_norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    mlp_norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        width = 16
        keys = jax.random.split(key, 5)
        self.embedding = eqx.nn.Embedding(VOCABULARY, width, key=keys[0])
        self.position = 0.1 * jax.random.normal(keys[1], (LENGTH, width))
        self.attention_norm = eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(4, width, key=keys[2])
        self.mlp_norm = eqx.nn.LayerNorm(width)
        self.mlp = eqx.nn.MLP(width, width, 24, 1, activation=jax.nn.gelu, key=keys[3])
        self.head = eqx.nn.Linear(width, CLASSES, key=keys[4])

    def __call__(self, tokens):
        """Map tokens `[t]` to the logits of their tags."""
        x = jax.vmap(self.embedding)(tokens) + self.position
        y = jax.vmap(self.attention_norm)(x)
        x = x + self.attention(y, y, y)
        x = x + jax.vmap(self.mlp)(jax.vmap(self.mlp_norm)(x))
        return jax.vmap(self.head)(x)


class GRU(eqx.Module):
    """Tagger by a scan over time."""

    embedding: eqx.nn.Embedding
    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.embedding = eqx.nn.Embedding(VOCABULARY, 10, key=keys[0])
        self.cell = eqx.nn.GRUCell(10, 12, key=keys[1])
        self.head = eqx.nn.Linear(12, CLASSES, key=keys[2])

    def __call__(self, tokens):
        """Map tokens `[t]` to the logits of their tags."""

        def step(state, x):
            state = self.cell(x, state)
            return state, self.head(state)

        x = jax.vmap(self.embedding)(tokens)
        return jax.lax.scan(step, jnp.zeros(self.cell.hidden_size), x)[1]


def batched(module, *inputs):
    return jax.vmap(module)(*inputs)


def double(build: Callable[[jax.Array], eqx.Module], inputs: Inputs) -> Double:
    return Double(lambda key: (batched, build(key), inputs(key)))


TOKENS = token_inputs(VOCABULARY, LENGTH)

EQUINOX: Mapping[str, Double] = MappingProxyType(
    {
        "mlp": double(lambda key: eqx.nn.MLP(6, CLASSES, 12, 2, key=key), array_inputs(16, 6)),
        "cnn": double(CNN, array_inputs(2, 3, 8, 8)),
        "attention": double(Attention, TOKENS),
        "gru": double(GRU, TOKENS),
    }
)
"""Doubles by name."""
