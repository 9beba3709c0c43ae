"""The objective of many networks, its optimum, and GAMF's scores, in float64 NumPy.

A network is a dict of arrays, and `axes` names per array the group of every axis, or None; the
axes of an edge's vector are left out of the loops by being None too.
"""

import itertools

import numpy as np


def objective(networks, axes, matchings):
    """Return J at matchings `[K, n, N]`, pair by pair."""
    count = len(networks)
    moved = [
        {path: _move(network[path], groups, matchings, k) for path, groups in axes.items()}
        for k, network in enumerate(networks)
    ]
    return sum(
        np.vdot(moved[k][path], moved[m][path])
        for k, m in itertools.combinations(range(count), 2)
        for path in axes
    )


def objective_at(networks, axes, orders):
    """Return J at orders `[K, N]`, -1 for none."""
    sizes = {
        group: size
        for path, groups in axes.items()
        for group, size in zip(groups, np.shape(networks[0][path]), strict=True)
        if group
    }
    matchings = {
        group: np.stack([_matrix(row, sizes[group]) for row in np.asarray(order)])
        for group, order in orders.items()
    }
    return objective(networks, axes, matchings)


def scores(networks, axes, matchings, k):
    """Return dJ/dU_k by central differences, exact for a J of degree two in one network."""
    slopes = {}
    for group, each in matchings.items():
        slope = np.zeros(each[k].shape)
        for index in np.ndindex(*slope.shape):
            ends = []
            for sign in (1, -1):
                changed = {g: np.array(u, np.float64) for g, u in matchings.items()}
                changed[group][(k, *index)] += sign
                ends.append(objective(networks, axes, changed))
            slope[index] = (ends[0] - ends[1]) / 2
        slopes[group] = slope
    return slopes


def optimum(networks, axes, sizes):
    """Return the largest J over all orders of all networks but the first, by brute force."""
    choices = list(itertools.product(*(itertools.permutations(range(n)) for n in sizes.values())))
    features = []
    for network in networks:
        rows = []
        for choice in choices:
            order = dict(zip(sizes, choice, strict=True))
            parts = []
            for path, groups in axes.items():
                block = np.asarray(network[path], np.float64)
                for axis, group in enumerate(groups):
                    if group:
                        block = np.take(block, order[group], axis=axis)
                parts.append(block.ravel())
            rows.append(np.concatenate(parts))
        features.append(np.array(rows))
    features[0] = features[0][:1]
    shape = [len(each) for each in features]
    total = np.zeros(shape)
    for k, m in itertools.combinations(range(len(networks)), 2):
        view = [1] * len(networks)
        view[k], view[m] = shape[k], shape[m]
        total += (features[k] @ features[m].T).reshape(view)
    return total.max()


def gamf_scores(networks, axes, matchings, k, kernel, sigma=None):
    """Return GAMF's R_k `[n, N]` of every group.

    Args:
        networks: K dicts of arrays with one or two groups each.
        axes: per array the groups of its axes.
        matchings: per group U, `[K, n, N]`.
        k: the network.
        kernel: "blurred", the paper's sums over elements, or "row", the code's over rows.
        sigma: per array, for "blurred".
    """
    result = {group: np.zeros(each[k].shape) for group, each in matchings.items()}
    for path, groups in axes.items():
        for axis, group in enumerate(groups):
            if not group:
                continue
            others = [o for o, g in enumerate(groups) if g and o != axis]
            for m in range(len(networks)):
                if m == k:
                    continue
                mine, theirs = (np.asarray(networks[x][path], np.float64) for x in (k, m))
                for other in others:
                    u = matchings[groups[other]]
                    if kernel == "blurred":
                        mine = _along(mine, other, u[k])
                        theirs = _along(theirs, other, u[m])
                    else:
                        mine = _along(mine, other, u[k] @ u[m].T)
                mine, theirs = np.moveaxis(mine, axis, 0), np.moveaxis(theirs, axis, 0)
                if kernel == "blurred":
                    # Elements are the far units; what is left of an edge is its vector.
                    a, b = (_edges(x, axis, others) for x in (mine, theirs))
                    pair = np.exp(
                        -np.sum(np.square(a[:, None] - b[None]), axis=-1) / sigma[path]
                    ).sum(-1)
                else:
                    a, b = mine.reshape(len(mine), -1), theirs.reshape(len(theirs), -1)
                    distance = np.sum((a[:, None] - b[None]) ** 4, axis=-1) ** 0.25
                    pair = np.exp(-0.5 * distance)
                    pair = pair / pair.mean()
                result[group] += pair @ matchings[group][m]
    return result


def _edges(array, axis, others):
    """Arrange an array whose first axis is `axis` as `[n, far units, vector]`.

    With one group, the other axes are far units of vectors of one entry.
    """
    rest = [a for a in range(array.ndim) if a != axis]
    if not others:
        return array.reshape(len(array), -1, 1)
    far = rest.index(others[0]) + 1
    array = np.moveaxis(array, far, 1)
    return array.reshape(len(array), array.shape[1], -1)


def _move(array, groups, matchings, k):
    array = np.asarray(array, np.float64)
    for axis, group in enumerate(groups):
        if group:
            array = _along(array, axis, np.asarray(matchings[group][k], np.float64))
    return array


def _along(array, axis, matching):
    """Multiply one axis by a matching `[n, N]`."""
    return np.moveaxis(np.tensordot(array, matching, axes=(axis, 0)), -1, axis)


def _matrix(order, size):
    matrix = np.zeros((size, len(order)))
    for slot, unit in enumerate(order):
        if unit >= 0:
            matrix[unit, slot] = 1
    return matrix
