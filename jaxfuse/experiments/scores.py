"""Accuracies on the evaluation images."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.experiments.family import Parents
from jaxfuse.training import evaluate

_BATCH = 1000


def accuracy(parents: Parents, params: Any, index: int = 0) -> float:
    """Return the share of correct evaluation images, of a network of one parent's architecture."""
    function = parents.apply_fns[index]
    return float(evaluate(function, params, parents.test_images, parents.test_labels).accuracy)


def probabilities(parents: Parents) -> np.ndarray:
    """Return what every parent predicts, `[k, images, classes]`."""
    return np.stack(
        [
            _predict(function, params, parents.test_images)
            for function, params in zip(parents.apply_fns, parents.params, strict=True)
        ]
    )


def ensemble_accuracy(
    predicted: np.ndarray, labels: np.ndarray, weights: Sequence[float] | None = None
) -> float:
    """Return the accuracy of the weighted mean of predictions `[k, images, classes]`."""
    mean = np.average(predicted, axis=0, weights=weights)
    return float(np.mean(np.argmax(mean, axis=-1) == labels))


def accuracy_of_classes(
    parents: Parents, params: Any, index: int, special: int
) -> tuple[float, float]:
    """Return the accuracies on the images of one class, and on those of the others."""
    predicted = np.argmax(_predict(parents.apply_fns[index], params, parents.test_images), axis=-1)
    right, chosen = predicted == parents.test_labels, parents.test_labels == special
    return float(np.mean(right[chosen])), float(np.mean(right[~chosen]))


def _predict(function: Any, params: Any, images: np.ndarray) -> np.ndarray:
    predict = jax.jit(function)
    parts = [
        np.asarray(jax.nn.softmax(jnp.asarray(predict(params, images[i : i + _BATCH]))))
        for i in range(0, len(images), _BATCH)
    ]
    return np.concatenate(parts)
