"""Graduated assignment: soft matchings of all groups, cooled until they are hard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfuse.affinity.block import SecondMoment
from jaxfuse.affinity.multilinear import ScoreVariance
from jaxfuse.matching.coordinate_ascent import CoordinateAscent, finish
from jaxfuse.matching.packed import Packed, Stacks
from jaxfuse.matching.problem import Problem, Scores
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import Matching, Proposal


@jax.tree_util.register_static
@dataclass(frozen=True)
class GraduatedAssignment:
    """Cool a soft matching: scores, Sinkhorn at a falling temperature, then rounding and polish.

    GAMF's algorithm 1 (Liu et al., ICML 2022; Gold and Rangarajan, 1996) on the true gradient of
    the objective, with four changes that measured better.

    The temperature of a group is tau times the standard deviation that its scores would have if
    the edges of the two networks were unrelated, so one schedule serves weights of any scale.

    Plain graduated assignment is a mean field: the matching of a group h answers to the matching
    of g, which answered to h the step before, so every unit hears its own opinion back. The
    reaction term of Thouless, Anderson and Palmer (1977), Onsager's correction in approximate
    message passing, takes that echo out: from the scores of h it subtracts
    `sum_ij P_g[i, j] (1 - P_g[i, j]) / tau * k(i, a; j, b)^2 * P_h[a, b]`, with the squares
    replaced by products of unit energies, so it costs nothing. It recovers planted matchings under
    noise where plain annealing fails; `reaction=0` is the plain algorithm.

    The soft matchings answer to the balanced problem (`Problem.balanced`), which weighs the tensors
    as the likelihood of noisy copies does; J itself judges and polishes the rounded matching.
    `balanced=False` anneals on J.

    All groups move together, each on what the others were a step before, as approximate message
    passing has it (Bolthausen, 2014): half the products of moving them in turn, and one step to
    compile. The echo is then that of the group's own matching two steps back.

    Attributes:
        tau_start: first temperature; 1 leaves all but the clearest scores undecided.
        tau_stop: last temperature, reached geometrically.
        steps: number of temperatures.
        sweeps: updates of all groups at each temperature.
        sinkhorn_iterations: of every projection, warm-started from the last one's potentials.
        reaction: share of the reaction term, 0 to 1.
        balanced: whether the annealing weighs tensors of any scale alike.
        polish: the ascent that follows from the rounded matching; None leaves it as it is.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.matching.problem import Problem
        >>> problem = Problem({"h": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, (), ())
        >>> GraduatedAssignment().solve(problem).permutations["h"]
        Array([1, 0], dtype=int32)
    """

    tau_start: float = 1.0
    tau_stop: float = 0.1
    steps: int = 8
    sweeps: int = 1
    sinkhorn_iterations: int = 20
    reaction: float = 1.0
    balanced: bool = True
    polish: CoordinateAscent | None = CoordinateAscent()

    def __post_init__(self) -> None:
        if not 0 < self.tau_stop <= self.tau_start:
            raise ValueError(
                f"the temperature must fall and stay positive, got tau_start={self.tau_start} and "
                f"tau_stop={self.tau_stop}"
            )
        if min(self.steps, self.sweeps, self.sinkhorn_iterations) < 1:
            raise ValueError(f"steps, sweeps and sinkhorn_iterations must be 1 or more, got {self}")

    def solve(
        self,
        problem: Problem,
        start: Mapping[str, jax.Array] | None = None,
        key: jax.Array | None = None,
    ) -> Matching:
        """Match from the barycentre, or from a doubly stochastic start. The key is not used."""
        return finish(problem, self.search(problem, start), self.polish)

    def search(self, problem: Problem, start: Mapping[str, jax.Array] | None = None) -> Proposal:
        """Return the rounded matching of the last temperature, before the polish."""
        cooled, trace = self.anneal(problem, problem.barycentre() if start is None else start)
        rounded = assign(cooled, problem.backend, problem.parents)
        return Proposal(rounded, trace, jnp.int32(len(trace)), jnp.bool_(True))

    def anneal(
        self, problem: Problem, matching: Mapping[str, jax.Array]
    ) -> tuple[Scores, jax.Array]:
        """Return the soft matching at the last temperature, and what every update began with.

        The latter is the objective that the annealing maximises, that of the balanced problem.
        """
        moving = Packed.of(problem.balanced() if self.balanced else problem)
        moments = moving.problem.second_moments()
        unit = moving.pack(noise_scale(moving.problem, moments))
        start = moving.pack(matching)
        first = Cooling(
            start,
            start,
            {key: self.tau_start * scale for key, scale in unit.items()},
            moving.cold_potentials(),
        )

        def step(state: Cooling, tau: jax.Array) -> tuple[Cooling, jax.Array]:
            objective, scores = jax.value_and_grad(moving.objective)(state.matching)
            if self.reaction:
                echo = reaction(moving, moments, state)
                scores = {key: s - self.reaction * echo[key] for key, s in scores.items()}
            taus = {key: tau * scale for key, scale in unit.items()}
            cooled, potentials = moving.soften(
                scores, taus, state.potentials, self.sinkhorn_iterations
            )
            after = Cooling(cooled, state.matching, taus, potentials)
            return after, objective

        taus = np.geomspace(self.tau_start, self.tau_stop, self.steps).repeat(self.sweeps)
        last, trace = lax.scan(step, first, jnp.asarray(taus, jnp.float32))
        return moving.unpack(last.matching), trace


Moment = SecondMoment | ScoreVariance


class Cooling(NamedTuple):
    """State of the scan: the matchings, those they have answered to, temperatures, potentials."""

    matching: Stacks
    before: Stacks
    tau: Stacks
    potentials: Mapping[str, Any]


def noise_scale(problem: Problem, moments: Sequence[Moment] | None = None) -> dict[str, jax.Array]:
    """Return per group the standard deviation of a score between unrelated units.

    A score sums k over the edges of a unit. Were the edges unrelated, the variances would add up:
    those of the node terms as they are, and per block the second moment of k times the number of
    edges. To the score of a parent's pair every unit of the matched entry adds one of its own.

    Args:
        problem: the objective.
        moments: of its tensors, where they are known already.
    """
    moments = problem.second_moments() if moments is None else moments
    packed, sizes = Packed.of(problem), problem.sizes
    stacks = {
        key: jnp.mean(jnp.square(double_centred(scores)), axis=(-2, -1))
        for key, scores in packed.nodes.items()
    }
    for links, moment in zip(problem.links, moments, strict=True):
        if isinstance(moment, ScoreVariance):
            added = moment.carriers
        else:
            added = tuple(sizes[other] * moment.scale for other in reversed(links[0]))
        for slot, part in enumerate(added):
            stacks = packed.add(stacks, links, slot, part)
    variance = packed.unpack(stacks)
    deepest = sorted(problem.parents, key=lambda pair: sizes[pair[0]], reverse=True)
    for child, parent in deepest:
        variance[parent] = variance[parent] + sizes[child] // sizes[parent] * variance[child]
    return {group: jnp.sqrt(jnp.where(v > 0, v, 1.0)) for group, v in variance.items()}


def reaction(problem: Packed, moments: Sequence[Moment], state: Cooling) -> Stacks:
    """Return per node the echo of its own matching in the scores it gets, `[L, n, n]`.

    Args:
        problem: the objective.
        moments: of its tensors. Those that join more than two groups give no echo.
        state: the soft matchings, the temperatures they were made at, and those before them.
    """
    response = {
        key: p * (1 - p) / state.tau[key][:, None, None] for key, p in state.matching.items()
    }
    strength = {key: jnp.zeros_like(p) for key, p in state.matching.items()}
    for links, moment in zip(problem.problem.links, moments, strict=True):
        if isinstance(moment, ScoreVariance):
            continue
        echoes = jax.vmap(_echoes)(moment, *problem.slots(response, links))
        for slot, echo in enumerate(echoes):
            strength = problem.add(strength, links, slot, echo)
    return {key: s * state.before[key] for key, s in strength.items()}


def _echoes(
    moment: SecondMoment, rows: jax.Array, columns: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return what a tensor's two groups hear of themselves, given how the other one responds."""
    scale, row_a, column_a, row_b, column_b = moment
    at_rows = scale * (column_a @ columns @ column_b)
    at_columns = scale * (row_a @ rows @ row_b)
    return (
        at_rows * row_a[:, None] * row_b[None, :],
        at_columns * column_a[:, None] * column_b[None, :],
    )


def double_centred(scores: jax.Array) -> jax.Array:
    """Subtract what no assignment can change: the means of the rows and of the columns."""
    rows = jnp.mean(scores, axis=-1, keepdims=True)
    columns = jnp.mean(scores, axis=-2, keepdims=True)
    return scores - rows - columns + jnp.mean(scores, axis=(-2, -1), keepdims=True)
