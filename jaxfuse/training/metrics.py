"""How good a classifier is: accuracy and cross entropy."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ApplyFn = Callable[[Any, jax.Array], jax.Array]
"""Pure function `(params, images) -> logits [n, classes]`."""


class Metrics(NamedTuple):
    """Quality of a classifier on labelled examples.

    Attributes:
        accuracy: Share of examples whose largest logit is the label's, float32 scalar in [0, 1].
        loss: Mean cross entropy in nats, float32 scalar.
    """

    accuracy: jax.Array
    loss: jax.Array


def evaluate(
    apply_fn: ApplyFn,
    params: Any,
    images: jax.Array | np.ndarray,
    labels: jax.Array | np.ndarray,
    *,
    batch_size: int = 1000,
) -> Metrics:
    """Measure accuracy and mean cross entropy over all examples.

    One program is compiled for an `apply_fn` (which must be hashable) and the shape of a batch;
    the last batch is filled up with examples that do not count. Works under `jit`, and under
    `vmap` over `params`. The loss is differentiable in `params`; the accuracy is not.

    Args:
        apply_fn: Pure function `(params, images) -> logits [n, classes]`, in inference mode, that
            treats examples one by one.
        params: Its parameters.
        images: `[n, ...]` inputs.
        labels: `[n]` integer labels.
        batch_size: Examples in one call.

    Returns:
        The metrics. Logits that are not finite give a loss that is not finite.

    Raises:
        ValueError: There are no examples, labels are not `[n]` integers, or the batch size is not
            positive.

    Examples:
        >>> def apply_fn(params, x):
        ...     return x @ params
        >>> images, labels = jnp.eye(3), jnp.array([0, 1, 1])
        >>> metrics = evaluate(apply_fn, jnp.eye(3), images, labels, batch_size=2)
        >>> round(float(metrics.accuracy), 4)
        0.6667
    """
    check_examples(images, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    count = len(labels)
    batch_size = min(batch_size, count)
    correct, loss = jnp.int32(0), jnp.float32(0)
    # A loop on the host, not lax.map: XLA's CPU backend runs convolutions inside loops several
    # times slower. Dispatching a batch costs microseconds.
    for start in range(0, count, batch_size):
        # The last batch reaches back to be full; what it repeats does not count.
        begin = min(start, count - batch_size)
        batch = slice(begin, begin + batch_size)
        counted = jnp.arange(begin, begin + batch_size) >= start
        more_correct, more_loss = _batch_sums(
            apply_fn, params, images[batch], labels[batch], counted
        )
        correct, loss = correct + more_correct, loss + more_loss
    return Metrics(correct / jnp.float32(count), loss / count)


@functools.partial(jax.jit, static_argnums=0)
def _batch_sums(
    apply_fn: ApplyFn, params: Any, images: jax.Array, labels: jax.Array, counted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    logits = apply_fn(params, images).astype(jnp.float32)
    losses = _cross_entropy(logits, labels)
    correct = (jnp.argmax(logits, axis=-1) == labels) & counted
    return jnp.sum(correct, dtype=jnp.int32), jnp.sum(jnp.where(counted, losses, 0.0))


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return `log(1 + sum_others exp(z - z_label))`, `[n]`.

    The log-sum-exp less the label's logit, as optax has it, loses the digits of a small loss.
    """
    picked = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)
    # An infinite logit of the label is no certainty: it is a broken network.
    return jnp.where(jnp.isfinite(picked), jax.nn.softplus(others - picked), jnp.nan)


def check_examples(images: jax.Array | np.ndarray, labels: jax.Array | np.ndarray) -> None:
    """Refuse examples that are none, or whose labels do not fit.

    Args:
        images: `[n, ...]` inputs.
        labels: `[n]` integer labels.

    Raises:
        ValueError: There are no examples, or labels are not `[n]` integers.
    """
    if labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers of shape {images.shape[:1]} to go with images "
            f"{images.shape}, got {labels.dtype} of shape {labels.shape}"
        )
    if len(labels) == 0:
        raise ValueError("there are no examples: give one or more")
