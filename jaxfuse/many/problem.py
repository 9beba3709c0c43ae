"""The problem of matching K networks: one differentiable objective through a universe."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfuse.affinity.block import HIGHEST, Affinity, FeatureAffinity, FeatureBlock
from jaxfuse.affinity.multilinear import multilinear_block
from jaxfuse.affinity.terms import list_terms
from jaxfuse.assignment import invert_permutation
from jaxfuse.many.bundle import Bundle, Weights
from jaxfuse.many.stack import FeatureStack, MultilinearStack
from jaxfuse.matching.build import balancing
from jaxfuse.matching.graduated_assignment import noise_scale
from jaxfuse.matching.nodes import list_nodes, node_name
from jaxfuse.matching.problem import Backend, Problem
from jaxfuse.matching.stacked import Link, alike, grouped, stack, stack_slots
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import named_leaves

PyTree = Any
Orders = dict[str, jax.Array]
Pick = Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]]


class Matchings(NamedTuple):
    """One order of the units of K networks per node, with its account.

    Attributes:
        orders: per node int32 `[K, N]`: unit u of the universe is the unit `orders[k, u]` of
            network k, or -1 where network k has none.
        objective: J at the orders, float32.
        status: int32, a `jaxfuse.Status`.
        trace: float32 `[steps]`, J after every step; the last value is repeated.
        iterations: int32, steps taken.
    """

    orders: Orders
    objective: jax.Array
    status: jax.Array
    trace: jax.Array
    iterations: jax.Array


@runtime_checkable
class ManySolver(Protocol):
    """Matches K networks. Frozen and hashable, so static under `jit`."""

    def solve_many(self, problem: "ManyProblem", key: jax.Array | None = None) -> Matchings:
        """Match the K networks of a problem; network 0 keeps its order."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ManyProblem:
    """The objective of matching K networks.

    Every network k has per node a matching U_k `[n, N]` into a universe of N units, N = n unless
    asked for more; `U_k[i, u] = 1` says that its unit i is unit u there. Two networks are matched
    by `P_kl = U_k U_l^T`, so any way round a cycle gives the identity, and
    `J(U) = sum_{k<l} J_kl(P_kl)`, with J_kl the objective of a pair (`jaxfuse.matching.Problem`).
    With a kernel of features, and X_k the features of network k moved into the universe,
    `J = (|sum_k X_k|^2 - sum_k |X_k|^2) / 2`: the cost grows with K, not with its square.

    J does not change when all networks are reordered alike, so network 0 may keep its order.

    Attributes:
        units: per node the features of what each unit has of its own, `[K, n, e]`.
        blocks: the features of the tensors that join two groups or more. Tensors of one shape share
            a block: axes over the networks, over the tensors, then those of one tensor.
        links: per block and tensor its nodes.
        pairs: per node the scores `[K, K, n, n]` that activations add; may be empty.
        pair_weights: per node what those weigh in the balanced problem, `[K, K]`; 1 by default.
        weights: what features weigh there; None for an affinity that weighs all tensors alike.
        backend: who solves assignments, as in `jaxfuse.hungarian`.
        parents: pairs of a node and its parent, for the nodes that have one.
        order: the nodes from input to output, as in `jaxfuse.matching.Problem`.
    """

    units: dict[str, jax.Array]
    blocks: tuple[FeatureStack | MultilinearStack, ...]
    links: tuple[tuple[Link, ...], ...] = field(metadata={"static": True})
    pairs: dict[str, jax.Array] = field(default_factory=dict)
    pair_weights: dict[str, jax.Array] = field(default_factory=dict)
    weights: Weights | None = None
    backend: Backend = field(default="auto", metadata={"static": True})
    parents: tuple[tuple[str, str], ...] = field(default=(), metadata={"static": True})
    order: tuple[str, ...] | None = field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.order is None:
            object.__setattr__(self, "order", tuple(self.units))

    @property
    def count(self) -> int:
        """Number K of networks."""
        return next(iter(self.units.values())).shape[0]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of units of every node."""
        return {node: units.shape[1] for node, units in self.units.items()}

    def identity(self) -> Orders:
        """Return the order that every network has."""
        return {
            node: jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (self.count, n))
            for node, n in self.sizes.items()
        }

    def objective(self, matchings: Mapping[str, jax.Array]) -> jax.Array:
        """Return J at soft matchings `[K, n, N]` per node, differentiable in all."""
        total = jnp.float32(0)
        for node, units in self.units.items():
            total += _across(jnp.einsum("kie,kiu->kue", units, matchings[node], precision=HIGHEST))
        for links, block in zip(self.links, self.blocks, strict=True):
            move = jax.vmap(jax.vmap(lambda own, *us: own.soft(*us)))
            total += _across(move(block, *stack_slots(matchings, links, axis=1)))
        return total + self.pair_value(matchings)

    def pair_value(self, matchings: Mapping[str, jax.Array]) -> jax.Array:
        """Return what `pairs` adds to J at soft matchings."""
        total = jnp.float32(0)
        for node, scores in self.pairs.items():
            u = matchings[node]
            pulled = jnp.einsum("klij,lju->kliu", _upper(scores), u, precision=HIGHEST)
            total += jnp.einsum("kliu,kiu->", pulled, u, precision=HIGHEST)
        return total

    def scores(self, matchings: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Return dJ/dU `[K, n, N]` of every node at soft matchings."""
        return jax.grad(self.objective)(dict(matchings))

    def objective_at(self, orders: Mapping[str, jax.Array]) -> jax.Array:
        """Return J at orders int32 `[K, N]` per node, by gathers alone."""

        def add(carried: tuple[Bundle, jax.Array], k: jax.Array) -> tuple[Any, None]:
            own = self.standing(k, orders)
            return (carried[0] + own, carried[1] + own.norm()), None

        first = self.standing(0, orders)
        rest = jnp.arange(1, self.count)
        (total, norms), _ = lax.scan(add, (first, first.norm()), rest)
        value = (total.norm() - norms) / 2
        for node, scores in self.pairs.items():
            order, index = jnp.asarray(orders[node]), jnp.arange(self.count)
            first_of, second_of = index[:, None, None], index[None, :, None]
            met = scores.at[first_of, second_of, order[:, None], order[None]].get(mode="clip")
            both = (order[:, None] >= 0) & (order[None] >= 0) & (first_of < second_of)
            value += jnp.sum(met * both)
        return value

    def network(self, k: int | jax.Array) -> Bundle:
        """Return the features of one network, in its own order."""
        features = Bundle(self.units, self.blocks, self.links)
        if isinstance(k, int):
            return jax.tree.map(lambda array: array[k], features)
        return jax.tree.map(lambda array: jnp.take(array, k, axis=0, mode="clip"), features)

    def standing(self, k: int | jax.Array, orders: Mapping[str, jax.Array]) -> Bundle:
        """Return the features of one network in the universe, at orders int32 `[K, N]`."""
        return self.network(k).hard({g: jnp.asarray(order)[k] for g, order in orders.items()})

    def total(self, weights: jax.Array, orders: Mapping[str, jax.Array]) -> Bundle:
        """Return the weighted sum, float `[K]`, of the features of all networks as they stand."""

        def add(total: Bundle, k: jax.Array) -> tuple[Bundle, None]:
            def one(total: Bundle) -> Bundle:
                own = self.standing(k, orders)
                return jax.tree.map(lambda whole, part: whole + weights[k] * part, total, own)

            return lax.cond(weights[k] != 0, one, lambda total: total, total), None

        zero = jax.tree.map(jnp.zeros_like, self.standing(0, orders))
        return lax.scan(add, zero, jnp.arange(self.count))[0]

    def between(
        self, left: jax.Array, right: jax.Array, orders: Mapping[str, jax.Array]
    ) -> Problem:
        """Return the problem of matching one set of networks, as it stands, to another.

        Every step of a scheme of many models is such a problem of two: all to one, one to the mean
        of the others, one cluster to another. Where its solution is P, the networks of the right
        set are moved on by `orders[k][P]`.

        Args:
            left: float `[K]`, the weight of each network in the reference.
            right: float `[K]`, the weight of each in what is matched to it.
            orders: int32 `[K, N]` per node.
        """
        a, b = self.total(left, orders), self.total(right, orders)
        return self.match(a, b, pick_weighted(left, right, orders))

    def match(self, reference: Bundle, other: Bundle, pick: Pick) -> Problem:
        """Return the problem of matching one bundle of features to another.

        Args:
            reference: what is matched to, as it stands.
            other: what is matched.
            pick: takes what activations add to the node scores `[N, N]` out of `[K, K, n, n]`.
        """
        balanced = {
            node: scores * weights[:, :, None, None] if weights is not None else scores
            for node, scores in self.pairs.items()
            for weights in (self.pair_weights.get(node),)
        }
        two = reference.match(other, self.backend, self.parents, self.weights, self.order)
        return two.plus(pick(self.pairs), pick(balanced))

    def noise(self) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Return per node the noise of the scores of every two networks, `[K, K]`.

        Returns:
            That of the problem, and that of the balanced one.
        """
        count, identity = self.count, self.identity()
        pairs = np.stack(np.triu_indices(count, 1), axis=1)

        def one(pair: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
            left, right = jax.nn.one_hot(pair, count)
            two = self.between(left, right, identity)
            return noise_scale(two), noise_scale(two.balanced())

        def square(each: jax.Array) -> jax.Array:
            upper = jnp.zeros((count, count)).at[pairs[:, 0], pairs[:, 1]].set(each)
            return upper + upper.T

        return jax.tree.map(square, lax.map(one, jnp.asarray(pairs)))


def pick_weighted(left: jax.Array, right: jax.Array, orders: Mapping[str, jax.Array]) -> Pick:
    """Return how scores `[K, K, n, n]` add up between two weighted sets of networks.

    Args:
        left: float `[K]`, the weight of each network in the reference.
        right: float `[K]`, the weight of each in what is matched to it.
        orders: int32 `[K, N]` per node.
    """

    def pick(pairs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        added = {}
        for node, scores in pairs.items():
            order = jnp.asarray(orders[node])
            present = (order >= 0).astype(scores.dtype)
            rows = jax.vmap(lambda own, o: jnp.take(own, o, axis=1, mode="clip"))(scores, order)
            rows = jnp.einsum("k,ku,kluj->luj", left, present, rows, precision=HIGHEST)
            both = jnp.take_along_axis(rows, order[:, None], axis=2, mode="clip")
            added[node] = jnp.einsum("l,lv,luv->uv", right, present, both, precision=HIGHEST)
        return added

    return pick


def build_many(
    params: Sequence[PyTree],
    symmetry: Symmetry,
    affinity: Affinity,
    backend: Backend = "auto",
    pairs: Mapping[str, jax.Array] | None = None,
) -> ManyProblem:
    """Turn the parameters of K networks into a matching problem.

    Args:
        params: K trees of one structure and shapes.
        symmetry: which axes may be permuted together.
        affinity: how edges are compared; one with features, as `Linear` and `Gaussian` have.
        backend: who solves assignments, as in `jaxfuse.hungarian`.
        pairs: per node scores `[K, K, n, n]` to add, those of activations.

    Returns:
        The problem, in float32.

    Raises:
        ValueError: for an affinity without features.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.affinity import Linear
        >>> from jaxfuse.symmetry import infer_chain
        >>> params = [[jnp.ones((3, 4)), jnp.ones((4, 5)), jnp.ones((5, 2))]] * 3
        >>> build_many(params, infer_chain(params[0]), Linear()).count
        3
    """
    if not isinstance(affinity, FeatureAffinity):
        raise ValueError(
            f"{type(affinity).__name__} has no features, which many networks at once need: pass "
            "Linear() or Gaussian(rank=...)"
        )
    leaves = [named_leaves(tree) for tree in params]
    listed = list_nodes(symmetry)
    units: dict[str, list[jax.Array]] = {node: [] for node in listed}
    even: dict[str, list[jax.Array]] = {node: [] for node in listed}
    blocks, links, factors = [], [], []
    for term in list_terms(symmetry):
        edges = [term.edges(each[term.tensor.path]) for each in leaves]
        link = tuple(node_name(carrier.group, carrier.entries) for carrier in term.carriers)
        features = affinity.features(*edges)
        stacked = jnp.stack(features)
        factor = balancing(affinity, *edges)
        if len(link) == 1:
            own = stacked.reshape(*stacked.shape[:2], -1)
            units[link[0]].append(own)
            even[link[0]].append(jnp.broadcast_to(factor, own.shape[2:]))
            continue
        factors.append(factor)
        links.append(link)
        if term.is_pairwise:
            blocks.append(FeatureStack(stacked))
        else:
            own = [multilinear_block(FeatureBlock(each, each), term) for each in features]
            blocks.append(MultilinearStack(jnp.stack([b.a for b in own]), own[0].axes))
    joined = {
        name: jnp.concatenate(units[name], axis=-1)
        if units[name]
        else jnp.zeros((len(params), math.prod(node.shape), 0))
        for name, node in listed.items()
    }
    parents = tuple((name, node.parent) for name, node in listed.items() if node.parent)
    members = alike(blocks, links)
    weights = None
    if hasattr(affinity, "mean_square"):
        own_weights = {node: jnp.concatenate([jnp.zeros(0), *each]) for node, each in even.items()}
        weights = Weights(own_weights, stack(factors, members))
    return ManyProblem(
        joined,
        stack(blocks, members, axis=1),
        grouped(links, members),
        dict(pairs or {}),
        weights=weights,
        backend=backend,
        parents=parents,
    )


def pairwise(orders: Mapping[str, jax.Array], k: int, l: int) -> dict[str, jax.Array]:  # noqa: E741
    """Return per node the permutation P_kl, int32 `[n]`: unit i of k corresponds to `P[i]` of l.

    For orders without -1.
    """
    return {node: order[l][invert_permutation(order[k])] for node, order in orders.items()}


def _across(moved: jax.Array) -> jax.Array:
    """Return the sum of <X_k, X_l> over all pairs k < l of `[K, ...]`."""
    total = jnp.tensordot(jnp.ones(len(moved)), moved, axes=1, precision=HIGHEST)
    own = jnp.vdot(moved, moved, precision=HIGHEST)
    return (jnp.vdot(total, total, precision=HIGHEST) - own) / 2


def _upper(scores: jax.Array) -> jax.Array:
    """Keep the scores `[K, K, n, n]` of the pairs k < l."""
    count = scores.shape[0]
    return scores * jnp.triu(jnp.ones((count, count)), 1)[:, :, None, None]
