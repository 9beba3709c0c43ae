"""A module with a batch to call it on: what tracing, verifying and tables need."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx


@dataclass(frozen=True)
class Example:
    """How to build one variant of a model, small, and inputs for it.

    Attributes:
        build: makes the module at a size that a test can run.
        inputs: makes the arrays that the module is called with, a batch of two or more.
        published: makes the module at the size of its paper, for timing traces on shapes alone;
            None where the small one is of that size.
        published_inputs: makes the inputs of that size; None where they are the same.
    """

    build: Callable[[nnx.Rngs], nnx.Module]
    inputs: Callable[[jax.Array], tuple[Any, ...]]
    published: Callable[[nnx.Rngs], nnx.Module] | None = None
    published_inputs: Callable[[jax.Array], tuple[Any, ...]] | None = None
