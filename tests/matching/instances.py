"""Small matching problems with their oracles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.affinity import Linear
from jaxfuse.matching import (
    CoordinateAscent,
    FrankWolfe,
    GraduatedAssignment,
    Portfolio,
    Problem,
    build_problem,
)
from jaxfuse.matching.stacked import stack
from jaxfuse.symmetry import Symmetry
from tests.oracles import affinity
from tests.oracles.matching import Objective
from tests.symmetry.nested import NETWORKS, draw, on_device

SOLVERS = {
    "coordinate_ascent": CoordinateAscent(),
    "coordinate_ascent_random": CoordinateAscent(order="random"),
    "frank_wolfe": FrankWolfe(),
    "graduated_assignment": GraduatedAssignment(),
    "graduated_assignment_plain": GraduatedAssignment(reaction=0.0),
    "portfolio": Portfolio(),
}


@functools.partial(jax.jit, static_argnums=0)
def solve(solver, problem, key):
    """Solve, compiled once per solver and shape."""
    return solver.solve(problem, key=key)


@functools.partial(jax.jit, static_argnums=(2, 3))
def residual_problem(params_a, params_b, symmetry, affinity=None):
    """Build a problem, compiled."""
    return build_problem(params_a, params_b, symmetry, affinity or Linear())


def residual_network(seed, *, stream=4, inner=3, blocks=1, bias=True):
    """Return a residual MLP x W0 + sum of blocks (U, V), with output WO, and its symmetry."""
    rng = np.random.default_rng(seed)
    shapes = {"W0": (3, stream), "WO": (stream, 2)}
    axes = {"W0": (None, "r"), "WO": ("r", None)}
    for b in range(blocks):
        shapes |= {f"U{b}": (stream, inner), f"V{b}": (inner, stream)}
        axes |= {f"U{b}": ("r", f"h{b}"), f"V{b}": (f"h{b}", "r")}
        if bias:
            shapes |= {f"b{b}": (inner,)}
            axes |= {f"b{b}": (f"h{b}",)}
    params = {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}
    return params, Symmetry.from_axes(axes, params)


def alone(block, *nodes):
    """Return the blocks and links of a problem of one tensor."""
    return stack([block], [[0]]), ((nodes,),)


def residual_objective(a, b):
    """Return the oracle of the linear objective of two one-block residual networks."""
    a, b = ({k: np.float64(v) for k, v in params.items()} for params in (a, b))
    nodes = {
        "r": a["W0"].T @ b["W0"] + a["WO"] @ b["WO"].T,
        "h0": np.outer(a["b0"], b["b0"]),
    }
    tensors = [
        ("r", "h0", affinity.linear(a["U0"][..., None], b["U0"][..., None])),
        ("h0", "r", affinity.linear(a["V0"][..., None], b["V0"][..., None])),
    ]
    return Objective(nodes, tensors)


def self_linked(seed, n=4):
    """Return a problem whose one tensor joins a group with itself, and its oracle."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, n, n, 1))
    nodes = rng.standard_normal((n, n))
    a, b, nodes = (np.float32(x) for x in (a, b, nodes))
    block = Linear().block(jnp.asarray(a), jnp.asarray(b))
    problem = Problem({"g": jnp.asarray(nodes)}, *alone(block, "g", "g"))
    return problem, Objective({"g": np.float64(nodes)}, [("g", "g", affinity.linear(a, b))])


def nested_problem(name, seed=0, **sizes):
    """Return the problem of two random networks with nested groups, with all it was made of."""
    shapes, symmetry = NETWORKS[name](**sizes)
    a, b = (on_device(draw(shapes, s)) for s in (seed, 100 + seed))
    return residual_problem(a, b, symmetry), a, b, symmetry
