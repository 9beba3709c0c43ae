"""A model of another library, or of none, as its users write it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Double:
    """How to make one model.

    Attributes:
        make: from a key to `(apply_fn, params, inputs)`; the output is `apply_fn(params, *inputs)`.
    """

    make: Callable[[jax.Array], tuple[Callable[..., jax.Array], Any, tuple[Any, ...]]]
