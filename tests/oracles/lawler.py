"""The affinity of all candidate pairs written out, and the classical matchers on it, in float64."""

from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from tests.oracles.assignment import sinkhorn_plan


def dense(objective):
    """Return M, with J(P) = x^T M x at permutations, and per group the slice of its pairs."""
    sizes = [len(terms) for terms in objective.nodes.values()]
    ends = np.cumsum([0, *(n * n for n in sizes)])
    where = dict(zip(objective.nodes, map(slice, ends[:-1], ends[1:]), strict=True))
    affinity = np.diag(np.concatenate([terms.ravel() for terms in objective.nodes.values()]))
    for g, h, k in objective.tensors:
        n, m = k.shape[:2]
        block = k.transpose(0, 2, 1, 3).reshape(n * n, m * m)
        affinity[where[g], where[h]] += block / 2
        affinity[where[h], where[g]] += block.T / 2
    return affinity, where


def flat(matching, where):
    """Join the matrices of all groups into one vector."""
    return np.concatenate([np.float64(matching[g]).ravel() for g in where])


def matrices(vector, where):
    """Part a vector into one matrix per group."""
    return {g: vector[pairs].reshape(2 * (_side(pairs),)) for g, pairs in where.items()}


def conflicts(n):
    """Return which two candidate pairs of one group contradict each other, bool `[n^2, n^2]`."""
    i, j = (index.ravel() for index in np.indices((n, n)))
    same = (i[:, None] == i[None]) | (j[:, None] == j[None])
    return same & ~np.eye(n * n, dtype=bool)


def random_walk(affinity, where, steps, alpha=0.2, beta=30.0):
    """Return x after some steps of RRWM (Cho et al., 2010, algorithm 1), of mass n per group."""
    x = np.concatenate([np.full(_side(pairs) ** 2, 1 / _side(pairs)) for pairs in where.values()])
    for _ in range(steps):
        walked = affinity @ x
        for pairs in where.values():
            w = walked[pairs] - min(walked[pairs].min(), 0)
            w *= _side(pairs) / w.sum()
            square = w.reshape(_side(pairs), -1)
            jump = sinkhorn_plan(square, square.max() / beta, tolerance=1e-7)
            x[pairs] = alpha * w + (1 - alpha) * jump.ravel()
    return x


def integer_projected(affinity, where, steps=50):
    """Return the best matching that IPFP (Leordeanu et al., 2009) meets, and its value."""
    x = np.concatenate([np.full(_side(pairs) ** 2, 1 / _side(pairs)) for pairs in where.values()])
    best, best_value = None, -np.inf
    for _ in range(steps):
        slope = affinity @ x
        chosen = {
            g: linear_sum_assignment(s, maximize=True)[1] for g, s in matrices(slope, where).items()
        }
        b = flat({g: np.eye(len(p))[p] for g, p in chosen.items()}, where)
        c, d = slope @ (b - x), (b - x) @ affinity @ (b - x)
        if b @ affinity @ b > best_value:
            best, best_value = chosen, b @ affinity @ b
        moved = x + (1.0 if d >= 0 else min(-c / d, 1.0)) * (b - x)
        if np.allclose(moved, x, atol=1e-12):
            break
        x = moved
    return best, best_value


def zero_sum_basis(n):
    """Return an orthonormal basis of the matrices whose rows and columns sum to zero."""
    vectors = np.zeros((n, n - 1))
    for column, (_, last) in enumerate(pairwise(range(n))):
        vectors[:last, column], vectors[last, column] = 1, -last
    vectors /= np.linalg.norm(vectors, axis=0)
    return np.kron(vectors, vectors)


def _side(pairs):
    return round((pairs.stop - pairs.start) ** 0.5)
