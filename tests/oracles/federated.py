"""Federated rounds of a two-layer ReLU network in float64 NumPy, as the papers write them."""

import numpy as np


def softmax_slope(logits, labels):
    """Return the gradient of the mean cross entropy with respect to the logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    probabilities[np.arange(len(labels)), labels] -= 1
    return probabilities / len(labels)


def hidden(weights, x):
    return np.maximum(x @ weights[0], 0)


def entropy_gradient(weights, x, labels, extra=None):
    """Return the gradients of the cross entropy, and of a term with slope `extra(h)` in `h`."""
    h = hidden(weights, x)
    slope = softmax_slope(h @ weights[1], labels)
    back = slope @ weights[1].T
    if extra is not None:
        back = back + extra(h)
    return [x.T @ (back * (h > 0)), h.T @ slope]


def cosine_slope(z, other):
    """Return cos(z, other) of every row, and its gradient with respect to z."""
    nz = np.linalg.norm(z, axis=1, keepdims=True)
    no = np.linalg.norm(other, axis=1, keepdims=True)
    cosine = (z * other).sum(axis=1, keepdims=True) / (nz * no)
    return cosine, other / (nz * no) - cosine * z / nz**2


def moon_slope(z, z_global, z_previous, mu, temperature):
    """Return the gradient in z of mu * mean -log(e^near / (e^near + e^far))."""
    near, near_slope = cosine_slope(z, z_global)
    far, far_slope = cosine_slope(z, z_previous)
    share = 1 / (1 + np.exp((near - far) / temperature))
    return mu * share * (far_slope - near_slope) / temperature / len(z)


def train(start, batches, gradient, *, rate, momentum=0.0, decay=0.0):
    """Return the weights after heavy-ball steps, and how far a constant gradient would go."""
    weights = [np.array(each, np.float64) for each in start]
    velocity = [np.zeros_like(each) for each in weights]
    pace = length = 0.0
    for x, labels in batches:
        slopes = gradient(weights, x, labels)
        velocity = [
            momentum * v + g + decay * w for v, g, w in zip(velocity, slopes, weights, strict=True)
        ]
        weights = [w - rate * v for w, v in zip(weights, velocity, strict=True)]
        pace = momentum * pace + 1
        length += rate * pace
    return weights, length


def weighted_mean(networks, shares):
    return [
        sum(s * w for s, w in zip(shares, each, strict=True))
        for each in zip(*networks, strict=True)
    ]
