"""Small problems of many networks, and the schemes that are tested on them."""

import functools

import jax
import numpy as np

from jaxfuse.affinity import Linear
from jaxfuse.many import (
    GAMF,
    AllToOne,
    Hierarchical,
    MergeMany,
    Sequential,
    UniverseFrankWolfe,
    build_many,
)
from jaxfuse.matching import CoordinateAscent, FrankWolfe, GraduatedAssignment
from jaxfuse.symmetry import Symmetry
from tests.matching.instances import residual_network

WALK = FrankWolfe(polish=None)
COOLING = GAMF(gamma=0.1 ** (1 / 3), max_sweeps=1, update="jacobi", polish=None)
PLAIN = GraduatedAssignment(steps=4, reaction=0.0, balanced=False, polish=None)

# Each scheme with the two-model solver that it is for two networks.
SCHEMES = {
    "all_to_one": (AllToOne(WALK), WALK),
    "sequential": (Sequential(WALK), WALK),
    "hierarchical": (Hierarchical(WALK), WALK),
    "merge_many": (MergeMany(start=None), CoordinateAscent()),
    "universe_frank_wolfe": (UniverseFrankWolfe(polish=None), WALK),
    "gamf": (COOLING, PLAIN),
}
AXES = {
    "W0": (None, "r"),
    "WO": ("r", None),
    "U0": ("r", "h0"),
    "V0": ("h0", "r"),
    "b0": ("h0",),
}
SIZES = {"r": 4, "h0": 3}


@functools.partial(jax.jit, static_argnums=0)
def solve(scheme, problem, key=None):
    """Match, compiled once per scheme and shape."""
    return scheme.solve_many(problem, key)


@functools.partial(jax.jit, static_argnums=1)
def build(networks, symmetry):
    """Build a problem, compiled."""
    return build_many(networks, symmetry, Linear())


@jax.jit
def objective(problem, matchings):
    """Return J at soft matchings, compiled."""
    return problem.objective(matchings)


@jax.jit
def objective_at(problem, orders):
    """Return J at orders, compiled."""
    return problem.objective_at(orders)


def independent(seed, count=4):
    """Return independent residual networks, and their symmetry."""
    networks = [residual_network(100 * seed + k)[0] for k in range(count)]
    return networks, residual_network(0)[1]


def one_layer(seed, count=3):
    """Return independent networks of one group, which compile fast, and their symmetry."""
    rng = np.random.default_rng(seed)
    networks = [{"w": np.float32(rng.standard_normal((3, 4)))} for _ in range(count)]
    return networks, Symmetry.from_axes({"w": (None, "h")}, networks[0])


def planted(seed, count=4, noise=0.1):
    """Return noisy copies of one network in random orders, its symmetry, and the right orders."""
    rng = np.random.default_rng(seed)
    base, symmetry = residual_network(seed)
    base = {path: np.array(leaf) for path, leaf in base.items()}
    base["W0"] = 3 * rng.standard_normal((3, 4))
    networks, orders = [], []
    for k in range(count):
        own = {g: rng.permutation(n) if k else np.arange(n) for g, n in SIZES.items()}
        noisy = {
            path: np.float32(leaf + noise * rng.standard_normal(leaf.shape))
            for path, leaf in base.items()
        }
        networks.append(reorder(noisy, own))
        orders.append({g: np.argsort(p) for g, p in own.items()})
    return networks, symmetry, {g: np.stack([o[g] for o in orders]) for g in SIZES}


def reorder(network, orders):
    """Return a network with its units in other orders, NumPy alone."""
    moved = {}
    for path, leaf in network.items():
        moved[path] = np.asarray(leaf)
        for axis, group in enumerate(AXES[path]):
            if group:
                moved[path] = np.take(moved[path], orders[group], axis=axis)
    return moved


def fused(networks, orders):
    """Return the mean of the networks in the order of the first."""
    moved = [
        reorder(network, {g: np.asarray(order[k]) for g, order in orders.items()})
        for k, network in enumerate(networks)
    ]
    return {path: np.mean([each[path] for each in moved], axis=0) for path in AXES}


def soft_matchings(seed, count=4, sizes=SIZES):
    """Return random positive matrices `[K, n, n]` whose rows sum to one."""
    rng = np.random.default_rng(seed)
    drawn = {g: rng.random((count, n, n)) for g, n in sizes.items()}
    return {g: np.float32(u / u.sum(-1, keepdims=True)) for g, u in drawn.items()}
