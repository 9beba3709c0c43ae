"""The representation that a network's output layer takes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxfuse.federated.rewrite import rewrite


def with_features(function: Callable[..., Any]) -> Callable[..., tuple[Any, jax.Array]]:
    """Return a function that also gives what the last matrix product takes.

    Args:
        function: pure function of arrays, whose last product of activations with a kernel makes the
            logits.

    Returns:
        A function of the same arguments, `(result, features [b, n])`.

    Raises:
        ValueError: when called, if nothing is multiplied, or not rows of a batch: a representation
            is then not defined.

    Examples:
        >>> import jax.numpy as jnp
        >>> first, last = jnp.ones((4, 3)), jnp.ones((3, 2))
        >>> mlp = with_features(lambda x: jax.nn.relu(x @ first) @ last)
        >>> logits, features = mlp(jnp.ones((5, 4)))
        >>> logits.shape, features.shape
        ((5, 2), (5, 3))
    """

    def run(*args: Any) -> tuple[Any, jax.Array]:
        taken: list[jax.Array] = []

        def rule(equation: Any, operands: Sequence[Any]) -> None:
            if equation.primitive.name == "dot_general":
                taken.append(operands[0])

        result = rewrite(function, rule)(*args)
        if not taken or taken[-1].ndim != 2:
            raise ValueError(
                "the network does not end with a matrix product of rows `[batch, features]`: a "
                "method that compares representations (moon) cannot tell which they are"
            )
        return result, taken[-1]

    return run
