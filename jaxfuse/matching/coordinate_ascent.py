"""Coordinate ascent: Git Re-Basin's weight matching, one group at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.matching.packed import Packed
from jaxfuse.matching.problem import Permutations, Problem
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import Matching, Proposal, keep_better
from jaxfuse.matching.sweep import Move, Pass, Sweep

_GAIN = 1e-6


@jax.tree_util.register_static
@dataclass(frozen=True)
class CoordinateAscent:
    """Solve the assignment of one group with all others fixed, group after group, until none gains.

    Algorithm 1 of Git Re-Basin (Ainsworth et al., ICLR 2023). Monotone, and quick to stop: it ends
    at the first matching that no single group can improve, and its result depends on the order.
    Groups that index one another, as heads and the units inside them, are solved together.

    Attributes:
        max_sweeps: most passes over all groups (100, as the released code).
        order: "forward" takes the groups from input to output; "random" takes a new order every
            sweep, as the paper does, and needs a key.
        tolerance: relative gain of a group below which it stays as it is.
        start: "identity", as published, or "known": in the first sweep a group answers only to
            those that have been matched before it, and tensors that join it to others add nothing.
            It recovers more planted pairs (`benchmarks/planted_recovery.py`) at half the products
            in that sweep, and is how `Portfolio` opens. A start passed to `solve` counts as known.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.matching.problem import Problem
        >>> problem = Problem({"h": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, (), ())
        >>> CoordinateAscent().solve(problem).permutations["h"]
        Array([1, 0], dtype=int32)
    """

    max_sweeps: int = 100
    order: Literal["forward", "random"] = "forward"
    tolerance: float = _GAIN
    start: Literal["identity", "known"] = "identity"

    def __post_init__(self) -> None:
        if self.order not in ("forward", "random") or self.max_sweeps < 0:
            raise ValueError(f"order is 'forward' or 'random', max_sweeps not negative: got {self}")
        if self.start not in ("identity", "known"):
            raise ValueError(f"start is 'identity' or 'known', got {self.start!r}")

    def solve(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> Matching:
        """Match from the identity, or from the rounded start."""
        ascent = self.climb(problem, start, key)
        kept = keep_better(problem, ascent.permutations, ~ascent.gained)
        return Matching(*kept, ascent.trace, ascent.sweep)

    def climb(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> "Ascent":
        """Climb from the identity, or from the rounded start, until no group gains."""
        if start is None:
            permutations = problem.identity()
        else:
            permutations = assign(start, problem.backend, problem.parents)
        blank = start is None and self.start == "known"
        value = problem.objective_at(permutations)
        return self.ascend(problem, permutations, key, value, blank=blank)

    def ascend(
        self,
        problem: Problem,
        permutations: Permutations,
        key: jax.Array | None = None,
        objective: jax.Array | float = 0.0,
        *,
        blank: bool = False,
    ) -> "Ascent":
        """Climb from permutations until no group gains.

        Args:
            problem: the objective.
            permutations: int32 `[n]` per node.
            key: of the random order.
            objective: J at the start, to which the trace adds the gains.
            blank: whether the permutations mean nothing yet, as with `start="known"`.

        Raises:
            ValueError: if the order is random and there is no key.
        """
        packed = Packed.of(problem)
        sweep = self.sweep(packed, key)

        def step(state: Ascent) -> Ascent:
            first = (state.sweep == 0) & blank
            done = sweep(Move.start(state.permutations, blank=first), state.sweep)
            # The gains of a blank sweep are not those of J.
            value = packed.objective_at(done.permutations) if blank else state.objective + done.gain
            ahead = jnp.arange(self.max_sweeps) >= state.sweep
            trace = jnp.where(ahead, value, state.trace)
            clear = done.clear / sum(problem.sizes.values())
            gained = (done.gain > 0) | first
            return Ascent(done.permutations, value, trace, state.sweep + 1, gained, clear)

        begin = jnp.asarray(objective, jnp.float32)
        first = Ascent(
            packed.pack(permutations),
            begin,
            jnp.full(self.max_sweeps, begin),
            jnp.int32(0),
            jnp.bool_(True),
            jnp.float32(0),
        )
        last = lax.while_loop(
            lambda state: state.gained & (state.sweep < self.max_sweeps), step, first
        )
        return last._replace(permutations=packed.unpack(last.permutations))

    def sweep(self, packed: Packed, key: jax.Array | None = None) -> Pass:
        """Return one pass over all groups, as a function of the state and of the sweep's number.

        Raises:
            ValueError: if the order is random and there is no key.
        """
        sweep = Sweep(packed, self.tolerance)
        if self.order == "forward":
            return sweep.forward()
        if key is None:
            raise ValueError(
                "CoordinateAscent(order='random') needs key=jax.random.key(seed), and as a polish "
                "it gets none: use order='forward' there"
            )
        return sweep.shuffled(key)


class Ascent(NamedTuple):
    """State of the loop.

    Attributes:
        permutations: int32 `[n]` per node.
        objective: J.
        trace: J after every sweep.
        sweep: their number.
        gained: whether the last one gained.
        clear: share of the units that were clear when their turn came in it (`is_clear`); those of
            trees that meet themselves do not count.
    """

    permutations: Permutations
    objective: jax.Array
    trace: jax.Array
    sweep: jax.Array
    gained: jax.Array
    clear: jax.Array


def finish(problem: Problem, found: Proposal, polish: CoordinateAscent | None) -> Matching:
    """Polish a matching, if asked to, and put it up against the identity.

    A polished matching is finished when the polish is: a local optimum, however it was reached.
    """
    permutations, finished = found.permutations, found.finished
    if polish is not None:
        ascent = polish.ascend(problem, permutations)
        permutations, finished = ascent.permutations, ~ascent.gained
    kept = keep_better(problem, permutations, jnp.asarray(finished))
    return Matching(*kept, found.trace, found.iterations)
