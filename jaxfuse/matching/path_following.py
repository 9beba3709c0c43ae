"""Path following: from a concave relaxation of the objective to a convex one, step by step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.affinity.block import HIGHEST, Block, FeatureBlock
from jaxfuse.affinity.multilinear import MultilinearBlock
from jaxfuse.matching.coordinate_ascent import CoordinateAscent, finish
from jaxfuse.matching.graduated_assignment import double_centred
from jaxfuse.matching.lawler import blend, check_size
from jaxfuse.matching.problem import Permutations, Problem, Scores, inner, picked
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import Matching, Proposal
from jaxfuse.matching.stacked import tensor_of

_POWER_STEPS = 20
_MARGIN = 1.1


class Curvature(NamedTuple):
    """A convex form `q(P) = sum_g (<P_g, L_g P_g> + <P_g, P_g R_g>) / 2`, one at permutations.

    Attributes:
        left: per node L_g, symmetric and positive semi-definite, `[n, n]`.
        right: per node R_g, likewise.
    """

    left: Scores
    right: Scores

    def slope(self, matching: Mapping[str, jax.Array]) -> Scores:
        """Return dq/dP `[n, n]` of every node."""
        return {
            node: jnp.dot(self.left[node], p, precision=HIGHEST)
            + jnp.dot(p, self.right[node], precision=HIGHEST)
            for node, p in matching.items()
        }

    def slope_at(self, permutations: Permutations) -> Scores:
        """Return dq/dP of every node at permutations, by gathers alone."""
        return {
            node: jnp.take(self.left[node], jnp.argsort(columns), axis=1)
            + jnp.take(self.right[node], columns, axis=0)
            for node, columns in permutations.items()
        }


@jax.tree_util.register_static
@dataclass(frozen=True)
class PathFollowing:
    """Maximise a concave relaxation of J, and follow the maximum as it turns into a convex one.

    Zaslavskiy, Bach and Vert (PAMI 2009), for several groups and without the affinity matrix. Let
    A and B be the features of a tensor that joins the groups of P and Q, centred over both axes.
    Its share of J is `<P, A Q B^T>`, and for doubly stochastic P and Q

        -|A Q - P B|^2 / 2 = <P, A Q B^T> - (|A Q|^2 + |P B|^2) / 2

    is concave, and with a plus sign convex; at permutations the last bracket is a constant. So is
    that of `P^T A - B Q^T`, and half the sum of both gives a form q(P), in every group
    `(<P, L P> + <P, P R>) / 2` with L half of the Gram matrices of A's units and R of B's, for
    which `J + lambda (q - const)` is J at every permutation and every lambda; at -1 it is concave,
    the paper's convex relaxation, with the one maximum found by Frank-Wolfe, and at 1 it is
    convex, with its maximum at a permutation that maximises J. In between lambda rises evenly,
    and Frank-Wolfe with the exact line search follows; its step costs the scores at a permutation.

    A tensor without such features, as that of the exact Gaussian, gets `sigma (|P|^2 + |Q|^2) / 2`
    for its q, with sigma the largest singular value of its affinity between centred matchings:
    20 steps of power iteration and a tenth more, as they come from below.

    Attributes:
        steps: values of lambda from -1 to 1. The paper's step is adaptive; 10 recover fewer of the
            planted matchings under strong noise, 40 few more.
        iterations: most Frank-Wolfe steps at each lambda.
        tolerance: Frank-Wolfe's gap relative to J below which lambda moves on.
        limit: most candidate pairs, the sum of n^2 over the groups; eight vectors of them are
            held.
        polish: the ascent that follows; None is the published method.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.matching.problem import Problem
        >>> problem = Problem({"h": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, (), ())
        >>> PathFollowing().solve(problem).permutations["h"]
        Array([1, 0], dtype=int32)
    """

    steps: int = 20
    iterations: int = 10
    tolerance: float = 1e-3
    limit: int = 2**28
    polish: CoordinateAscent | None = CoordinateAscent()

    def __post_init__(self) -> None:
        if self.steps < 2 or self.iterations < 1:
            raise ValueError(f"steps must be 2 or more, iterations 1 or more: got {self}")

    def solve(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> Matching:
        """Match from the barycentre, or from a doubly stochastic start. The key is not used.

        The start is where the search for the concave maximum begins: it matters little. The trace
        holds J at the point of every lambda.

        Raises:
            ValueError: if a tensor joins more than two groups, or there are more candidate pairs
                than the limit.
        """
        check_size(problem, self.limit, "PathFollowing")
        point = problem.barycentre() if start is None else dict(start)
        last, trace = self.follow(problem, point, jnp.linspace(-1.0, 1.0, self.steps))
        rounded = assign(last.point, problem.backend, problem.parents)
        steps = jnp.int32(self.steps)
        found = Proposal(rounded, trace, steps, ~last.rising)
        return finish(problem, found, self.polish)

    def follow(
        self, problem: Problem, point: Scores, lambdas: jax.Array
    ) -> tuple["Stand", jax.Array]:
        """Return where the path ends, and J at each lambda; no rounding, no polish."""
        bent = curvature(problem)
        first = Stand(
            point, problem.scores(point), bent.slope(point), jnp.int32(0), jnp.bool_(True)
        )

        def move_on(stand: Stand, weight: jax.Array) -> tuple[Stand, jax.Array]:
            stand = lax.while_loop(
                lambda state: state.rising & (state.iteration < self.iterations),
                lambda state: self._step(problem, bent, weight, state),
                stand._replace(iteration=jnp.int32(0), rising=jnp.bool_(True)),
            )
            return stand, _objective(problem, stand)

        return lax.scan(move_on, first, lambdas)

    def _step(
        self, problem: Problem, bent: Curvature, weight: jax.Array, state: "Stand"
    ) -> "Stand":
        slope = _weighted(state.scores, state.pull, weight)
        corner = assign(slope, problem.backend, problem.parents)
        scores, pull = problem.scores_at(corner), bent.slope_at(corner)
        corner_slope = _weighted(scores, pull, weight)
        # The form is quadratic: on the way to the corner it is t gain + t^2 bend more.
        at_point, towards = inner(slope, state.point), picked(slope, corner)
        gain = towards - at_point
        back = inner(corner_slope, state.point)
        bend = (picked(corner_slope, corner) - back - towards + at_point) / 2
        vertex = jnp.where(bend < 0, -gain / jnp.where(bend < 0, 2 * bend, 1.0), 1.0)
        rising = gain > self.tolerance * jnp.abs(_objective(problem, state))
        share = jnp.where(rising, jnp.clip(vertex, 0.0, 1.0), 0.0)
        return Stand(
            blend(state.point, corner, share),
            {n: s + share * (scores[n] - s) for n, s in state.scores.items()},
            {n: s + share * (pull[n] - s) for n, s in state.pull.items()},
            state.iteration + 1,
            rising,
        )


class Stand(NamedTuple):
    """State of the walk at one lambda: the point, the slopes of J and of q, and the account."""

    point: Scores
    scores: Scores
    pull: Scores
    iteration: jax.Array
    rising: jax.Array


def curvature(problem: Problem) -> Curvature:
    """Return the form q: J - q is concave, J + q is convex, and all permutations have one q."""
    left = {node: jnp.zeros((n, n)) for node, n in problem.sizes.items()}
    right = dict(left)
    for links, block in zip(problem.links, problem.blocks, strict=True):
        if isinstance(block, FeatureBlock):
            for side, features in ((left, block.a), (right, block.b)):
                for (g, h), rows, columns in zip(links, *jax.vmap(_grams)(features), strict=True):
                    side[g] = side[g] + rows / 2
                    side[h] = side[h] + columns / 2
            continue
        for index, (g, h) in enumerate(links):
            own = tensor_of(block, index)
            sigma = _largest_singular_value(own, problem.sizes[g], problem.sizes[h])
            for node in (g, h):
                left[node] = left[node] + sigma * jnp.eye(problem.sizes[node])
    return Curvature(left, right)


def _grams(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the Gram matrices `[n, n]` and `[m, m]` of the rows and columns of `[n, r, m]`.

    The features are centred over both axes without a copy of them.
    """
    n, r, m = features.shape
    row_means, column_means = jnp.mean(features, axis=2), jnp.mean(features, axis=0)
    flat = features.reshape(n, r * m)
    rows = jnp.dot(flat, flat.T, precision=HIGHEST)
    rows -= m * jnp.dot(row_means, row_means.T, precision=HIGHEST)
    flat = features.reshape(n * r, m)
    columns = jnp.dot(flat.T, flat, precision=HIGHEST)
    columns -= n * jnp.dot(column_means.T, column_means, precision=HIGHEST)
    return double_centred(rows), double_centred(columns)


def _largest_singular_value(block: Block | MultilinearBlock, n: int, m: int) -> jax.Array:
    """Bound `<P, K Q>` by sigma |P| |Q| for matrices whose rows and columns sum to zero."""

    def step(q: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        p = double_centred(jax.grad(block.value, argnums=0)(jnp.zeros((n, n)), q))
        q = double_centred(jax.grad(block.value, argnums=1)(p, jnp.zeros((m, m))))
        square = jnp.sqrt(jnp.sum(q * q))
        return q / jnp.where(square > 0, square, 1.0), jnp.sqrt(square)

    # Any start that is not orthogonal to the answer will do, so the key is a constant.
    noise = double_centred(jax.random.normal(jax.random.key(0), (m, m)))
    noise = noise / jnp.maximum(jnp.sqrt(jnp.sum(noise * noise)), 1e-6)
    return _MARGIN * lax.scan(step, noise, None, length=_POWER_STEPS)[1][-1]


def _weighted(scores: Scores, pull: Scores, weight: jax.Array) -> Scores:
    return {node: score + weight * pull[node] for node, score in scores.items()}


def _objective(problem: Problem, stand: Stand) -> jax.Array:
    """Return J: half of <C, P> + <slope, P>, as a quadratic form is half its slope's product."""
    return (inner(problem.nodes, stand.point) + inner(stand.scores, stand.point)) / 2
