"""Combine the outputs of several networks into one prediction."""

import jax
import jax.numpy as jnp


def mean_probabilities(logits: jax.Array) -> jax.Array:
    """Average the predicted probabilities: the prediction ensemble.

    Args:
        logits: `[k, ..., classes]`, of k networks.

    Returns:
        Probabilities `[..., classes]`.

    Examples:
        >>> mean_probabilities(jnp.log(jnp.array([[0.25, 0.75], [0.75, 0.25]])))
        Array([0.5, 0.5], dtype=float32)
    """
    return jnp.mean(jax.nn.softmax(logits, axis=-1), axis=0)


def mean_logits(logits: jax.Array) -> jax.Array:
    """Average the logits, that is, take the geometric mean of the probabilities.

    Args:
        logits: `[k, ..., classes]`, of k networks.

    Returns:
        Probabilities `[..., classes]`.

    Examples:
        >>> mean_logits(jnp.array([[0.0, 1.0], [1.0, 0.0]]))
        Array([0.5, 0.5], dtype=float32)
    """
    return jax.nn.softmax(jnp.mean(logits, axis=0), axis=-1)


def vote(logits: jax.Array) -> jax.Array:
    """Count the networks that prefer each class; piecewise constant, so with derivative zero.

    Args:
        logits: `[k, ..., classes]`, of k networks.

    Returns:
        Shares of the votes `[..., classes]`. `argmax` gives ties to the first class.

    Examples:
        >>> vote(jnp.array([[0.0, 1.0], [3.0, 0.0], [0.0, 0.1], [0.0, 2.0]]))
        Array([0.25, 0.75], dtype=float32)
    """
    choices = jnp.argmax(logits, axis=-1)
    return jnp.mean(jax.nn.one_hot(choices, logits.shape[-1]), axis=0)
