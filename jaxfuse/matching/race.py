"""Solvers one after the other on a batch of problems, each followed by ascent, the best kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from jaxfuse.matching.coordinate_ascent import CoordinateAscent
from jaxfuse.matching.packed import Packed, Stacks
from jaxfuse.matching.problem import Problem
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import Matching, Proposal, Searcher, Solver
from jaxfuse.matching.sweep import Move
from jaxfuse.status import Status

Starts = Mapping[str, jax.Array] | None


class Stage(NamedTuple):
    """Permutations to begin with, and the sweeps of ascent that follow.

    Attributes:
        kind: "open" begins with the start, and its result counts only if it is clear; "solve"
            begins with what a solver proposes; "finish" goes on with the best.
        solver: who proposes.
        sweeps: at most; 0 only looks how many units are clear.
        blank: whether the first sweep takes groups for unknown until they have moved, where no
            start is given.
    """

    kind: Literal["open", "solve", "finish"]
    solver: Solver | None
    sweeps: int
    blank: bool = False

    @classmethod
    def of(cls, solver: Solver) -> "Stage":
        """Return the stage of a solver, with its own polish where that can be told apart."""
        polish = solver.polish if isinstance(solver, Searcher) else None
        return cls("solve", solver, 0 if polish is None else polish.max_sweeps)

    def propose(self, problem: Problem, start: Starts, key: jax.Array | None) -> Proposal:
        """Return what a solver finds, not polished where it can be told apart."""
        if isinstance(self.solver, Searcher):
            return self.solver.search(problem, start)
        assert self.solver is not None
        found = self.solver.solve(problem, start, key)
        finished = found.status != Status.NOT_CONVERGED
        return Proposal(found.permutations, found.trace, found.iterations, finished)


class Candidate(NamedTuple):
    """A matching of every problem: orders `[B, L, n]` per stack, and its account, `[B, ...]`."""

    orders: Stacks
    objective: jax.Array
    clear: jax.Array
    gained: jax.Array
    trace: jax.Array
    iterations: jax.Array
    finished: jax.Array


class State(NamedTuple):
    """State of the loop: where it is, what is climbing, the best so far, and whose race is over."""

    stage: jax.Array
    sweep: jax.Array
    entering: jax.Array
    current: Candidate
    best: Candidate
    settled: jax.Array


@dataclass(frozen=True)
class Race:
    """Stages that all problems of a batch take together, until none is in doubt.

    One loop takes one step of a stage at a time, so the ascents of all stages are one program.
    Under `vmap` the batch becomes larger, and what is decided is decided for all: a conditional of
    each on its own would run both of its branches for all.

    Attributes:
        stages: what is run.
        climber: makes the sweeps of ascent.
        margin: relative gain of the objective for which a later solver is preferred.
        clear: share of clear units from which a matching is beyond doubt.
    """

    stages: tuple[Stage, ...]
    climber: CoordinateAscent
    margin: float
    clear: float

    def run(self, problem: Problem, start: Starts, key: jax.Array | None) -> Matching:
        """Match the two networks of a problem."""
        run = custom_vmap(self._run)

        @run.def_vmap
        def batch(count, in_batched, *inputs):  # pyright: ignore[reportUnusedFunction]
            def merge(leaf, batched):
                leaf = leaf if batched else jnp.broadcast_to(leaf, (count, *leaf.shape))
                return leaf.reshape(count * leaf.shape[1], *leaf.shape[2:])

            found = run(*jax.tree.map(merge, inputs, tuple(in_batched)))
            split = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), found)
            return split, jax.tree.map(lambda _: True, found)

        one = jax.tree.map(lambda leaf: leaf[None], (problem, start, key))
        return jax.tree.map(lambda leaf: leaf[0], run(*one))

    def _run(self, problems: Problem, starts: Starts, keys: jax.Array | None) -> Matching:
        """Match a batch of problems, whose arrays have one more axis in front."""
        batch = Batch.of(problems, starts, keys, self.stages)
        identity = batch.each(lambda one: one.pack(one.problem.identity()), batch.packed)
        at_identity = batch.each(Packed.objective_at, batch.packed, identity)
        limits = jnp.array([stage.sweeps or 1 for stage in self.stages], jnp.int32)
        entries = [self._entry(batch, stage, identity) for stage in self.stages]

        def enter(state: State) -> State:
            current = lax.switch(state.stage, entries, state.best)
            return state._replace(current=current, sweep=jnp.int32(0), entering=jnp.bool_(False))

        def climb(state: State) -> State:
            return self._climb(batch, state)

        def step(state: State) -> State:
            state = lax.cond(state.entering, enter, climb, state)
            done = (state.sweep >= limits[state.stage]) | ~jnp.any(state.current.gained)
            return lax.cond(done, lambda s: self._leave(batch, s), lambda s: s, state)

        nothing = batch.candidate(identity, Proposal({}, jnp.zeros(0), jnp.int32(0), False))
        first = State(
            jnp.int32(0),
            jnp.int32(0),
            jnp.bool_(True),
            nothing,
            nothing._replace(objective=jnp.full(batch.size, -jnp.inf)),
            jnp.zeros(batch.size, bool),
        )
        best = lax.while_loop(lambda s: s.stage < len(self.stages), step, first).best
        aligned = at_identity >= best.objective
        stopped = jnp.where(best.finished, Status.CONVERGED, Status.NOT_CONVERGED)
        return Matching(
            batch.each(Packed.unpack, batch.packed, select_each(aligned, identity, best.orders)),
            jnp.where(aligned, at_identity, best.objective),
            jnp.where(aligned, Status.ALREADY_ALIGNED, stopped).astype(jnp.int32),
            best.trace,
            best.iterations,
        )

    def _entry(
        self, batch: "Batch", stage: Stage, identity: Stacks
    ) -> Callable[[Candidate], Candidate]:
        """Return what a stage begins with, as a function of the best so far."""

        def open_with(_: Candidate) -> Candidate:
            orders = identity
            if batch.starts is not None:
                orders = batch.each(_rounded, batch.packed, batch.starts)
            return batch.candidate(orders, Proposal({}, jnp.zeros(0), jnp.int32(1), False))

        def propose(_: Candidate) -> Candidate:
            found = batch.each(stage.propose, batch.problems, batch.starts, batch.keys)
            orders = batch.each(Packed.pack, batch.packed, found.permutations)
            return batch.candidate(orders, found)

        return {"open": open_with, "solve": propose, "finish": lambda best: best}[stage.kind]

    def _climb(self, batch: "Batch", state: State) -> State:
        """Make one sweep; where a stage has none, only see which units are clear."""
        frozen = jnp.array([stage.sweeps == 0 for stage in self.stages])[state.stage]
        blank = jnp.array([stage.blank for stage in self.stages])[state.stage]
        blank &= (state.sweep == 0) & (batch.starts is None)

        def sweep(own: Packed, orders: Stacks) -> Move:
            move = Move.start(orders, frozen=frozen, blank=blank)
            return self.climber.sweep(own)(move, state.sweep)

        done = batch.each(sweep, batch.packed, state.current.orders)
        current = state.current._replace(
            orders=done.permutations,
            gained=(done.gain > 0) | frozen | blank,
            clear=done.clear / sum(batch.problems.sizes.values()),
            finished=jnp.where(frozen, state.current.finished, done.gain <= 0),
        )
        return state._replace(current=current, sweep=state.sweep + 1)

    def _leave(self, batch: "Batch", state: State) -> State:
        """Keep what a stage has found where it is the better, and go on to the next."""
        kinds = [stage.kind for stage in self.stages]
        opens, ends = (
            jnp.array([k == kind for k in kinds])[state.stage] for kind in ("open", "finish")
        )
        objective = batch.each(Packed.objective_at, batch.packed, state.current.orders)
        flat = jnp.broadcast_to(objective[:, None], state.current.trace.shape)
        trace = jnp.where(opens, flat, state.current.trace)
        current = state.current._replace(objective=objective, trace=trace)
        best = state.best
        ahead = objective - best.objective > self.margin * jnp.abs(best.objective)
        ahead = ~state.settled & (ahead | (best.objective == -jnp.inf))
        ahead = jnp.where(opens, current.clear >= self.clear, ahead | ends)
        best = select_each(ahead, current, best)
        settled = best.clear >= self.clear
        finish = len(kinds) - kinds.count("finish")
        skip = jnp.all(settled) & (state.stage < finish)
        stage = jnp.where(skip, finish, state.stage + 1)
        # What no sweep has bettered is finished already.
        still = ~jnp.any(best.gained) & (stage == finish)
        stage = jnp.where(still, len(kinds), stage)
        return State(stage, jnp.int32(0), jnp.bool_(True), current, best, settled)


@dataclass(frozen=True)
class Batch:
    """Problems side by side, and how many.

    Attributes:
        size: their number.
        problems: with one more axis in front of every array, like the starts and the keys.
        packed: the same, packed.
        length: of the longest trace of any stage.
    """

    size: int
    problems: Problem
    packed: Packed
    starts: Any
    keys: Any
    length: int

    @classmethod
    def of(cls, problems: Problem, starts: Any, keys: Any, stages: tuple[Stage, ...]) -> "Batch":
        """Pack the problems."""
        size = len(jax.tree.leaves(problems)[0])
        one = jax.tree.map(lambda leaf: leaf[0], (problems, starts, keys))
        traces = [
            len(jax.eval_shape(stage.propose, *one).trace)
            for stage in stages
            if stage.kind == "solve"
        ]
        packed = _each(size, Packed.of, problems)
        return cls(size, problems, packed, starts, keys, max(traces, default=1))

    def each(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Call a function for every problem of the batch."""
        return _each(self.size, function, *inputs)

    def candidate(self, orders: Stacks, found: Proposal) -> Candidate:
        """Return a candidate that has not climbed yet; of nothing found, the account is empty."""
        trace = jnp.broadcast_to(found.trace, (self.size, *found.trace.shape[-1:]))
        if found.trace.shape[-1]:
            trace = jnp.pad(trace, ((0, 0), (0, self.length - trace.shape[1])), "edge")
        else:
            trace = jnp.zeros((self.size, self.length))
        whole = (self.size,)
        return Candidate(
            orders,
            jnp.zeros(whole),
            jnp.zeros(whole),
            jnp.ones(whole, bool),
            trace,
            jnp.broadcast_to(found.iterations, whole).astype(jnp.int32),
            jnp.broadcast_to(found.finished, whole),
        )


def _each(size: int, function: Callable[..., Any], *inputs: Any) -> Any:
    if size != 1:
        return jax.vmap(function)(*inputs)
    # A loop under `vmap` selects between all it carries and what it carried before.
    found = function(*jax.tree.map(lambda leaf: leaf[0], inputs))
    return jax.tree.map(lambda leaf: leaf[None], found)


def _rounded(packed: Packed, start: Mapping[str, jax.Array]) -> Stacks:
    problem = packed.problem
    return packed.pack(assign(start, problem.backend, problem.parents))


def select_each(condition: jax.Array, left: Any, right: Any) -> Any:
    """Choose between two trees of arrays `[B, ...]`, for each of the batch."""

    def choose(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, left, right)
