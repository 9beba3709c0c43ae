"""MergeMany: Git Re-Basin's block coordinate ascent over the networks."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.many.all_to_one import AllToOne
from jaxfuse.many.bundle import Bundle
from jaxfuse.many.problem import ManyProblem, ManySolver, Matchings, Orders, pick_weighted
from jaxfuse.many.universe import finish
from jaxfuse.matching.coordinate_ascent import CoordinateAscent
from jaxfuse.matching.result import Solver

_GAIN = 1e-6


@jax.tree_util.register_static
@dataclass(frozen=True)
class MergeMany:
    """Match one network to the sum of all others, network after network, until none gains.

    MergeMany of Git Re-Basin (Ainsworth et al., ICLR 2023), which matches to the mean of the
    others; matchings do not depend on that factor. The sum of the others as they stand is all that
    J knows of them, so each step is block coordinate ascent on J of all networks, over one network:
    J never falls, whatever the solver, as a network that does not gain stays as it is.

    The released code starts from the order that the networks have and visits them in a random one:
    `MergeMany(start=None, order="random")`, with a key.

    Attributes:
        solver: the two-model solver of a step. It starts anew from the network's order, as
            `CoordinateAscent` does, or from its own start.
        start: the scheme whose orders come first; None for those that the networks have.
        max_sweeps: most passes over all networks.
        order: "forward" takes network 1, 2, ..., K - 1, 0; "random" a new order every sweep.
        tolerance: relative gain of a network's share of J below which it stays as it is.

    The trace `[max_sweeps]` is J after every pass.

    Examples:
        >>> from jaxfuse.affinity import Linear
        >>> from jaxfuse.many import build_many
        >>> from jaxfuse.symmetry import infer_chain
        >>> a = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])]
        >>> b = [a[0][:, ::-1], a[1][::-1]]
        >>> problem = build_many([a, b, b], infer_chain(a), Linear())
        >>> MergeMany(start=None).solve_many(problem).orders["0"].tolist()
        [[0, 1], [1, 0], [1, 0]]
    """

    solver: Solver = CoordinateAscent()
    start: ManySolver | None = AllToOne()
    max_sweeps: int = 100
    order: Literal["forward", "random"] = "forward"
    tolerance: float = _GAIN

    def __post_init__(self) -> None:
        if self.order not in ("forward", "random") or self.max_sweeps < 1:
            raise ValueError(
                f"order is 'forward' or 'random', max_sweeps 1 or more: got {self.order!r} and "
                f"{self.max_sweeps}"
            )

    def solve_many(self, problem: ManyProblem, key: jax.Array | None = None) -> Matchings:
        """Match from the start's orders, or those that the networks have.

        Raises:
            ValueError: if the order is random and there is no key.
        """
        orders = problem.identity()
        if self.start is not None:
            first = None if key is None else jax.random.fold_in(key, 0)
            orders = self.start.solve_many(problem, first).orders
        last = self.ascend(problem, orders, None if key is None else jax.random.fold_in(key, 1))
        return finish(problem, last.orders, ~last.gained, last.trace, last.sweep)

    def ascend(
        self, problem: ManyProblem, orders: Orders, key: jax.Array | None = None
    ) -> "Sweeps":
        """Climb from orders int32 `[K, N]` until no network gains; network 0 moves as well.

        Raises:
            ValueError: if the order is random and there is no key.
        """
        if self.order == "random" and key is None:
            raise ValueError("MergeMany(order='random') needs key=jax.random.key(seed)")

        def sweep(state: Sweeps) -> Sweeps:
            own_key = None if key is None else jax.random.fold_in(key, state.sweep)
            visited = jnp.roll(jnp.arange(problem.count), -1)
            if self.order == "random" and own_key is not None:
                visited = jax.random.permutation(own_key, problem.count)
            keys = None if own_key is None else jax.random.split(own_key, problem.count)
            first = (problem.total(jnp.ones(problem.count), state.orders), state.orders)
            (_, moved), gained = lax.scan(
                lambda carried, step: self._visit(problem, carried, *step), first, (visited, keys)
            )
            value = problem.objective_at(moved)
            ahead = jnp.arange(self.max_sweeps) >= state.sweep
            trace = jnp.where(ahead, value, state.trace)
            return Sweeps(moved, trace, state.sweep + 1, jnp.any(gained))

        before = jnp.full(self.max_sweeps, problem.objective_at(orders))
        return lax.while_loop(
            lambda state: state.gained & (state.sweep < self.max_sweeps),
            sweep,
            Sweeps(orders, before, jnp.int32(0), jnp.bool_(True)),
        )

    def _visit(
        self,
        problem: ManyProblem,
        carried: tuple[Bundle, Orders],
        k: jax.Array,
        key: jax.Array | None,
    ) -> tuple[tuple[Bundle, Orders], jax.Array]:
        """Match network k to the others if that gains."""
        total, orders = carried
        own = problem.standing(k, orders)
        others = total - own
        one = jax.nn.one_hot(k, problem.count)
        two = problem.match(others, own, pick_weighted(1 - one, one, orders))
        now = two.objective_at(two.identity())
        matching = self.solver.solve(two, key=key)
        gained = matching.objective - now > self.tolerance * jnp.abs(now)
        moved = {
            node: jnp.where(gained, p, jnp.arange(len(p), dtype=jnp.int32))
            for node, p in matching.permutations.items()
        }
        orders = {node: order.at[k].set(order[k][moved[node]]) for node, order in orders.items()}
        return (others + own.hard(moved), orders), gained


class Sweeps(NamedTuple):
    """State of the loop: the orders, the trace, the pass, and whether any network gained."""

    orders: Orders
    trace: jax.Array
    sweep: jax.Array
    gained: jax.Array
