"""Partial matching of two chains in float64: which units stay apart, and the blocks of weights."""

import numpy as np


def distances(a, b, orders):
    """Return per hidden layer the squared distance of the weights of matched units.

    Networks are lists of (kernel `[in, out]`, bias); `orders` are the units of b that match those
    of a, with `None` for inputs and outputs.
    """
    moved = [_move(kernel, bias, *orders[i : i + 2]) for i, (kernel, bias) in enumerate(b)]
    found = []
    for layer in range(len(a) - 1):
        into = np.sum((a[layer][0] - moved[layer][0]) ** 2, axis=0)
        bias = (a[layer][1] - moved[layer][1]) ** 2
        out = np.sum((a[layer + 1][0] - moved[layer + 1][0]) ** 2, axis=1)
        found.append(into + bias + out)
    return found


def scores(a, b, orders):
    """Return per hidden layer the inner product of the weights of matched units, negated."""
    moved = [_move(kernel, bias, *orders[i : i + 2]) for i, (kernel, bias) in enumerate(b)]
    found = []
    for layer in range(len(a) - 1):
        into = np.sum(a[layer][0] * moved[layer][0], axis=0)
        out = np.sum(a[layer + 1][0] * moved[layer + 1][0], axis=1)
        found.append(-into - a[layer][1] * moved[layer][1] - out)
    return found


def merge(a, b, orders, apart):
    """Return the merged chain: units of a, merged or not, then the separate units of b.

    Nasery et al., CVPR 2025, section 3.1: merged to merged averages, merged to separate and
    separate to separate copy, separate to merged halves, and separate units of two networks do not
    meet.

    Args:
        a: as in `distances`.
        b: as in `distances`.
        orders: as in `distances`.
        apart: per layer of units which units of a stay separate, boolean.
    """
    chain = []
    for i, ((kernel, bias), (other, other_bias)) in enumerate(zip(a, b, strict=True)):
        moved, moved_bias = _move(other, other_bias, *orders[i : i + 2])
        rows, columns = apart[i], apart[i + 1]
        n, m = kernel.shape
        new = np.zeros((n + rows.sum(), m + columns.sum()))
        for r in range(n):
            for c in range(m):
                if not rows[r] and not columns[c]:
                    new[r, c] = (kernel[r, c] + moved[r, c]) / 2
                elif not columns[c]:
                    new[r, c] = kernel[r, c] / 2
                    new[n + rows[:r].sum(), c] = moved[r, c] / 2
                else:
                    new[r, c] = kernel[r, c]
                    row = n + rows[:r].sum() if rows[r] else r
                    new[row, m + columns[:c].sum()] = moved[r, c]
        mean = np.where(columns, bias, (bias + moved_bias) / 2)
        chain.append((new, np.concatenate([mean, moved_bias[columns]])))
    return chain


def _move(kernel, bias, rows, columns):
    if rows is not None:
        kernel = kernel[rows]
    return (kernel, bias) if columns is None else (kernel[:, columns], bias[columns])
