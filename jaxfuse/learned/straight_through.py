"""The straight-through estimator: a network is trained, and its matching is what is wanted."""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxfuse.activations.to_first import match_to_first, raise_non_finite
from jaxfuse.affinity import Affinity, Linear
from jaxfuse.assignment import permutation_matrix
from jaxfuse.correspondence import Correspondence
from jaxfuse.learned.task import Task, between
from jaxfuse.matching.build import build_problem
from jaxfuse.matching.coordinate_ascent import CoordinateAscent
from jaxfuse.matching.nodes import nest
from jaxfuse.matching.problem import Backend, Permutations, Problem
from jaxfuse.matching.result import Matching, Solver, select
from jaxfuse.networks import Networks
from jaxfuse.status import Status
from jaxfuse.symmetry.permute import permute
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import is_weight, map_named, named_leaves

PyTree = Any
Weights = dict[str, jax.Array]


@jax.tree_util.register_static
@dataclass(frozen=True)
class StraightThrough:
    """Train a network to be matched, so that the midpoint it leads to has a small loss.

    Git Re-Basin's straight-through estimator (Ainsworth et al., ICLR 2023, section 3.3). Latent
    weights start at A. Each step matches B to them, starting from the matching of the step before,
    takes the network half way between A and the matched B, and hands the gradient of its loss to
    the latent weights as if they were the matched B. The matching with the smallest loss is kept.

    Momentum and batch size are those of the released code, which takes steps of 0.01 for 250 epochs
    of MNIST and keeps the best loss of single batches. Here every new matching is judged on all
    examples, and of the learning rates 0.001, 0.01 and 0.1 the last measured best in 100 steps, on
    images of the OTFusion pair that were not used for matching. One matching a step makes this the
    most expensive of all methods.

    Attributes:
        solver: finds the matching of every step; it is given the last one as its start.
        affinity: how edges are compared.
        steps: of stochastic gradient descent.
        learning_rate: its step size.
        momentum: its momentum.
        batch_size: examples that a step draws; None for all.
        backend: who solves assignments, as in `jaxfuse.hungarian`.

    Examples:
        >>> from jaxfuse.symmetry import Symmetry
        >>> k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
        >>> a = {"in": jax.random.normal(k1, (4, 3)), "out": jax.random.normal(k2, (3, 2))}
        >>> mlp = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> symmetry = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, a)
        >>> b = permute(a, symmetry, {"h": jnp.array([2, 0, 1])})
        >>> x = jax.random.normal(k3, (20, 4))
        >>> both = Networks((a, b), (symmetry, symmetry), (x,), None, mlp)
        >>> found = StraightThrough(steps=5).align(both, jax.random.key(1))
        >>> found.orders["h"].tolist()
        [[0, 1, 2], [1, 2, 0]]
    """

    solver: Solver = CoordinateAscent()
    affinity: Affinity = Linear()
    steps: int = 100
    learning_rate: float = 0.1
    momentum: float = 0.9
    batch_size: int | None = 1000
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be 1 or more, got {self.steps}")

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Match all networks to the first.

        Args:
            networks: K networks of one width, their function and a batch of inputs, with labels or
                without; without, the loss is the cross entropy with the mean probabilities of the
                two parents.
            key: source of the batches, and of randomness for the solver.

        Returns:
            The orders. The objective is minus the loss of the midpoint on all examples, the sum
            over the networks; the trace is minus the loss of every step's batch. The status is
            CONVERGED where the last two steps found one matching, and NON_FINITE, with the networks
            as they were, where the loss is NaN or infinite from the first.

        Raises:
            ValueError: without a key, without data, for networks of different widths, and outside
                jit for a loss that is NaN or infinite.

        Works under `jit` and `vmap`. The orders are not differentiable.
        """
        networks.check_one_width("StraightThrough")
        networks.function("StraightThrough")
        if key is None:
            raise ValueError("StraightThrough draws batches: pass key=jax.random.key(seed)")
        found = _align(self, networks, key)
        raise_non_finite(found.status, "the loss")
        return found


@jax.jit
def _align(method: StraightThrough, networks: Networks, key: jax.Array) -> Correspondence:
    def match(other: PyTree, key: jax.Array | None) -> Matching:
        assert key is not None
        task = Task.of(networks, other, method.batch_size, "StraightThrough")
        return _train(method, _Pair(networks.params[0], other, networks.symmetry, task), key)

    return match_to_first(networks, key, match)


class _Pair(NamedTuple):
    """Two networks to be matched, and what a network between them is asked."""

    a: PyTree
    b: PyTree
    symmetry: Symmetry
    task: Task

    def problem(self, method: StraightThrough, latent: Weights) -> Problem:
        """Return the problem of matching B to latent weights."""
        a = _with(self.a, latent)
        return build_problem(a, self.b, self.symmetry, method.affinity, method.backend)

    def moved(self, columns: Permutations) -> PyTree:
        """Return B in another order."""
        return permute(self.b, self.symmetry, nest(self.symmetry, columns))

    def loss(self, columns: Permutations) -> jax.Array:
        """Return the loss half way, on all examples."""
        return self.task.loss(between(self.a, self.moved(columns), 0.5))

    def through(self, latent: Weights, columns: Permutations, task: Task) -> jax.Array:
        """Return the loss half way; its slope in the latent weights is that in the matched B."""
        moved = named_leaves(self.moved(columns))
        seen = {path: moved[path] + (x - lax.stop_gradient(x)) for path, x in latent.items()}
        return task.loss(between(self.a, _with(self.a, seen), 0.5))


class Training(NamedTuple):
    """State of the loop: the latent weights, the present matching, and the best one met."""

    latent: Weights
    momentum: optax.OptState
    columns: dict[str, jax.Array]
    loss: jax.Array
    best: dict[str, jax.Array]
    best_loss: jax.Array
    settled: jax.Array


def _train(method: StraightThrough, pair: _Pair, key: jax.Array) -> Matching:
    optimiser = optax.sgd(method.learning_rate, momentum=method.momentum)
    latent = {path: leaf for path, leaf in named_leaves(pair.a).items() if is_weight(leaf)}
    identity = pair.problem(method, latent).identity()

    def step(state: Training, number: jax.Array) -> tuple[Training, jax.Array]:
        draw, own = jax.random.split(jax.random.fold_in(key, number))
        start = {node: permutation_matrix(columns) for node, columns in state.columns.items()}
        problem = pair.problem(method, state.latent)
        columns = method.solver.solve(problem, start, own).permutations
        changed = jnp.any(jnp.stack([jnp.any(columns[n] != state.columns[n]) for n in columns]))
        loss = lax.cond(changed, pair.loss, lambda _: state.loss, columns)
        better = loss < state.best_loss
        value, slope = jax.value_and_grad(pair.through)(state.latent, columns, pair.task.draw(draw))
        updates, momentum = optimiser.update(slope, state.momentum)
        after = Training(
            cast(Weights, optax.apply_updates(state.latent, updates)),
            momentum,
            columns,
            loss,
            select(better, columns, state.best),
            jnp.where(better, loss, state.best_loss),
            ~changed,
        )
        return after, -value

    at_identity = pair.loss(identity)
    first = Training(
        latent,
        optimiser.init(latent),
        identity,
        at_identity,
        identity,
        at_identity,
        jnp.bool_(False),
    )
    final, trace = lax.scan(step, first, jnp.arange(method.steps))
    aligned = final.best_loss >= at_identity
    status = jnp.where(final.settled, Status.CONVERGED, Status.NOT_CONVERGED)
    status = jnp.where(aligned, Status.ALREADY_ALIGNED, status)
    status = jnp.where(jnp.isfinite(at_identity), status, Status.NON_FINITE).astype(jnp.int32)
    return Matching(final.best, -final.best_loss, status, trace, jnp.int32(method.steps))


def _with(params: PyTree, weights: Weights) -> PyTree:
    """Return a tree with other weights."""
    return map_named(lambda path, leaf: weights.get(path, leaf), params)
