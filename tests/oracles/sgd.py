"""Gradient descent with momentum on a two-layer perceptron, in float64 NumPy."""

from collections.abc import Sequence

import numpy as np


def full_batch(
    kernels: Sequence[np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    rates: Sequence[float],
    *,
    momentum: float,
    decay: float,
) -> tuple[list[np.ndarray], list[float]]:
    """Kernels after one step per learning rate, and the loss before each step."""
    first, second = (np.asarray(kernel, np.float64) for kernel in kernels)
    velocity = [np.zeros_like(first), np.zeros_like(second)]
    x = images.reshape(len(images), -1).astype(np.float64)
    targets = np.eye(second.shape[1])[labels]
    losses = []
    for rate in rates:
        hidden = np.maximum(x @ first, 0)
        logits = hidden @ second
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        losses.append(float(-np.log(probabilities[np.arange(len(x)), labels]).mean()))
        error = (probabilities - targets) / len(x)
        gradients = [x.T @ ((error @ second.T) * (hidden > 0)), hidden.T @ error]
        for index, weights in enumerate((first, second)):
            velocity[index] = momentum * velocity[index] + gradients[index] + decay * weights
        first, second = first - rate * velocity[0], second - rate * velocity[1]
    return [first, second], losses
