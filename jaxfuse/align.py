"""Align two networks: one call from two parameter trees to one in the order of the other."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxfuse.affinity import Affinity, ExactGaussian, Gaussian, Linear
from jaxfuse.matching import (
    CoordinateAscent,
    FrankWolfe,
    GraduatedAssignment,
    Matching,
    Portfolio,
    Solver,
    build_problem,
)
from jaxfuse.matching.nodes import nest
from jaxfuse.matching.problem import Backend
from jaxfuse.matching.result import select
from jaxfuse.status import Status, is_concrete
from jaxfuse.symmetry import Symmetry, infer_chain, permute
from jaxfuse.symmetry.tree import check_same_trees, is_weight, map_named, named_leaves

PyTree = Any
Named = dict[str, jax.Array]

AFFINITIES: dict[str, Affinity] = {
    "linear": Linear(),
    "gaussian": Gaussian(),
    "exact_gaussian": ExactGaussian(),
}
SOLVERS: dict[str, Solver] = {
    "portfolio": Portfolio(),
    "frank_wolfe": FrankWolfe(),
    "graduated_assignment": GraduatedAssignment(),
    "coordinate_ascent": CoordinateAscent(),
}


class Alignment(NamedTuple):
    """Network B in the order of network A.

    Attributes:
        params: the parameters of B with their units reordered: same structure, shapes and dtypes.
        permutations: per group int32 `[n]`; unit i of A corresponds to unit `permutation[i]` of B.
            A group that something indexes has one for each of its entries, `[..., n]`, of shape
            `symmetry.shape(group)`, as `jaxfuse.permute` takes them.
        objective: the similarity that the matching reaches, float32.
        status: int32, a `jaxfuse.Status`.
        trace: float32 `[steps]`, the objective of the (soft) matching along the way.
    """

    params: PyTree
    permutations: dict[str, jax.Array]
    objective: jax.Array
    status: jax.Array
    trace: jax.Array


def align_params(
    params_a: PyTree,
    params_b: PyTree,
    *,
    symmetry: Symmetry | None = None,
    affinity: Affinity | str = "linear",
    solver: Solver | str = "portfolio",
    backend: Backend = "auto",
    key: jax.Array | None = None,
) -> Alignment:
    """Reorder the units of network B to match those of network A.

    B computes the same function afterwards, provided that the symmetry is the network's own: one
    that is read off the tree is right if the network is the chain it looks like, and
    `jaxfuse.verify` proves it. The call works as it is, under `jax.jit`, `jax.vmap` (over either
    argument or both) and inside `jax.lax.scan`, with the same answer; outside jit it compiles once
    per model and looks at the values. Under `jit` settings are passed as instances
    (`solver=jaxfuse.FrankWolfe()`), which are static, and names by `functools.partial`. A tree
    with leaves that are no arrays, such as an Equinox module, needs `eqx.filter_jit` there.

    Args:
        params_a: the reference: a Linen dict, an NNX state, an Equinox module, nested dicts or
            lists of arrays.
        params_b: the network to reorder, of the same structure and shapes. Leaves that are no
            arrays of real numbers are carried along.
        symmetry: which axes must be permuted together; read off the tree where the network is a
            feed-forward chain (`jaxfuse.infer_chain`).
        affinity: how edges are compared: "linear" (measured best on real pairs), "gaussian",
            "exact_gaussian", or an instance with its own settings.
        solver: how the matching is found: "portfolio" (measured best: Frank-Wolfe, and graduated
            assignment where that is clearly better), "frank_wolfe", "graduated_assignment",
            "coordinate_ascent", or an instance with its own settings.
        backend: who solves assignments, as in `jaxfuse.hungarian`: "auto" is SciPy on the host,
            "jax" stays on the device, for `jax.export` and programs without callbacks.
        key: source of randomness, for solvers that use it.

    Returns:
        An `Alignment`. Its status is ALREADY_ALIGNED where no matching beats the order they have,
        and NON_FINITE, with B as it was, where a weight is NaN or infinite.

    Raises:
        ValueError: for trees or shapes that do not fit each other or the symmetry; outside jit
            also for weights that are NaN or infinite.

    The permutations are not differentiable; gradients flow to B through the reordering.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> params_a = [jax.random.normal(k1, (4, 8)), jax.random.normal(k2, (8, 3))]
        >>> order = jnp.array([3, 1, 4, 7, 5, 2, 6, 0])
        >>> params_b = [params_a[0][:, order], params_a[1][order]]
        >>> alignment = jax.jit(align_params)(params_a, params_b)
        >>> bool(jnp.allclose(alignment.params[0], params_a[0]))
        True
    """
    check_same_trees(params_a, params_b, ("params_a", "params_b"))
    symmetry = infer_chain(params_a) if symmetry is None else symmetry
    symmetry.check(params_a)
    symmetry.check(params_b)
    affinity = _resolve("affinity", affinity, AFFINITIES)
    solver = _resolve("solver", solver, SOLVERS)
    weights_a, weights_b = _weights(params_a), _weights(params_b)
    concrete = is_concrete(*weights_a.values(), *weights_b.values())
    if concrete:
        _raise_non_finite(weights_a, "params_a")
        _raise_non_finite(weights_b, "params_b")
    matching = _match(weights_a, weights_b, key, symmetry, affinity, solver, backend)
    moved = permute(weights_b, symmetry, matching.permutations)
    params = map_named(lambda path, leaf: moved.get(path, leaf), params_b)
    return Alignment(
        params, matching.permutations, matching.objective, matching.status, matching.trace
    )


@functools.partial(jax.jit, static_argnames=("symmetry", "affinity", "solver", "backend"))
def _match(
    weights_a: Named,
    weights_b: Named,
    key: jax.Array | None,
    symmetry: Symmetry,
    affinity: Affinity,
    solver: Solver,
    backend: Backend,
) -> Matching:
    finite = jnp.bool_(True)
    for weights in (weights_a, weights_b):
        for leaf in weights.values():
            finite &= jnp.all(jnp.isfinite(leaf))
    # Values that are no numbers would spread to every score: the matching then runs on zeros.
    clean_a, clean_b = jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(jnp.where(finite, leaf, 0)), (weights_a, weights_b)
    )
    problem = build_problem(clean_a, clean_b, symmetry, affinity, backend)
    identity = problem.identity()
    if not identity:
        aligned = jnp.int32(Status.ALREADY_ALIGNED)
        matching = Matching({}, jnp.float32(0), aligned, jnp.zeros(1), jnp.int32(0))
    else:
        matching = solver.solve(problem, key=key)
    status = jnp.where(finite, matching.status, Status.NON_FINITE).astype(jnp.int32)
    permutations = nest(symmetry, select(finite, matching.permutations, identity))
    objective = jnp.where(finite, matching.objective, jnp.nan)
    return matching._replace(permutations=permutations, objective=objective, status=status)


Choice = TypeVar("Choice")


def _resolve(what: str, choice: Choice | str, table: Mapping[str, Choice]) -> Choice:
    if not isinstance(choice, str):
        if isinstance(choice, type):
            raise ValueError(f"{what}={choice.__name__} is a class: pass {choice.__name__}()")
        return choice
    if choice not in table:
        raise ValueError(f"{what}={choice!r} is none of {list(table)}, and no instance of its own")
    return table[choice]


def _weights(params: PyTree) -> Named:
    return {path: leaf for path, leaf in named_leaves(params).items() if is_weight(leaf)}


def _raise_non_finite(weights: Named, name: str) -> None:
    for path, leaf in weights.items():
        if not bool(jnp.all(jnp.isfinite(leaf))):
            raise ValueError(
                f"leaf {path!r} of {name} holds NaN or infinity: {Status.NON_FINITE.message}"
            )
