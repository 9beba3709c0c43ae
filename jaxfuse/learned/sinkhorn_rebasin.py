"""Sinkhorn re-basin: permutations by gradient descent on free parameters."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxfuse.activations.to_first import match_to_first, raise_non_finite
from jaxfuse.assignment import Potentials
from jaxfuse.correspondence import Correspondence
from jaxfuse.learned.free import (
    Free,
    round_free,
    soft_matchings,
    start_free,
    start_potentials,
)
from jaxfuse.learned.task import Task, between
from jaxfuse.matching.nodes import list_nodes, nest
from jaxfuse.matching.problem import Backend
from jaxfuse.matching.result import Matching, select
from jaxfuse.networks import Networks
from jaxfuse.status import Status
from jaxfuse.symmetry.permute import permute
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import named_leaves
from jaxfuse.transport.maps import map_params

PyTree = Any
Loss = Literal["l2", "l1", "cosine", "midpoint", "random_point"]
Optimiser = Literal["adamw", "adam", "sgd"]
_OPTIMISERS: Mapping[str, Callable[[float], optax.GradientTransformation]] = {
    "adamw": optax.adamw,
    "adam": optax.adam,
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9),
}


@jax.tree_util.register_static
@dataclass(frozen=True)
class SinkhornRebasin:
    """Learn the matching of every node by gradient descent through Sinkhorn's projection.

    Sinkhorn re-basin (Pena et al., CVPR 2023). Every node has free parameters X `[n, n]`, whose
    projection P on the doubly stochastic matrices is a soft matching; the network that P makes of
    B is compared with A (equations 6 to 8), and the loss moves X through the implicit derivative
    of the projection. X is rounded to permutations on the way, and the matching with the smallest
    loss is kept, the identity among them. The losses are

    - "l2", "l1": the squared and the absolute difference of all matched weights, relative to those
      of A, and "cosine": one minus the cosine of two tensors, the mean over them. No data.
    - "midpoint": the cross entropy of the network half way between A and P(B), on labels where
      there are some and else on the mean probabilities of the two parents.
    - "random_point": the same at a random point of the line, another in every step.

    As the paper's code: the start, tau, the iterations, AdamW, its learning rate of 0.1 (10 where
    it matches weights by "l1"), batches of 1,000. Unlike there, the differences are relative, so
    that no loss has a scale of its own, the projection starts from the potentials of the step
    before, and 200 steps are taken in place of 50 for matching weights: on the OTFusion pair
    distances settle within 100, losses of a task in 200.

    Attributes:
        loss: "l2", "l1", "cosine", "midpoint" or "random_point".
        steps: of gradient descent.
        optimiser: "adamw", "adam", "sgd" (momentum 0.9), or any function of the learning rate that
            returns an optax transformation.
        learning_rate: its step size.
        tau: temperature of the projection.
        iterations: of Sinkhorn in every step.
        noise: standard deviation of what is added to the identity that X starts from.
        batch_size: examples that a step draws for the last two losses; None for all.
        check_every: steps after which X is rounded and its loss looked at.
        backend: who solves assignments, as in `jaxfuse.hungarian`.

    Examples:
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> a = {"in": jax.random.normal(k1, (4, 3)), "out": jax.random.normal(k2, (3, 2))}
        >>> symmetry = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, a)
        >>> b = permute(a, symmetry, {"h": jnp.array([2, 0, 1])})
        >>> both = Networks((a, b), (symmetry, symmetry))
        >>> SinkhornRebasin(steps=20).align(both, jax.random.key(1)).orders["h"].tolist()
        [[0, 1, 2], [1, 2, 0]]
    """

    loss: Loss = "l2"
    steps: int = 200
    optimiser: Optimiser | Callable[[float], optax.GradientTransformation] = "adamw"
    learning_rate: float = 0.1
    tau: float = 1.0
    iterations: int = 20
    noise: float = 0.1
    batch_size: int | None = 1000
    check_every: int = 10
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise ValueError(f"loss={self.loss!r} is none of {get_args(Loss)}")
        if isinstance(self.optimiser, str) and self.optimiser not in _OPTIMISERS:
            raise ValueError(
                f"optimiser={self.optimiser!r} is none of {list(_OPTIMISERS)}: pass a function of "
                "the learning rate for another"
            )
        if min(self.steps, self.iterations, self.check_every) < 1:
            raise ValueError(f"steps, iterations and check_every must be 1 or more: got {self}")

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Match all networks to the first.

        Args:
            networks: K networks of one width; for "midpoint" and "random_point" with their function
                and a batch of inputs, with labels or without.
            key: source of the noise, the batches and the random points.

        Returns:
            The orders. The objective is minus the loss at them, the sum over the networks, at the
            midpoint of all examples for the last two losses; the trace is minus the loss of the
            soft matchings, step by step. The status is CONVERGED where the last two checks round to
            one matching, and NON_FINITE, with the networks as they were, where the loss is NaN or
            infinite from the first.

        Raises:
            ValueError: without a key, without data where the loss needs some, for networks of
                different widths, for a tensor that several groups indexed by one axis meet on, and
                outside jit for a loss that is NaN or infinite.

        Works under `jit` and `vmap`. The orders are not differentiable.
        """
        name = f"SinkhornRebasin(loss={self.loss!r})"
        networks.check_one_width(name)
        if self.uses_data:
            networks.function(name)
        if key is None:
            raise ValueError(f"{name} starts from noise: pass key=jax.random.key(seed)")
        found = _align(self, networks, key)
        raise_non_finite(found.status, "the loss")
        return found

    @property
    def uses_data(self) -> bool:
        """Whether the loss looks at inputs."""
        return self.loss in ("midpoint", "random_point")

    def start(self) -> optax.GradientTransformation:
        """Return the optimiser."""
        name = self.optimiser
        return (_OPTIMISERS[name] if isinstance(name, str) else name)(self.learning_rate)


