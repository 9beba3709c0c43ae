"""Self-attention with its symmetry written by hand: heads, and units inside each head."""

import jax
import jax.numpy as jnp

from jaxfuse.symmetry import Symmetry, TensorAxes
from tests.symmetry.networks import image, randomise

WIDTH, HEADS, UNITS, LENGTH = 5, 4, 3, 4
X = image(2, LENGTH, WIDTH)


def attention_params():
    fused = jnp.zeros((WIDTH, 3 * HEADS * UNITS))
    return randomise({"qkv": fused, "out": jnp.zeros((HEADS * UNITS, 2))})


def attention(p, x):
    """Attend with one fused projection `[width, 3 x heads x units]`."""
    fused = (x @ p["qkv"]).reshape(*x.shape[:2], 3, HEADS, UNITS)
    q, k, v = (fused[:, :, part] for part in range(3))
    weights = jax.nn.softmax(jnp.einsum("bqhu,bkhu->bhqk", q, k), axis=-1)
    mixed = jnp.einsum("bhqk,bkhu->bqhu", weights, v)
    return mixed.reshape(*x.shape[:2], -1) @ p["out"]


def attention_symmetry():
    part = HEADS * UNITS

    def block(number, units):
        return TensorAxes(
            "qkv",
            (WIDTH, HEADS, UNITS),
            (None, "heads", units),
            pins=("input", None, None),
            index=(None, ((number * part, part, 1),)),
        )

    return Symmetry(
        (("heads", HEADS), ("qk", UNITS), ("vo", UNITS)),
        (
            block(0, "qk"),
            block(1, "qk"),
            block(2, "vo"),
            TensorAxes(
                "out", (HEADS, UNITS, 2), ("heads", "vo", None), pins=(None, None, "output")
            ),
        ),
        (("qk", ("heads",)), ("vo", ("heads",))),
        (("input", WIDTH, "input"), ("output", 2, "output")),
    )
