"""What server and clients agree on: the model, and who holds which examples."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxfuse.data import dirichlet, load_digits
from jaxfuse.models import create

INPUT_SHAPE = (8, 8, 1)


def model(config: Mapping[str, Any], start: int = 0) -> nnx.Module:
    """Return the MLP with the weights that the federation starts from, or a client by itself."""
    key = jax.random.fold_in(jax.random.key(int(config["seed"])), start)
    return create("mlp", input_shape=INPUT_SHAPE, classes=10, width=config["width"], key=key)


def shard(config: Mapping[str, Any], client: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised images and the labels of one client.

    All draw the same partition, and each keeps its own part: nobody sends data.
    """
    digits = load_digits()
    images, labels = digits.train()
    parts = dirichlet(
        digits.train_labels,
        key=jax.random.key(int(config["seed"])),
        clients=int(config["clients"]),
        concentration=float(config["concentration"]),
    )
    return np.asarray(images)[parts[client]], np.asarray(labels)[parts[client]]