class Descent(NamedTuple):
    """State of the loop: what moves, what was found, and the matching of the last check."""

    free: Free
    potentials: dict[str, Potentials]
    moments: optax.OptState
    best: dict[str, jax.Array]
    best_loss: jax.Array
    last: dict[str, jax.Array]
    settled: jax.Array


@jax.jit
def _align(method: SinkhornRebasin, networks: Networks, key: jax.Array) -> Correspondence:
    symmetry, first = networks.symmetry, networks.params[0]

    def match(other: PyTree, key: jax.Array | None) -> Matching:
        assert key is not None
        task = None
        if method.uses_data:
            task = Task.of(networks, other, method.batch_size, "SinkhornRebasin")
        return _learn(method, _Pair(first, other, symmetry, task), key)

    return match_to_first(networks, key, match)


class _Pair(NamedTuple):
    """Two networks to be matched, and what a network between them is asked."""

    a: PyTree
    b: PyTree
    symmetry: Symmetry
    task: Task | None

    def soft_loss(self, method: SinkhornRebasin, plans: Mapping[str, jax.Array], key: jax.Array):
        """Return the loss at soft matchings, on a random batch and at a random point if asked."""
        back = {node: plan.T for node, plan in plans.items()}
        moved = map_params(self.b, self.symmetry, plans, back)
        if self.task is None:
            return weight_distance(method.loss, self.a, moved, self.symmetry)
        draw, point = jax.random.split(key)
        t = jax.random.uniform(point) if method.loss == "random_point" else 0.5
        return self.task.draw(draw).loss(between(self.a, moved, t))

    def hard_loss(self, method: SinkhornRebasin, columns: Mapping[str, jax.Array]) -> jax.Array:
        """Return the loss at permutations, on all examples and half way."""
        moved = permute(self.b, self.symmetry, nest(self.symmetry, columns))
        if self.task is None:
            return weight_distance(method.loss, self.a, moved, self.symmetry)
        return self.task.loss(between(self.a, moved, 0.5))


