"""Models without a library: dicts and lists of arrays, and functions of them."""

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.doubles.double import Double
from jaxfuse.models.sequence import Inputs, array_inputs, token_inputs

CLASSES = 5
VOCABULARY = 24
LENGTH = 16
HEADS = 4


class Draw:
    """Random weights, one key after the other."""

    def __init__(self, key: jax.Array):
        self.key = key

    def __call__(self, *shape: int) -> jax.Array:
        """Draw normal weights of a shape."""
        self.key, key = jax.random.split(self.key)
        return 0.5 * jax.random.normal(key, shape)


def mlp_params(draw: Draw):
    sizes = (6, 12, 10, CLASSES)
    return [(draw(m, n), draw(m)) for n, m in itertools.pairwise(sizes)]


@jax.jit
def mlp(params, batch):
    """One example at a time, weights `[outputs, inputs]`, mapped over the batch."""

    def predict(x):
        *hidden, (w, b) = params
        for kernel, bias in hidden:
            x = jnp.tanh(kernel @ x + bias)
        return w @ x + b

    return jax.vmap(predict)(batch)


def cnn_params(draw: Draw):
    return {
        "conv": [{"w": draw(3, 3, 3, 6), "b": draw(6)}, {"w": draw(3, 3, 6, 8), "b": draw(8)}],
        "hidden": {"w": draw(32, 12), "b": draw(12)},
        "out": {"w": draw(12, CLASSES), "b": draw(CLASSES)},
    }


@jax.jit
def cnn(params, x):
    """Convolutions, then a flatten into a dense layer."""
    for layer in params["conv"]:
        x = lax.conv_general_dilated(
            x, layer["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + layer["b"].reshape(1, 1, 1, -1))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"][None])
    return x @ params["out"]["w"] + params["out"]["b"][None]


def residual_mlp_params(draw: Draw):
    blocks = [{"up": draw(10, 14), "bias": draw(14), "down": draw(14, 10)} for _ in range(2)]
    return {"in": draw(6, 10), "blocks": blocks, "out": draw(10, CLASSES)}


def residual_mlp(params, x):
    """Blocks compiled one by one, as under `jit` in a training loop."""

    @jax.jit
    def block(layer, x):
        return x + jax.nn.relu(x @ layer["up"] + layer["bias"][None]) @ layer["down"]

    x = x @ params["in"]
    for layer in params["blocks"]:
        x = block(layer, x)
    return x @ params["out"]


def gpt_params(draw: Draw):
    width = 16
    blocks = [
        {
            "ln_1": {"g": draw(width), "b": draw(width)},
            "attn": {"qkv": draw(width, 3 * width), "proj": draw(width, width)},
            "ln_2": {"g": draw(width), "b": draw(width)},
            "mlp": {"fc": draw(width, 24), "proj": draw(24, width)},
        }
        for _ in range(2)
    ]
    return {
        "wte": draw(VOCABULARY, width),
        "wpe": draw(LENGTH, width),
        "blocks": blocks,
        "ln_f": {"g": draw(width), "b": draw(width)},
    }


@jax.jit
def gpt(params, tokens):
    """Decoder with queries, keys and values from one kernel, and a tied embedding."""
    x = params["wte"][tokens] + params["wpe"][None, : tokens.shape[1]]
    for block in params["blocks"]:
        x = x + causal_attention(block["attn"], layer_norm(block["ln_1"], x))
        hidden = jax.nn.gelu(layer_norm(block["ln_2"], x) @ block["mlp"]["fc"])
        x = x + hidden @ block["mlp"]["proj"]
    return layer_norm(params["ln_f"], x) @ params["wte"].T


def layer_norm(params, x):
    mean = x.mean(axis=-1, keepdims=True)
    x = (x - mean) / jnp.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return params["g"][None, None] * x + params["b"][None, None]


def causal_attention(params, x):
    n, t, width = x.shape
    qkv = x @ params["qkv"]
    q, k, v = (
        part.reshape(n, t, HEADS, width // HEADS).transpose(0, 2, 1, 3)
        for part in jnp.split(qkv, 3, axis=-1)
    )
    scores = q @ k.transpose(0, 1, 3, 2) / jnp.sqrt(width // HEADS)
    scores = jnp.where(jnp.tril(jnp.ones((1, 1, t, t), bool)), scores, -jnp.inf)
    mixed = jax.nn.softmax(scores, axis=-1) @ v
    return mixed.transpose(0, 2, 1, 3).reshape(n, t, width) @ params["proj"]


def swiglu_params(draw: Draw):
    return {"in": draw(6, 10), "gate_up": draw(10, 2 * 14), "down": draw(14, CLASSES)}


@jax.jit
def swiglu(params, x):
    """Gated MLP whose gate and value come from one kernel."""
    gate, up = jnp.split(jnp.tanh(x @ params["in"]) @ params["gate_up"], 2, axis=-1)
    return (jax.nn.silu(gate) * up) @ params["down"]


def rnn_params(draw: Draw):
    return {
        "embedding": draw(VOCABULARY, 10),
        "cell": {"x": draw(10, 12), "h": 0.5 * draw(12, 12), "b": draw(12)},
        "out": draw(12, CLASSES),
    }


@jax.jit
def rnn(params, tokens):
    """Simple recurrent network (Elman, 1990) by a scan over time."""
    cell = params["cell"]

    def step(h, x):
        h = jnp.tanh(x @ cell["x"] + h @ cell["h"] + cell["b"][None])
        return h, h @ params["out"]

    x = params["embedding"][tokens.T]
    return lax.scan(step, jnp.zeros((x.shape[1], 12)), x)[1].transpose(1, 0, 2)


def autoencoder_params(draw: Draw):
    return {
        "w": [draw(6, 12), draw(12, 4)],
        "encoder": [draw(12), draw(4)],
        "decoder": [draw(12), draw(6)],
    }


@jax.jit
def autoencoder(params, x):
    """Autoencoder whose decoder uses the encoder's kernels, transposed."""
    for w, bias in zip(params["w"], params["encoder"], strict=True):
        x = jax.nn.sigmoid(x @ w + bias[None])
    first, second = params["w"]
    x = jax.nn.sigmoid(x @ second.T + params["decoder"][0][None])
    return x @ first.T + params["decoder"][1][None]


def double(apply_fn: Callable[..., jax.Array], init: Callable[[Draw], Any], inputs: Inputs):
    return Double(lambda key: (apply_fn, init(Draw(key)), inputs(key)))


ROWS = array_inputs(16, 6)
TOKENS = token_inputs(VOCABULARY, LENGTH)

PLAIN: Mapping[str, Double] = MappingProxyType(
    {
        "mlp": double(mlp, mlp_params, ROWS),
        "cnn": double(cnn, cnn_params, array_inputs(2, 8, 8, 3)),
        "residual_mlp": double(residual_mlp, residual_mlp_params, ROWS),
        "gpt": double(gpt, gpt_params, TOKENS),
        "swiglu": double(swiglu, swiglu_params, ROWS),
        "rnn": double(rnn, rnn_params, TOKENS),
        "autoencoder_tied": double(autoencoder, autoencoder_params, ROWS),
    }
)
"""Doubles by name."""
