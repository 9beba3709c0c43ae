"""What a solver returns, and what it is asked."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxfuse.matching.packed import Packed
from jaxfuse.matching.problem import Permutations, Problem
from jaxfuse.status import Status


class Matching(NamedTuple):
    """One permutation per group, with its account.

    Attributes:
        permutations: per group int32 `[n]`; unit i of A corresponds to unit `permutation[i]` of B.
        objective: J at the permutations, float32.
        status: int32, a `jaxfuse.status.Status`.
        trace: float32 `[steps]`, what the solver maximises at its iterate, soft or hard, step by
            step; the last value is repeated where the solver stopped early.
        iterations: int32, steps taken.
    """

    permutations: Permutations
    objective: jax.Array
    status: jax.Array
    trace: jax.Array
    iterations: jax.Array


class Proposal(NamedTuple):
    """What a solver has found before it is polished and judged.

    Attributes:
        permutations: per group int32 `[n]`.
        trace: as in `Matching`.
        iterations: steps taken.
        finished: whether it was not stopped by its limit.
    """

    permutations: Permutations
    trace: jax.Array
    iterations: jax.Array
    finished: jax.Array | bool


@runtime_checkable
class Solver(Protocol):
    """Moves the matching of a problem uphill. Frozen and hashable, so static under `jit`."""

    def solve(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> Matching:
        """Match the two networks of a problem.

        Args:
            problem: the objective.
            start: per group a doubly stochastic matrix `[n, n]`; the solver's own start if None.
            key: source of randomness, for solvers that use it.

        Returns:
            A matching whose objective is never below that of the identity.
        """
        ...


@runtime_checkable
class Searcher(Solver, Protocol):
    """A solver whose search and polish can be told apart, so that others may polish for it.

    Attributes:
        polish: the `CoordinateAscent` that follows its search, or None.
    """

    polish: Any

    def search(self, problem: Problem, start: Mapping[str, jax.Array] | None = None) -> Proposal:
        """Return what is found before the polish."""
        ...


def keep_better(
    problem: Problem, permutations: Permutations, finished: jax.Array
) -> tuple[Permutations, jax.Array, jax.Array]:
    """Return the better of a matching and the identity, its objective, and the status.

    The identity wins ties: a pair that is aligned already is left as it is. A solver that has not
    finished was stopped by its limit.
    """
    identity, packed = problem.identity(), Packed.of(problem)
    objective, at_identity = (
        packed.objective_at(packed.pack(each)) for each in (permutations, identity)
    )
    aligned = at_identity >= objective
    stopped = jnp.where(finished, Status.CONVERGED, Status.NOT_CONVERGED)
    status = jnp.where(aligned, Status.ALREADY_ALIGNED, stopped).astype(jnp.int32)
    return (
        select(aligned, identity, permutations),
        jnp.where(aligned, at_identity, objective),
        status,
    )


def select(
    condition: jax.Array, left: Mapping[str, jax.Array], right: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Choose one of two dicts of arrays as a whole."""
    return {group: jnp.where(condition, left[group], right[group]) for group in left}
