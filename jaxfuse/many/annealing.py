"""Annealing many matchings: projections of scores at a falling temperature, to convergence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfuse.assignment import Potentials, permutation_matrix
from jaxfuse.matching.problem import Backend
from jaxfuse.matching.projection import assign, cold_potentials, soften

Matrices = dict[str, jax.Array]


class Scorer(Protocol):
    """Scores one network of many against all others, for `Annealing`.

    A matching is a matrix `[n, n]` whose rows are units of the universe and whose columns are
    those of a network, as the reference of two networks has the rows.
    """

    @property
    def backend(self) -> Backend:
        """Who solves assignments."""
        ...

    @property
    def parents(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a node and its parent."""
        ...

    def classes(self) -> tuple[tuple[str, ...], ...]:
        """Return the nodes in classes that may be updated together."""
        ...

    def begin(self, matchings: Matrices) -> Any:
        """Return what is carried along while networks move, at matchings `[K, n, n]`."""
        ...

    def against(self, carried: Any, k: jax.Array, own: Matrices) -> Any:
        """Return what network k is scored against."""
        ...

    def scores(self, others: Any, k: jax.Array, own: Matrices, nodes: Sequence[str]) -> Matrices:
        """Return the scores `[n, n]` of the named nodes of network k, at its matchings `[n, n]`."""
        ...

    def moved(self, others: Any, k: jax.Array, own: Matrices) -> Any:
        """Return what is carried along once network k has new matchings."""
        ...

    def value(self, matchings: Matrices) -> jax.Array:
        """Return what the scores climb, at matchings `[K, n, n]`."""
        ...


class Annealed(NamedTuple):
    """Soft or hard matchings `[K, n, n]`, the value at every temperature, and the sweeps taken."""

    matchings: Matrices
    trace: jax.Array
    sweeps: jax.Array
    settled: jax.Array


class _Sweep(NamedTuple):
    matchings: Matrices
    before: Matrices
    potentials: Mapping[str, Potentials]
    carried: Any
    sweeps: jax.Array
    change: jax.Array


