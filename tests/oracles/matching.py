"""The matching objective in float64 NumPy, and its optimum over all permutations."""

import itertools
from typing import NamedTuple

import numpy as np

from tests.oracles import affinity


class Objective(NamedTuple):
    """Node scores per group, and per tensor its two groups and its affinity K[i, a, j, b]."""

    nodes: dict
    tensors: list

    def value(self, matching):
        """Return J at matchings `[n, n]`."""
        total = sum(np.vdot(c, np.float64(matching[g])) for g, c in self.nodes.items())
        return total + sum(affinity.value(k, matching[g], matching[h]) for g, h, k in self.tensors)

    def scores(self, matching):
        """Return dJ/dP of every group."""
        total = {g: np.array(c) for g, c in self.nodes.items()}
        for g, h, k in self.tensors:
            total[g] += affinity.row_scores(k, matching[h])
            total[h] += affinity.column_scores(k, matching[g])
        return total

    def value_at(self, permutations):
        """Return J at permutations `[n]`."""
        total = sum(c[np.arange(len(c)), permutations[g]].sum() for g, c in self.nodes.items())
        for g, h, k in self.tensors:
            n, m = k.shape[:2]
            p, q = np.asarray(permutations[g]), np.asarray(permutations[h])
            i, a = np.arange(n)[:, None], np.arange(m)[None]
            total += k[i, a, p[:, None], q[None]].sum()
        return total

    def optimum(self):
        """Return the largest J, and permutations that reach it, by brute force."""
        groups = list(self.nodes)
        every = [
            [np.array(p) for p in itertools.permutations(range(len(self.nodes[g])))] for g in groups
        ]
        best = max(
            (dict(zip(groups, choice, strict=True)) for choice in itertools.product(*every)),
            key=self.value_at,
        )
        return self.value_at(best), best


def chain_objective(kernels_a, kernels_b, kernel=affinity.linear):
    """Return the objective of two chains of dense kernels `[in, out]` without biases."""
    nodes, tensors = {}, []
    for index, (a, b) in enumerate(zip(kernels_a[:-1], kernels_b[:-1], strict=True)):
        n = a.shape[1]
        nodes[str(index)] = np.zeros((n, n))
        if index:
            k = kernel(np.asarray(a)[..., None], np.asarray(b)[..., None])
            tensors.append((str(index - 1), str(index), k))
    first, *_, last = [*nodes, *nodes]
    for group, a, b in (
        (first, np.transpose(kernels_a[0]), np.transpose(kernels_b[0])),
        (last, np.asarray(kernels_a[-1]), np.asarray(kernels_b[-1])),
    ):
        k = kernel(a[..., None], b[..., None])
        nodes[group] = nodes[group] + affinity.row_scores(k, np.eye(a.shape[1]))
    return Objective(nodes, tensors)
