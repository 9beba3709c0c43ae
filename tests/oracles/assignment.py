"""Assignments by brute force and Sinkhorn in float64 NumPy."""

import itertools

import numpy as np


def brute_force(scores):
    """Return the largest sum of min(n, m) scores in distinct rows and columns."""
    scores = np.asarray(scores, np.float64)
    if scores.shape[0] > scores.shape[1]:
        scores = scores.T
    n, m = scores.shape
    return max(
        scores[np.arange(n), list(columns)].sum() for columns in itertools.permutations(range(m), n)
    )


def marginals(n, m):
    mass = min(n, m)
    return np.full(n, mass / n), np.full(m, mass / m)


def logsumexp(x, axis):
    top = x.max(axis=axis, keepdims=True)
    return np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top


def sinkhorn_plan(scores, tau, iterations=None, tolerance=1e-12):
    """Alternate log-domain updates, rows first, a fixed number of times or to convergence.

    Scores are [..., n, m] and tau a scalar or [..., 1, 1].
    """
    logits = np.asarray(scores, np.float64) / tau
    a, b = marginals(*logits.shape[-2:])
    a, b = a[:, None], b[None, :]
    g = 0.0
    for step in range(iterations or 200_000):
        f = np.log(a) - logsumexp(logits + g, axis=-1)
        g = np.log(b) - logsumexp(logits + f, axis=-2)
        if iterations is None and step % 10 == 0:
            sums = np.exp(logits + f + g).sum(axis=-1, keepdims=True)
            if np.abs(sums - a).max() < tolerance:
                break
    return np.exp(logits + f + g)


def sinkhorn_gradient(scores, tau, weights, step=1e-5):
    """Return d<weights, plan> / d scores and / d tau by central differences of the oracle."""
    scores = np.asarray(scores, np.float64)
    units = step * np.eye(scores.size).reshape(-1, *scores.shape)

    def value(s, t):
        return np.sum(weights * sinkhorn_plan(s, t), axis=(-2, -1))

    gradient = (value(scores + units, tau) - value(scores - units, tau)) / (2 * step)
    gradient_tau = (value(scores, tau + step) - value(scores, tau - step)) / (2 * step)
    return gradient.reshape(scores.shape), gradient_tau
