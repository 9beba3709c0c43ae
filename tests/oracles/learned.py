"""What the learned matchers compute, in float64 NumPy."""

import itertools

import numpy as np

from tests.oracles.assignment import sinkhorn_plan


def soft_plans(free, parents, tau):
    """Return the flat doubly stochastic matrices of free parameters, entry by entry."""
    plans = {}
    for node, scores in free.items():
        plan = sinkhorn_plan(scores, tau)
        if node in parents:
            outer = plans[parents[node]]
            entries, _, n, _ = plan.shape
            flat = np.zeros((entries * n, entries * n))
            for i, j, a, b in np.ndindex(plan.shape):
                flat[i * n + a, j * n + b] = outer[i, j] * plan[i, j, a, b]
            plan = flat
        plans[node] = plan
    return plans


def moved_chain(params, plans):
    """Return a chain `w0, b0, w1, ...` whose hidden layers, "w0", "w1", ... are mapped by plans."""
    params = {path: np.float64(leaf) for path, leaf in params.items()}
    moved, depth = {}, sum(path.startswith("w") for path in params)
    for layer in range(depth):
        w = params[f"w{layer}"]
        if layer:
            w = plans[f"w{layer - 1}"] @ w
        if layer < depth - 1:
            w = w @ plans[f"w{layer}"].T
            moved[f"b{layer}"] = plans[f"w{layer}"] @ params[f"b{layer}"]
        moved[f"w{layer}"] = w
    return moved


def distance(kind, params_a, params_b):
    """Return how far two dicts of weights are apart."""
    pairs = [(np.float64(leaf), params_b[path]) for path, leaf in params_a.items()]
    if kind == "cosine":
        return np.mean(
            [1 - (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
        )
    power = 2 if kind == "l2" else 1
    return sum((np.abs(a - b) ** power).sum() for a, b in pairs) / sum(
        (np.abs(a) ** power).sum() for a, _ in pairs
    )


def all_distances(kind, params_a, params_b, sizes):
    """Return the distances of A and all reordered B, the smallest first, by brute force."""
    every = [[np.eye(n)[list(p)] for p in itertools.permutations(range(n))] for n in sizes.values()]
    return np.sort(
        [
            distance(kind, params_a, moved_chain(params_b, dict(zip(sizes, plans, strict=True))))
            for plans in itertools.product(*every)
        ]
    )


def cross_entropy(logits, targets):
    """Return the mean cross entropy with labels `[samples]` or probabilities."""
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    said = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    targets = np.asarray(targets)
    if targets.ndim < logits.ndim:
        targets = np.eye(logits.shape[-1])[targets]
    return -np.mean(np.sum(np.float64(targets) * said, axis=-1))


def softmax(logits):
    """Return probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
