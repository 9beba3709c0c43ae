"""From networks and a method to their correspondence: the compiled core of the public calls."""

import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.activations.objective import activation_scores
from jaxfuse.affinity import Affinity, ExactGaussian, Gaussian, Linear
from jaxfuse.correspondence import Correspondence, Method
from jaxfuse.many.all_to_one import AllToOne
from jaxfuse.many.problem import build_many
from jaxfuse.matching import Solver, build_problem
from jaxfuse.matching.graduated_assignment import noise_scale
from jaxfuse.matching.nodes import nest
from jaxfuse.matching.problem import Backend, Problem
from jaxfuse.methods import METHODS, AnyMethod
from jaxfuse.networks import ApplyFunction, Networks
from jaxfuse.status import Status, is_concrete
from jaxfuse.symmetry import Symmetry, infer_chain, infer_symmetry, permute
from jaxfuse.symmetry.tree import check_same_trees, is_weight, map_named, named_leaves
from jaxfuse.transport.checks import check_function
from jaxfuse.transport.maps import Maps, map_params, maps_of_orders
from jaxfuse.transport.procrustes import Procrustes
from jaxfuse.transport.scale import ScaleAlignment

PyTree = Any
AFFINITIES: dict[str, Affinity] = {
    "linear": Linear(),
    "normalised": Linear(normalised=True),
    "gaussian": Gaussian(),
    "exact_gaussian": ExactGaussian(),
}
_DEFAULTS = {"affinity": Linear(), "activation_weight": 3.0, "backend": "auto"}


class Found(NamedTuple):
    """A correspondence in the words of the groups: `permutations` `[K, ...]`, or `maps`."""

    orders: dict[str, jax.Array] | None
    permutations: dict[str, jax.Array]
    objective: jax.Array
    status: jax.Array
    trace: jax.Array
    seconds: float | jax.Array
    maps: Maps | None


def prepare(
    params: Sequence[PyTree],
    names: Sequence[str],
    *,
    method: AnyMethod | str,
    symmetry: Symmetry | Sequence[Symmetry] | None,
    apply_fn: ApplyFunction | None,
    inputs: PyTree,
    targets: Any,
) -> tuple[Networks, AnyMethod]:
    """Check the arguments of a public call and bring them into one form.

    Raises:
        ValueError: for what shapes tell; outside jit also for weights that are NaN or infinite.
    """
    method = resolve("method", method, {name: entry.method for name, entry in METHODS.items()})
    if inputs is not None and apply_fn is None:
        raise ValueError("inputs= needs apply_fn=, the function to run them through")
    arguments = () if inputs is None else inputs if isinstance(inputs, tuple) else (inputs,)
    for name, other in zip(names[1:], params[1:], strict=True):
        # Methods of their own look at widths themselves.
        check_same_trees(params[0], other, (names[0], name), shapes=not isinstance(method, Method))
    symmetries = _symmetries(params, symmetry, apply_fn, arguments)
    weights = [_weights(tree) for tree in params]
    for name, tree, own, leaves in zip(names, params, symmetries, weights, strict=True):
        own.check(tree)
        if is_concrete(*leaves.values()):
            _raise_non_finite(leaves, name)
    if not arguments:
        return Networks(tuple(weights), symmetries), method
    if all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(tuple(params))):
        return Networks(tuple(params), symmetries, arguments, targets, apply_fn), method
    assert apply_fn is not None
    rebuilt = Rebuilt.of(apply_fn, params[0])
    return Networks(tuple(weights), symmetries, arguments, targets, rebuilt), method


@dataclass(frozen=True)
class Rebuilt:
    """A function of a tree some of whose leaves are no arrays, as a function of its weights.

    Attributes:
        apply_fn: the function.
        structure: of the tree.
        paths: of its leaves.
        others: pairs of path and leaf, for those that are no weights.
    """

    apply_fn: ApplyFunction
    structure: Any
    paths: tuple[str, ...]
    others: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, apply_fn: ApplyFunction, params: PyTree) -> "Rebuilt":
        """Keep what of a tree is no weight."""
        leaves = named_leaves(params)
        others = tuple((path, leaf) for path, leaf in leaves.items() if not is_weight(leaf))
        return cls(apply_fn, jax.tree.structure(params), tuple(leaves), others)

    def __call__(self, weights: Mapping[str, jax.Array], *inputs: PyTree) -> PyTree:
        """Put the weights back into the tree and call the function."""
        leaves = {**dict(self.others), **weights}
        tree = jax.tree.unflatten(self.structure, [leaves[path] for path in self.paths])
        return self.apply_fn(tree, *inputs)


