"""Simulated annealing over permutations: swaps of two units, accepted by chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfuse.matching.coordinate_ascent import CoordinateAscent, finish
from jaxfuse.matching.graduated_assignment import noise_scale
from jaxfuse.matching.problem import Permutations, Problem
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import Matching, Proposal, select


@jax.tree_util.register_static
@dataclass(frozen=True)
class SimulatedAnnealing:
    """Swap the partners of two units by chance, ever more seldom where that loses.

    Entezari et al. (ICLR 2022) search so among the permutations of two networks, by the barrier
    between them on data; here the objective is J. A swap that changes J by d is accepted with
    probability `min(1, exp(d / T))` (Metropolis et al., 1953); T falls geometrically. It is tau
    times the mean over the groups of the standard deviation that a score would have if the edges
    of the networks were unrelated, so that one schedule serves weights of any scale.

    With all other groups fixed J is linear in the matching of one, so swaps of different pairs of
    its units change J independently, each by four of its scores:
    `S[i, p_k] + S[k, p_i] - S[i, p_i] - S[k, p_k]`. A sweep takes the groups in turn: it computes
    the scores of a group once, and then in n rounds pairs off its units, i with s - i modulo n for
    a random s, and decides all the swaps of a round at once: n^2 / 2 proposals. Where a tensor
    joins a group with itself swaps are not independent: every round proposes one, at the cost of
    J.

    The best matching at the end of a sweep is kept.

    Attributes:
        steps: number of temperatures, one sweep each.
        tau_start: first temperature.
        tau_stop: last temperature.
        limit: most proposals, the sum of n^2 / 2 over the groups times the steps.
        polish: the ascent that follows; None leaves the best matching as it is.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse.matching.problem import Problem
        >>> problem = Problem({"h": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, (), ())
        >>> SimulatedAnnealing().solve(problem, key=jax.random.key(0)).permutations["h"]
        Array([1, 0], dtype=int32)
    """

    steps: int = 200
    tau_start: float = 0.6
    tau_stop: float = 0.2
    limit: int = 10**9
    polish: CoordinateAscent | None = CoordinateAscent()

    def __post_init__(self) -> None:
        if not (0 < self.tau_stop <= self.tau_start and self.steps > 0):
            raise ValueError(
                f"the temperature must fall and stay positive, in one step or more: got {self}"
            )

    def solve(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> Matching:
        """Match from the identity, or from the rounded start; the trace holds J after each sweep.

        Raises:
            ValueError: if there is no key, if groups index one another, as a swap would have to
                take along what they index, or if there are more proposals than the limit.
        """
        if key is None:
            raise ValueError("SimulatedAnnealing needs key=jax.random.key(seed)")
        if problem.parents:
            child, parent = problem.parents[0]
            raise ValueError(
                f"SimulatedAnnealing swaps units of one group, and {parent!r} indexes {child!r}: "
                "use CoordinateAscent or GraduatedAssignment, which take such groups together"
            )
        proposals = self.steps * sum(n * (n // 2) for n in problem.sizes.values())
        if proposals > self.limit:
            raise ValueError(
                f"SimulatedAnnealing would make {proposals} proposals, more than limit="
                f"{self.limit}: lower steps= to {self.limit * self.steps // proposals}, or raise "
                "limit="
            )
        if start is None:
            permutations = problem.identity()
        else:
            permutations = assign(start, problem.backend, problem.parents)
        last, trace = self.anneal(problem, permutations, key)
        steps = jnp.int32(self.steps)
        found = Proposal(last.best, trace, steps, jnp.bool_(True))
        return finish(problem, found, self.polish)

    def anneal(
        self, problem: Problem, permutations: Permutations, key: jax.Array
    ) -> tuple["Annealed", jax.Array]:
        """Return the last and the best matching, and J after every sweep; no polish."""
        scale = noise_scale(problem)
        unit = jnp.mean(jnp.stack(list(scale.values())))

        def step(state: Annealed, now: tuple[jax.Array, jax.Array]) -> tuple[Annealed, jax.Array]:
            temperature, key = now
            moved = sweep(problem, state.permutations, unit * temperature, key)
            value = problem.objective_at(moved)
            ahead = value > state.best_objective
            best = select(ahead, moved, state.best)
            return Annealed(moved, best, jnp.maximum(value, state.best_objective)), value

        first = Annealed(permutations, permutations, problem.objective_at(permutations))
        taus = np.geomspace(self.tau_start, self.tau_stop, self.steps)
        temperatures = jnp.asarray(taus, jnp.float32)
        return lax.scan(step, first, (temperatures, jax.random.split(key, self.steps)))


class Annealed(NamedTuple):
    """State of the annealing: the matching as it stands, and the best one met."""

    permutations: Permutations
    best: Permutations
    best_objective: jax.Array


def sweep(
    problem: Problem, permutations: Permutations, temperature: jax.Array, key: jax.Array
) -> Permutations:
    """Propose each pair of units of every group about once, at one temperature."""
    permutations = dict(permutations)
    for number, batch in enumerate(_batches(problem)):
        keys = jax.random.split(jax.random.fold_in(key, number), len(batch))
        if problem.meets_itself(batch):
            (group,) = batch
            permutations[group] = _visit_alone(problem, group, permutations, temperature, keys[0])
            continue
        scores = jnp.stack([problem.group_scores(group, permutations) for group in batch])
        columns = jnp.stack([permutations[group] for group in batch])
        visit = jax.vmap(_visit, in_axes=(0, 0, None, 0))
        moved = visit(scores, columns, temperature, keys)
        permutations |= {group: moved[index] for index, group in enumerate(batch)}
    return permutations


def gains(scores: jax.Array, columns: jax.Array, partners: jax.Array) -> jax.Array:
    """Return by how much J changes when unit i takes the match of its partner and gives its own.

    Args:
        scores: of a group that no tensor joins with itself, `[n, n]`.
        columns: its permutation, int32 `[n]`.
        partners: the unit that each swaps with, `[n]`, its own inverse.

    Examples:
        >>> scores = jnp.array([[0.0, 3.0], [1.0, 0.0]])
        >>> gains(scores, jnp.array([0, 1]), jnp.array([1, 0]))
        Array([4., 4.], dtype=float32)
    """
    both = jnp.stack([columns, columns[partners]], axis=1)
    now, then = jnp.moveaxis(jnp.take_along_axis(scores, both, axis=1), 1, 0)
    own = then - now
    return own + own[partners]


def _visit(
    scores: jax.Array, columns: jax.Array, temperature: jax.Array, key: jax.Array
) -> jax.Array:
    """Run n rounds of n / 2 swaps on one group whose scores do not depend on its matching."""
    units = jnp.arange(len(columns))

    def turn(columns: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        offset, chance = drawn
        partners = (offset - units) % len(columns)
        # Both units of a pair must come to one decision.
        chance = chance[jnp.minimum(units, partners)]
        accept = jnp.log(chance) * temperature < gains(scores, columns, partners)
        return jnp.where(accept, columns[partners], columns), None

    return lax.scan(turn, columns, _draw(key, len(columns), len(columns)))[0]


def _visit_alone(
    problem: Problem,
    group: str,
    permutations: Permutations,
    temperature: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Run n rounds of one swap on a group that a tensor joins with itself."""
    count = len(permutations[group])
    units = jnp.arange(count)

    def objective(columns: jax.Array) -> jax.Array:
        return problem.objective_at({**permutations, group: columns}, (group,))

    def turn(
        state: tuple[jax.Array, jax.Array], drawn: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        (columns, value), (offset, chance) = state, drawn
        first = jnp.int32(chance[1] * count) % count
        pair = jnp.stack([first, (offset - first) % count])
        moved = jnp.where(
            (units[:, None] == pair[None, :]).any(axis=1),
            columns[(offset - units) % count],
            columns,
        )
        then = objective(moved)
        accept = jnp.log(chance[0]) * temperature < then - value
        return (jnp.where(accept, moved, columns), jnp.where(accept, then, value)), None

    columns = permutations[group]
    return lax.scan(turn, (columns, objective(columns)), _draw(key, count, 2))[0][0]


def _draw(key: jax.Array, units: int, chances: int) -> tuple[jax.Array, jax.Array]:
    """Draw for one round per unit an offset, and numbers in (0, 1], `[units, chances]`."""
    offsets, uniform = jax.random.split(key)
    return (
        jax.random.randint(offsets, (units,), 0, units),
        1.0 - jax.random.uniform(uniform, (units, chances)),
    )


def _batches(problem: Problem) -> list[Sequence[str]]:
    """Return the groups in batches of one size that share no tensor."""
    batches: list[Sequence[str]] = []
    for colour in problem.colours():
        alike: dict[int, list[str]] = {}
        for group in colour:
            if problem.meets_itself((group,)):
                batches.append((group,))
            else:
                alike.setdefault(problem.sizes[group], []).append(group)
        batches += alike.values()
    return batches