@jax.tree_util.register_static
@dataclass(frozen=True)
class Annealing:
    """The schedule of GAMF (Liu et al., ICML 2022, algorithms 1 and 2).

    `U_k = Sinkhorn(R_k / tau)`, network after network, until the matchings stand still; then tau
    falls by the factor gamma, as long as it is not below tau_min.

    Attributes:
        tau: the first temperature.
        gamma: factor of the temperature from step to step.
        tau_min: the last temperature is not below it.
        tolerance: a temperature is done when the matching of a unit changes by less: the mean of
            the squared change, against the last sweep or the one before it, as updates of all at
            once may swing between two states.
        max_sweeps: most sweeps at one temperature (50, as the released code).
        sinkhorn_iterations: of every projection, warm-started from the last one's potentials.
        update: "gauss_seidel" updates networks in turn, and in each the groups that share no tensor
            together; "jacobi" updates all from what they were, as the released code does.
        damping: share of the old matching in the new one.
        start: "anchored" holds network 0 at the identity and starts the others undecided; "random"
            starts all near that, each entry within 0.05 of 1 / n, and holds none, as the released
            code does; it needs a key.
    """

    tau: float = 1.0
    gamma: float = 0.72
    tau_min: float = 0.1
    tolerance: float = 1e-3
    max_sweeps: int = 50
    sinkhorn_iterations: int = 20
    update: Literal["gauss_seidel", "jacobi"] = "gauss_seidel"
    damping: float = 0.0
    start: Literal["anchored", "random"] = "anchored"

    def __post_init__(self) -> None:
        if not (0 < self.tau_min <= self.tau and 0 < self.gamma < 1):
            raise ValueError(
                f"the temperature must fall and stay positive: got tau={self.tau}, "
                f"gamma={self.gamma} and tau_min={self.tau_min}"
            )
        if min(self.max_sweeps, self.sinkhorn_iterations) < 1 or not 0 <= self.damping < 1:
            raise ValueError(
                f"max_sweeps and sinkhorn_iterations are 1 or more, damping in [0, 1): got {self}"
            )
        if self.update not in ("gauss_seidel", "jacobi"):
            raise ValueError(f"update is 'gauss_seidel' or 'jacobi': got {self.update!r}")
        if self.start not in ("anchored", "random"):
            raise ValueError(f"start is 'anchored' or 'random': got {self.start!r}")

    @property
    def temperatures(self) -> np.ndarray:
        """All temperatures, the highest first."""
        steps = int(np.log(self.tau_min / self.tau) / np.log(self.gamma) + 1e-6) + 1
        return np.asarray(self.tau * self.gamma ** np.arange(steps), np.float32)

    def first(self, sizes: Mapping[str, int], count: int, key: jax.Array | None) -> Matrices:
        """Return the matchings `[K, n, n]` to start from.

        Raises:
            ValueError: if the start is random and there is no key.
        """
        if self.start == "anchored":
            return {
                node: jnp.full((count, n, n), 1.0 / n).at[0].set(jnp.eye(n))
                for node, n in sizes.items()
            }
        if key is None:
            raise ValueError(
                f"{type(self).__name__}(start='random') needs key=jax.random.key(seed)"
            )
        keys = jax.random.split(key, len(sizes))
        return {
            node: 1.0 / n + jax.random.uniform(own, (count, n, n), minval=-0.05, maxval=0.05)
            for own, (node, n) in zip(keys, sizes.items(), strict=True)
        }

    def anneal(
        self, scorer: Scorer, matchings: Matrices, unit: Mapping[str, jax.Array]
    ) -> Annealed:
        """Cool matchings `[K, n, n]` down to the last temperature.

        Args:
            scorer: who knows the networks.
            matchings: where to start, per node.
            unit: per node `[K]`, the temperature that counts as 1.
        """
        sizes = {node: u.shape[-1] for node, u in matchings.items()}
        count = len(next(iter(matchings.values())))
        cold = cold_potentials(sizes, scorer.parents)
        potentials = jax.tree.map(lambda x: jnp.zeros((count, *x.shape)), cold)

        def step(state: tuple, tau: jax.Array) -> tuple[tuple, tuple]:
            soft, warm = state
            taus = {node: tau * each for node, each in unit.items()}
            last = self._settle(scorer, soft, warm, taus)
            settled = last.change < self.tolerance
            value = scorer.value(last.matchings)
            return (last.matchings, last.potentials), (value, last.sweeps, settled)

        (cooled, _), (trace, sweeps, settled) = lax.scan(
            step, (matchings, potentials), jnp.asarray(self.temperatures)
        )
        return Annealed(cooled, trace, jnp.sum(sweeps), jnp.all(settled))

    def harden(self, scorer: Scorer, matchings: Matrices) -> Annealed:
        """Assign instead of cooling, until no matching changes: the end of algorithm 2."""
        last = self._settle(scorer, matchings, {}, None)
        value = scorer.value(last.matchings)
        return Annealed(last.matchings, value[None], last.sweeps, last.change == 0)

    def _settle(
        self,
        scorer: Scorer,
        matchings: Matrices,
        potentials: Mapping[str, Potentials],
        taus: Matrices | None,
    ) -> _Sweep:
        """Sweep at one temperature, or with assignments, until the matchings stand still."""

        def sweep(state: _Sweep) -> _Sweep:
            every = self._in_turn if self.update == "gauss_seidel" else self._at_once
            moved, warm, carried = every(scorer, state, taus)
            units = sum(u[0].shape[-1] for u in moved.values()) * len(next(iter(moved.values())))
            change = [
                jnp.minimum(
                    jnp.sum(jnp.square(u - state.matchings[node]), axis=(1, 2)),
                    jnp.sum(jnp.square(u - state.before[node]), axis=(1, 2)),
                )
                for node, u in moved.items()
            ]
            total = jnp.sum(sum(change)) / units
            return _Sweep(moved, state.matchings, warm, carried, state.sweeps + 1, total)

        def moving(change: jax.Array) -> jax.Array:
            # One swap among many units is less than the tolerance.
            return change > 0 if taus is None else change >= self.tolerance

        far = jax.tree.map(lambda u: jnp.full_like(u, jnp.inf), matchings)
        first = _Sweep(
            matchings, far, potentials, scorer.begin(matchings), jnp.int32(0), jnp.float32(jnp.inf)
        )
        return lax.while_loop(
            lambda state: moving(state.change) & (state.sweeps < self.max_sweeps),
            sweep,
            first,
        )

    def _in_turn(self, scorer: Scorer, state: _Sweep, taus: Matrices | None) -> tuple:
        """Update one network after the other (Gauss-Seidel)."""

        def one(carry: tuple, k: jax.Array) -> tuple[tuple, None]:
            matchings, potentials, carried = carry
            own, warm = _of(matchings, k), _of(potentials, k)
            others = scorer.against(carried, k, own)
            own, warm = self._update(scorer, others, k, own, warm, _of(taus, k), scorer.classes())
            return (
                _put(matchings, k, own),
                _put(potentials, k, warm),
                scorer.moved(others, k, own),
            ), None

        first = (state.matchings, state.potentials, state.carried)
        return lax.scan(one, first, self._moving(state.matchings))[0]

    def _at_once(self, scorer: Scorer, state: _Sweep, taus: Matrices | None) -> tuple:
        """Update all networks from what they were (Jacobi)."""
        nodes = (tuple(state.matchings),)
        moving = self._moving(state.matchings)

        def one(k: jax.Array) -> tuple:
            own, warm = _of(state.matchings, k), _of(state.potentials, k)
            others = scorer.against(state.carried, k, own)
            return self._update(scorer, others, k, own, warm, _of(taus, k), nodes)

        own, warm = lax.map(one, moving)
        moved = _put(state.matchings, moving, own)
        return moved, _put(state.potentials, moving, warm), scorer.begin(moved)

    def _update(
        self,
        scorer: Scorer,
        others: Any,
        k: jax.Array,
        own: Matrices,
        warm: Mapping[str, Potentials],
        taus: Matrices | None,
        classes: Sequence[Sequence[str]],
    ) -> tuple[Matrices, Mapping[str, Potentials]]:
        """Project the scores of one network, class after class."""
        for nodes in classes:
            scores = scorer.scores(others, k, own, nodes)
            if taus is None:
                hard = assign(scores, scorer.backend, scorer.parents)
                own = {**own, **{node: permutation_matrix(o) for node, o in hard.items()}}
                continue
            cooled, potentials = soften(
                scores,
                {node: taus[node] for node in nodes},
                {node: warm[node] for node in nodes},
                self.sinkhorn_iterations,
                scorer.parents,
            )
            mixed = {
                node: (1 - self.damping) * new + self.damping * own[node]
                for node, new in cooled.items()
            }
            own, warm = {**own, **mixed}, {**warm, **potentials}
        return own, warm

    def _moving(self, matchings: Matrices) -> jax.Array:
        count = len(next(iter(matchings.values())))
        return jnp.arange(1 if self.start == "anchored" else 0, count)


def _of(tree: Any, k: jax.Array) -> Any:
    return jax.tree.map(lambda leaves: leaves[k], tree)


def _put(tree: Any, k: jax.Array, own: Any) -> Any:
    return jax.tree.map(lambda leaves, new: leaves.at[k].set(new), tree, own)