def search(
    networks: Networks,
    method: AnyMethod,
    affinity: Affinity | str,
    activation_weight: float,
    backend: Backend,
    key: jax.Array | None,
) -> Found:
    """Run a method; outside jit wait for its result and say how long it took."""
    affinity = resolve("affinity", affinity, AFFINITIES)
    if activation_weight < 0:
        raise ValueError(f"activation_weight must be zero or more, got {activation_weight}")
    if isinstance(method, Method):
        method = _set(method, affinity, activation_weight, backend)
    # What is concrete has been looked at already.
    finite = is_concrete(*jax.tree.leaves(networks.params))
    started = time.perf_counter()
    found, permutations = _search(
        networks, key, method, affinity, activation_weight, backend, finite
    )
    seconds: float | jax.Array = float("nan")
    if is_concrete(*jax.tree.leaves(found)):
        jax.block_until_ready(found)
        seconds = time.perf_counter() - started
    maps = found.maps
    if maps is not None and is_concrete(*jax.tree.leaves(maps)):
        maps = maps.trim()
        if isinstance(method, (Procrustes, ScaleAlignment)):
            # Their maps leave every network's function as it is, or are not allowed.
            check_function(networks, maps, type(method).__name__)
    return Found(
        found.orders, permutations, found.objective, found.status, found.trace, seconds, maps
    )


def _set(method: Method, affinity: Affinity, activation_weight: float, backend: Backend) -> Method:
    """Give a method with settings of its own those of the call.

    Raises:
        ValueError: for one that it has no use for.
    """
    asked = {"affinity": affinity, "activation_weight": activation_weight, "backend": backend}
    asked = {name: value for name, value in asked.items() if value != _DEFAULTS[name]}
    for name, value in asked.items():
        if not hasattr(method, name):
            raise ValueError(
                f"{name}={value!r} has no meaning for {type(method).__name__}: leave it out"
            )
    return replace(method, **asked) if asked else method  # pyright: ignore[reportArgumentType]


@functools.partial(
    jax.jit, static_argnames=("method", "affinity", "activation_weight", "backend", "known_finite")
)
def _search(
    networks: Networks,
    key: jax.Array | None,
    method: AnyMethod,
    affinity: Affinity,
    activation_weight: float,
    backend: Backend,
    known_finite: bool,
) -> tuple[Correspondence, dict[str, jax.Array]]:
    # A solver's problem holds the weights that matter, in few arrays, and tells by itself.
    by_problem = isinstance(method, Solver) and networks.count == 2
    finite = jnp.bool_(True)
    if not known_finite:
        told = dict.fromkeys((path for tree in networks.params for path in _weights(tree)), 0)
        for tensor in networks.symmetry.tensors if by_problem else ():
            if tensor.path in told and any(tensor.groups) and not tensor.statistic:
                told[tensor.path] += math.prod(tensor.shape)
        every = [item for tree in networks.params for item in _weights(tree).items()]
        finite = _all_finite([leaf for path, leaf in every if told[path] < jnp.size(leaf)])

    # Values that are no numbers would spread to every score. A solver ends on them all the same,
    # and what it finds is not used; other methods run on zeros then.
    unclean = None if known_finite or by_problem else finite
    networks = replace(networks, params=_cleaned(networks.params, unclean))
    found: Correspondence
    if not networks.symmetry.groups:
        found = _nothing_to_match()
    elif isinstance(method, Method):
        found = method.align(networks, key)
    else:
        found = _match_weights(networks, method, affinity, activation_weight, backend, key)
    if by_problem and not known_finite:
        finite &= found.status != Status.NON_FINITE
    orders, permutations = found.orders, {}
    if orders and found.maps is None:
        if not known_finite:
            identity = {
                node: jnp.broadcast_to(jnp.arange(order.shape[1], dtype=jnp.int32), order.shape)
                for node, order in orders.items()
            }
            orders = {node: jnp.where(finite, o, identity[node]) for node, o in orders.items()}
        permutations = jax.vmap(functools.partial(nest, networks.symmetry))(orders)
    status = jnp.where(finite, found.status, Status.NON_FINITE).astype(jnp.int32)
    objective = jnp.where(finite, found.objective, jnp.nan)
    return found._replace(orders=orders, status=status, objective=objective), permutations


def move(
    params: PyTree,
    symmetry: Symmetry,
    k: int,
    permutations: dict[str, jax.Array],
    maps: Maps | None,
) -> PyTree:
    """Bring network k into the common order or space."""
    if maps is not None:
        return map_params(params, symmetry, *maps.of(k))
    moved = permute(
        _weights(params), symmetry, {group: order[k] for group, order in permutations.items()}
    )
    return map_named(lambda path, leaf: moved.get(path, leaf), params)