def _learn(method: SinkhornRebasin, pair: _Pair, key: jax.Array) -> Matching:
    symmetry, optimiser = pair.symmetry, method.start()
    noise, steps = jax.random.split(key)
    free, potentials = start_free(symmetry, noise, method.noise), start_potentials(symmetry)
    identity = {
        name: jnp.arange(math.prod(node.shape), dtype=jnp.int32)
        for name, node in list_nodes(symmetry).items()
    }

    def loss(free: Free, potentials: dict[str, Potentials], key: jax.Array):
        plans, reached = soft_matchings(free, symmetry, method.tau, method.iterations, potentials)
        return pair.soft_loss(method, plans, key), reached

    def step(state: Descent, number: jax.Array) -> tuple[Descent, jax.Array]:
        own = jax.random.fold_in(steps, number)
        (value, potentials), slope = jax.value_and_grad(loss, has_aux=True)(
            state.free, state.potentials, own
        )
        updates, moments = optimiser.update(slope, state.moments, state.free)
        moved = optax.apply_updates(state.free, updates)
        state = state._replace(free=moved, potentials=potentials, moments=moments)
        is_last = number == method.steps - 1
        due = ((number + 1) % method.check_every == 0) | is_last
        return lax.cond(due, check, lambda state: state, state), -value

    def check(state: Descent) -> Descent:
        columns = round_free(state.free, symmetry, method.backend)
        value = pair.hard_loss(method, columns)
        better = value < state.best_loss
        same = [jnp.all(columns[node] == state.last[node]) for node in columns]
        return state._replace(
            best=select(better, columns, state.best),
            best_loss=jnp.where(better, value, state.best_loss),
            last=columns,
            settled=jnp.all(jnp.stack(same)),
        )

    at_identity = pair.hard_loss(method, identity)
    first = Descent(
        free,
        potentials,
        optimiser.init(free),
        identity,
        at_identity,
        identity,
        jnp.bool_(False),
    )
    final, trace = lax.scan(step, first, jnp.arange(method.steps))
    aligned = final.best_loss >= at_identity
    status = jnp.where(final.settled, Status.CONVERGED, Status.NOT_CONVERGED)
    status = jnp.where(aligned, Status.ALREADY_ALIGNED, status)
    status = jnp.where(jnp.isfinite(at_identity), status, Status.NON_FINITE).astype(jnp.int32)
    return Matching(final.best, -final.best_loss, status, trace, jnp.int32(method.steps))


def weight_distance(loss: Loss, params_a: PyTree, params_b: PyTree, symmetry: Symmetry):
    """Return how far the weights of two networks are apart, as a float32 scalar.

    Args:
        loss: "l2", "l1" or "cosine".
        params_a: the reference.
        params_b: the other network.
        symmetry: whose leaves are compared, without running statistics.

    Returns:
        The sum of squared or absolute differences divided by that of A, or the mean over the leaves
        of one minus their cosine.

    Differentiable.

    Examples:
        >>> spec = Symmetry.from_axes({"w": (None, "h")}, {"w": jnp.ones((1, 2))})
        >>> a, b = {"w": jnp.array([[1.0, 1.0]])}, {"w": jnp.array([[1.0, 0.0]])}
        >>> print(*(f"{weight_distance(loss, a, b, spec):.3f}" for loss in ("l2", "l1", "cosine")))
        0.500 0.500 0.293
    """
    paths = dict.fromkeys(t.path for t in symmetry.tensors if any(t.groups) and not t.statistic)
    leaves = [named_leaves(tree) for tree in (params_a, params_b)]
    pairs = [tuple(jnp.asarray(tree[path], jnp.float32) for tree in leaves) for path in paths]
    if loss == "cosine":
        return sum((1 - _cosine(a, b) for a, b in pairs), start=jnp.float32(0)) / len(pairs)
    size = jnp.square if loss == "l2" else jnp.abs
    apart = sum((jnp.sum(size(a - b)) for a, b in pairs), start=jnp.float32(0))
    return apart / sum((jnp.sum(size(a)) for a, _ in pairs), start=jnp.float32(0))


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    norms = jnp.sum(jnp.square(a)) * jnp.sum(jnp.square(b))
    return jnp.sum(a * b) * jnp.where(norms > 0, lax.rsqrt(jnp.where(norms > 0, norms, 1.0)), 0.0)
