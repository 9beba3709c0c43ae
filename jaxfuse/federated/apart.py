"""Networks of their own for clients that set out apart."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.models import create, functional
from jaxfuse.models.functional import Params


def draw_apart(name: str, keys: jax.Array, **options: Any) -> Params:
    """Draw one network for each key, as `federate` takes them for `begin`.

    Args:
        name: of the model, as `create` takes it.
        keys: `[N]`.
        **options: of `create`, but for the key.

    Returns:
        One tree whose leaves have a leading axis `[N]`.

    Examples:
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> begin = draw_apart("mlp", keys, input_shape=(4, 4, 1), classes=2, width=0.1)
        >>> begin["dense"]["0"]["kernel"].shape
        (3, 16, 40)
    """
    drawn = [functional(create(name, key=key, **options))[1] for key in keys]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
