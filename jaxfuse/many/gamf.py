"""GAMF for many networks: annealed matchings into one universe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.many.annealing import Annealing, Matrices
from jaxfuse.many.bundle import Bundle
from jaxfuse.many.merge_many import MergeMany
from jaxfuse.many.problem import ManyProblem, Matchings, pick_weighted
from jaxfuse.many.universe import finish, widen
from jaxfuse.matching.graduated_assignment import noise_scale
from jaxfuse.matching.problem import Backend, Problem
from jaxfuse.matching.projection import assign


@jax.tree_util.register_static
@dataclass(frozen=True)
class GAMF(Annealing):
    """Cool the matchings of all networks into the universe, on the true gradient of J.

    Algorithm 2 of GAMF (Liu et al., ICML 2022): universe matchings U_k per group, pairs matched by
    `P_kl = U_k U_l^T` and so cycle consistent, scores R_k, `U_k = Sinkhorn(R_k / tau)` to
    convergence at every tau, and last the Hungarian method to convergence. The paper takes for R_k
    its Gaussian kernel of blurred weights, which is the gradient of J only where the matchings are
    permutations; here R_k is dJ/dU_k at the soft matchings, with the kernel of any `affinity=`.
    `BlurredGAMF` is the paper's form and `RowGAMF` that of the released code.

    Temperatures are in units of the standard deviation that scores would have if the edges of the
    networks were unrelated, as in `GraduatedAssignment`, which with `reaction=0, balanced=False` is
    this with `update="jacobi"` for two networks. The sums of all networks in the universe are
    carried along, so a sweep costs K two-model gradients.

    Attributes:
        width: units of the universe over those of a network, as in `UniverseFrankWolfe`.
        polish: what follows the rounding, the Hungarian method in turn for every group and network
            until none gains; None leaves the rounded orders as they are.

    The settings of `Annealing` come before these. The trace `[temperatures]` is J of the soft
    matchings at the end of every temperature.

    Examples:
        >>> from jaxfuse.affinity import Linear
        >>> from jaxfuse.many import build_many
        >>> from jaxfuse.symmetry import infer_chain
        >>> a = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])]
        >>> b = [a[0][:, ::-1], a[1][::-1]]
        >>> problem = build_many([a, b, a], infer_chain(a), Linear())
        >>> GAMF(polish=None).solve_many(problem).orders["0"].tolist()
        [[0, 1], [1, 0], [0, 1]]
    """

    width: float = 1.0
    polish: MergeMany | None = MergeMany(start=None)

    def solve_many(self, problem: ManyProblem, key: jax.Array | None = None) -> Matchings:
        """Match from the start that is set. The key is for a random one.

        Raises:
            ValueError: for a width that the problem can't have, and a random start without a key.
        """
        wide = widen(problem, self.width)
        scorer = _Gradient(wide)
        first = self.first(wide.sizes, wide.count, key)
        cooled = self.anneal(scorer, first, scorer.unit())
        orders = jax.vmap(lambda one: assign(one, wide.backend, wide.parents))(cooled.matchings)
        finished = jnp.bool_(True)
        if self.polish is not None:
            sweeps = self.polish.ascend(wide, orders)
            orders, finished = sweeps.orders, ~sweeps.gained
        return finish(wide, orders, finished, cooled.trace, cooled.sweeps, problem.sizes)


@dataclass(frozen=True)
class _Gradient:
    """Scores by the gradient of J: network k is matched to the sum of the others as they stand."""

    problem: ManyProblem

    @property
    def backend(self) -> Backend:
        return self.problem.backend

    @property
    def parents(self) -> tuple[tuple[str, str], ...]:
        return self.problem.parents

    def classes(self) -> tuple[tuple[str, ...], ...]:
        nodes = dict.fromkeys(self.problem.units, jnp.zeros(()))
        return Problem(nodes, (), self.problem.links, parents=self.parents).colours()

    def unit(self) -> Matrices:
        """Return the noise of the scores of every network, `[K]` per node."""
        problem, count = self.problem, self.problem.count
        total = problem.total(jnp.ones(count), problem.identity())

        def one(k: jax.Array) -> Matrices:
            own, weight = problem.network(k), jax.nn.one_hot(k, count)
            pick = pick_weighted(1 - weight, weight, problem.identity())
            return noise_scale(problem.match(total - own, own, pick))

        return lax.map(one, jnp.arange(count))

    def begin(self, matchings: Matrices) -> tuple[Bundle, Matrices]:
        def add(total: Bundle, k: jax.Array) -> tuple[Bundle, None]:
            return total + self._standing(k, {n: u[k] for n, u in matchings.items()}), None

        first = self._standing(0, {node: u[0] for node, u in matchings.items()})
        return lax.scan(add, first, jnp.arange(1, self.problem.count))[0], matchings

    def against(
        self, carried: tuple[Bundle, Matrices], k: jax.Array, own: Matrices
    ) -> tuple[Bundle, Matrices, Problem]:
        total, matchings = carried
        others = total - self._standing(k, own)
        weight = 1 - jax.nn.one_hot(k, self.problem.count)

        def pick(pairs: Mapping[str, jax.Array]) -> Matrices:
            return {
                node: jnp.einsum(
                    "l,lun,lnm->um", weight, matchings[node], scores[:, k], precision=HIGHEST
                )
                for node, scores in pairs.items()
            }

        two = self.problem.match(others, self.problem.network(k), pick)
        return others, matchings, two

    def scores(
        self,
        others: tuple[Bundle, Matrices, Problem],
        k: jax.Array,
        own: Matrices,
        nodes: Sequence[str],
    ) -> Matrices:
        return others[2].scores(own, nodes)

    def moved(
        self, others: tuple[Bundle, Matrices, Problem], k: jax.Array, own: Matrices
    ) -> tuple[Bundle, Matrices]:
        rest, matchings, _ = others
        matchings = {node: u.at[k].set(own[node]) for node, u in matchings.items()}
        return rest + self._standing(k, own), matchings

    def value(self, matchings: Matrices) -> jax.Array:
        return self.problem.objective({n: jnp.swapaxes(u, 1, 2) for n, u in matchings.items()})

    def _standing(self, k: int | jax.Array, own: Matrices) -> Bundle:
        return self.problem.network(k).soft({node: u.T for node, u in own.items()})
