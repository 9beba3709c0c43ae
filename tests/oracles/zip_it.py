"""ZipIt's greedy merging in plain loops."""

import itertools

import numpy as np


def zip_groups(similarity, widths, units, alpha, beta):
    """Return the merged groups as sorted tuples of units, in the order of their first.

    Stoica et al., ICLR 2024, section 4.3: the most similar pair of units becomes one, whose
    similarity is the minimum of the two times alpha, and a network merges within itself at most
    beta times its part of all merges. Merges that this forbids come last.
    """
    network = np.repeat(np.arange(len(widths)), widths)
    total = len(network)
    likeness = {
        frozenset(pair): float(similarity[pair]) for pair in itertools.combinations(range(total), 2)
    }
    members = {unit: {unit} for unit in range(total)}
    budget = [int(beta * (total - units) / len(widths) + 1e-6)] * len(widths)

    def parts(unit):
        return [network[member] for member in members[unit]]

    def closed(i, j):
        both = set(parts(i)) & set(parts(j))
        again = alpha == 0 and both and max(len(members[i]), len(members[j])) > 1
        return again or any(budget[k] <= 0 for k in both)

    while len(members) > units:
        pairs = itertools.combinations(sorted(members), 2)
        i, j = max(pairs, key=lambda pair: (not closed(*pair), likeness[frozenset(pair)]))
        for k in set(parts(i)) & set(parts(j)):
            budget[k] -= 1
        members[i] |= members.pop(j)
        for other in members:
            if other != i:
                smaller = min(likeness[frozenset((i, other))], likeness[frozenset((j, other))])
                likeness[frozenset((i, other))] = smaller * (alpha or 1)
    return [tuple(sorted(members[unit])) for unit in sorted(members)]


def merge_matrices(groups, widths):
    """Return per network the averages `to` and the copies `back`, and the mass `[K, N]`."""
    starts = np.cumsum([0, *widths])
    to, back, mass = [], [], []
    for k, width in enumerate(widths):
        copies = np.zeros((width, len(groups)))
        for u, group in enumerate(groups):
            for member in group:
                if starts[k] <= member < starts[k + 1]:
                    copies[member - starts[k], u] = 1
        count = copies.sum(axis=0)
        to.append(copies.T / np.maximum(count, 1)[:, None])
        back.append(copies)
        mass.append(count)
    return to, back, np.stack(mass)


def likeness(samples, compare):
    """Return how alike units are, from samples `[samples, M]`."""
    if compare == "correlation":
        return np.corrcoef(samples.T)
    centred = samples - samples.mean(axis=0)
    distance = np.mean((centred[:, :, None] - centred[:, None, :]) ** 2, axis=0)
    return 1 - distance / distance.max()
