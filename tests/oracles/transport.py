"""Transport plans, OTFusion and PFNM in float64 NumPy, from the published formulas."""

import itertools

import numpy as np
import scipy.optimize


def exact_plan(mu, nu, cost):
    """Return the transport plan of least cost by linear programming."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    found = scipy.optimize.linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([mu, nu])
    )
    assert found.success
    return found.x.reshape(n, m)


def entropic_plan(mu, nu, cost, tau, steps=5000):
    """Return the plan that minimises cost minus tau times entropy, by Sinkhorn's iteration."""
    kernel = np.exp(-(cost - cost.min()) / tau)
    v = np.ones(len(nu))
    for _ in range(steps):
        u = mu / (kernel @ v)
        v = nu / (kernel.T @ u)
    return u[:, None] * kernel * v[None]


def distances(a, b):
    """Return Euclidean distances `[n, m]` between rows."""
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


def uniform(rows):
    """Return equal masses."""
    return np.full(len(rows), 1 / len(rows))


def importance(rows):
    """Return masses in proportion to the norms of rows."""
    norms = np.linalg.norm(rows, axis=1)
    return norms / norms.sum()


def ot_chain(first, other, plan=exact_plan, masses=uniform, average=False):
    """Transport a chain of kernels `[out, in]` to another; return the maps and the kernels.

    Singh and Jaggi, algorithm 1, with the last layer left in its order. Inputs are multiplied with
    the plan over the source's masses, or, as published, over the target's.
    """
    back = np.eye(first[0].shape[1])
    maps, moved = [], []
    for depth, (mine, theirs) in enumerate(zip(first, other, strict=True)):
        theirs = theirs @ back
        if depth == len(first) - 1:
            return maps, [*moved, theirs]
        mu, nu = masses(theirs), masses(mine)
        found = plan(mu, nu, distances(theirs, mine))
        to = (found / nu[None]).T
        back = found / nu[None] if average else found / mu[:, None]
        maps.append((to, back))
        moved.append(to @ theirs)
    return None


def pfnm_score(unit, members, count, networks, rank, prior, gamma, sigma, sigma0):
    """Return proposition 2 of PFNM: unit with the members of a common one, or as the rank-th new.

    Args:
        unit: `[d]`.
        members: rows `[m, d]`.
        count: m; zero for a new one.
        networks: K.
        rank: of a new one, from 1.
        prior: mean `[d]`.
        gamma: mass of the process.
        sigma: around a common unit.
        sigma0: of common units.
    """
    base = prior / sigma0**2 + np.sum(members, axis=0) / sigma**2
    precision = 1 / sigma0**2 + count / sigma**2
    data = np.sum((base + unit / sigma**2) ** 2) / (precision + 1 / sigma**2)
    data -= np.sum(base**2) / precision
    if count:
        return data + 2 * np.log(count / (networks - count))
    return data - 2 * np.log(rank) + 2 * np.log(gamma / networks)


def pfnm_layer(networks, prior, turns, gamma, sigma, sigma0):
    """Match units to common ones, network after network, with assignments by brute force.

    Args:
        networks: K arrays `[n_k, d]`.
        prior: mean `[d]`.
        turns: the networks in the order in which they are matched, again and again.
        gamma: mass of the process.
        sigma: around a common unit.
        sigma0: of common units.

    Returns:
        The common units, each as a set of pairs of network and unit.
    """
    common = []
    for k in turns:
        common = [{pair for pair in each if pair[0] != k} for each in common]
        common = [each for each in common if each]
        units = networks[k]
        columns = len(common) + len(units)
        scores = np.array(
            [
                [
                    pfnm_score(
                        unit,
                        [networks[other][i] for other, i in common[c]]
                        if c < len(common)
                        else [0 * unit],
                        len(common[c]) if c < len(common) else 0,
                        len(networks),
                        c - len(common) + 1,
                        prior,
                        gamma,
                        sigma,
                        sigma0,
                    )
                    for c in range(columns)
                ]
                for unit in units
            ]
        )
        rows = np.arange(len(units))
        best = max(
            itertools.permutations(range(columns), len(units)),
            key=lambda choice: scores[rows, list(choice)].sum(),
        )
        common += [set() for _ in units]
        for unit, column in enumerate(best):
            common[column].add((k, unit))
        common = [each for each in common if each]
    return common


def map_leaf(leaf, axes, to, back, roles):
    """Multiply the axes of an array: `roles` says per axis "to", "back" or nothing."""
    for axis, (name, role) in enumerate(zip(axes, roles, strict=True)):
        if role == "to":
            leaf = np.moveaxis(np.tensordot(to[name], leaf, (1, axis)), 0, axis)
        elif role == "back":
            leaf = np.moveaxis(np.tensordot(back[name].T, leaf, (1, axis)), 0, axis)
    return leaf