def _match_weights(
    networks: Networks,
    method: Any,
    affinity: Affinity,
    activation_weight: float,
    backend: Backend,
    key: jax.Array | None,
) -> Correspondence:
    """Match by the weights, and by the activations where there is data, with any solver."""
    params, symmetry = networks.params, networks.symmetry
    with_data = networks.has_data and activation_weight > 0
    if isinstance(method, Solver) and networks.count == 2:
        first, second = params
        problem = build_problem(first, second, symmetry, affinity, backend)
        if with_data:
            noise, even = noise_scale(problem), noise_scale(problem.balanced())
            pairs = activation_scores(networks, noise, activation_weight)
            scores = {node: each[0, 1] for node, each in pairs.items()}
            balanced = {node: each * (even[node] / noise[node]) for node, each in scores.items()}
            problem = problem.plus(scores, balanced)
        matching = method.solve(problem, key=key)
        status = jnp.where(_is_finite(problem), matching.status, Status.NON_FINITE)
        orders = {
            node: jnp.stack([jnp.arange(len(p), dtype=jnp.int32), p])
            for node, p in matching.permutations.items()
        }
        return Correspondence(orders, None, matching.objective, status, matching.trace)
    many = AllToOne(method) if isinstance(method, Solver) else method
    problem = build_many(params, symmetry, affinity, backend)
    if with_data:
        noise, even = problem.noise()
        pairs = activation_scores(networks, noise, activation_weight)
        # Two of one network have no noise.
        apart = 1 - jnp.eye(problem.count)
        weights = {node: even[node] / jnp.where(apart, noise[node], 1.0) for node in pairs}
        problem = replace(problem, pairs=pairs, pair_weights=weights)
    found = many.solve_many(problem, key)
    maps = None
    if any(order.shape[1] != problem.sizes[node] for node, order in found.orders.items()):
        maps = maps_of_orders(found.orders, problem.sizes)
    return Correspondence(found.orders, maps, found.objective, found.status, found.trace)


def _nothing_to_match() -> Correspondence:
    aligned = jnp.int32(Status.ALREADY_ALIGNED)
    return Correspondence({}, None, jnp.float32(0), aligned, jnp.zeros(1))


def _symmetries(
    params: Sequence[PyTree],
    symmetry: Symmetry | Sequence[Symmetry] | None,
    apply_fn: ApplyFunction | None,
    inputs: tuple[PyTree, ...],
) -> tuple[Symmetry, ...]:
    if isinstance(symmetry, Symmetry):
        return (symmetry,) * len(params)
    if symmetry is not None:
        if len(symmetry) != len(params):
            raise ValueError(f"got {len(symmetry)} symmetries for {len(params)} networks")
        return tuple(symmetry)
    shapes = [
        {path: np.shape(leaf) for path, leaf in named_leaves(tree).items()} for tree in params
    ]
    known: list[Symmetry] = []
    for index, tree in enumerate(params):
        if index and shapes[index] == shapes[0]:
            known.append(known[0])
        elif apply_fn is not None and inputs:
            known.append(infer_symmetry(apply_fn, tree, *inputs))
        else:
            known.append(infer_chain(tree))
    return tuple(known)


Choice = TypeVar("Choice")


def resolve(what: str, choice: Choice | str, table: Mapping[str, Choice]) -> Choice:
    """Return the instance that a name stands for, or the instance itself.

    Raises:
        ValueError: for an unknown name, and for a class in place of an instance.
    """
    if not isinstance(choice, str):
        if isinstance(choice, type):
            raise ValueError(f"{what}={choice.__name__} is a class: pass {choice.__name__}()")
        return choice
    if choice not in table:
        raise ValueError(f"{what}={choice!r} is none of {list(table)}, and no instance of its own")
    return table[choice]


def _weights(params: PyTree) -> dict[str, jax.Array]:
    return {path: leaf for path, leaf in named_leaves(params).items() if is_weight(leaf)}


def _cleaned(tree: PyTree, finite: jax.Array | None) -> PyTree:
    """Return a tree whose arrays have no gradient, and are zero where a flag is False."""

    def clean(leaf: Any) -> Any:
        if not is_weight(leaf):
            return leaf
        return jax.lax.stop_gradient(leaf if finite is None else jnp.where(finite, leaf, 0))

    return jax.tree.map(clean, tree)


def _is_finite(problem: Problem) -> jax.Array:
    features = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(problem.blocks)]
    return jnp.all(jnp.stack([_all_finite(list(problem.nodes.values())), *features]))


def _all_finite(leaves: Sequence[jax.Array]) -> jax.Array:
    """Tell whether no leaf holds NaN or infinity, by one reduction per shape."""
    alike: dict[object, list[jax.Array]] = {}
    for leaf in leaves:
        alike.setdefault((jnp.shape(leaf), jnp.result_type(leaf)), []).append(leaf)
    if not alike:
        return jnp.bool_(True)
    # One value at the end: a chain of them would be repeated in every operation that asks.
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(jnp.stack(own))) for own in alike.values()]))


def _raise_non_finite(weights: Mapping[str, jax.Array], name: str) -> None:
    for path, leaf in weights.items():
        on_host = isinstance(leaf, np.ndarray) or next(iter(leaf.devices())).platform == "cpu"
        # NumPy compiles no program for every shape.
        if not bool(np.isfinite(np.asarray(leaf)).all() if on_host else jnp.isfinite(leaf).all()):
            raise ValueError(
                f"leaf {path!r} of {name} holds NaN or infinity: {Status.NON_FINITE.message}"
            )
