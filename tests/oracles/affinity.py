"""The affinity tensor K[i, a, j, b] of one tensor's edges, written out in float64 NumPy."""

import numpy as np


def squared_distances(edges_a, edges_b):
    """Return |A[i, a] - B[j, b]|^2 `[n, m, n, m]` between edges `[n, m, e]`."""
    a, b = np.asarray(edges_a, np.float64), np.asarray(edges_b, np.float64)
    return np.sum(np.square(a[:, :, None, None] - b[None, None]), axis=-1)


def linear(edges_a, edges_b):
    """Return <A[i, a], B[j, b]>."""
    return np.einsum("iae,jbe->iajb", np.float64(edges_a), np.float64(edges_b))


def gaussian(edges_a, edges_b, bandwidth):
    """Return exp(-|A[i, a] - B[j, b]|^2 / sigma), sigma a multiple of the median of all pairs."""
    distances = squared_distances(edges_a, edges_b)
    median = np.median(distances)
    return np.exp(-distances / (bandwidth * (median if median > 0 else 1.0)))


def value(k, p, q):
    """Return J(P, Q) = sum P[i, j] K[i, a, j, b] Q[a, b]."""
    return np.einsum("ij,iajb,ab->", np.float64(p), k, np.float64(q))


def row_scores(k, q):
    """Return dJ/dP."""
    return np.einsum("iajb,ab->ij", k, np.float64(q))


def column_scores(k, p):
    """Return dJ/dQ."""
    return np.einsum("ij,iajb->ab", np.float64(p), k)


def double_centred(scores):
    """Subtract the means of rows and columns, which no assignment can change."""
    return scores - scores.mean(0, keepdims=True) - scores.mean(1, keepdims=True) + scores.mean()
