"""GAMF as published: scores that compare weights which the soft matchings have blurred."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.affinity.bandwidth import sampled_distances, squared_bandwidth
from jaxfuse.affinity.block import HIGHEST
from jaxfuse.affinity.gaussian_sums import paired_scores
from jaxfuse.correspondence import Correspondence
from jaxfuse.many.annealing import Annealing, Matrices
from jaxfuse.many.edge_stack import EdgeStack, stack_edges
from jaxfuse.many.universe import rebase
from jaxfuse.matching.problem import Backend, Problem
from jaxfuse.matching.result import select
from jaxfuse.networks import Networks
from jaxfuse.status import Status


@jax.tree_util.register_static
@dataclass(frozen=True)
class BlurredGAMF(Annealing):
    """Cool the matchings of K networks on the scores of GAMF's paper.

    Algorithm 2 of GAMF (Liu et al., ICML 2022). The far ends of the edges of two networks are
    brought into the universe by the soft matchings, and compared one by one:
    `A_kl[a, b] = sum_j exp(-|(U_k^T W_k)[j, a] - (U_l^T W_l)[j, b]|^2 / sigma)`, over the tensors
    on both sides of a group, and `R_k = sum_{l != k} A_kl U_l`. For soft matchings that is not the
    gradient of the objective: the kernel compares weights that are blurred into means (`GAMF` has
    the gradient). Of two networks it is algorithm 1, with network 0 held.

    As sigma is not given in the paper, it is a multiple of each tensor's median squared distance,
    and temperatures are in units of the scores' noise, as in `GAMF`. Biases and scales are edges
    to pinned units here, which the paper does not treat. A sweep costs K^2 kernels of every
    tensor, O(K^2 n^2 m e), and streams them.

    The objective of the result, and the trace `[temperatures]`, are `sum_k <R_k, U_k> / 2`.

    Attributes:
        bandwidth: sigma over the median squared distance between edges, as in `Gaussian`.
        memory: megabytes that the kernel values in flight may take.

    The settings of `Annealing` come before these.

    Examples:
        >>> from jaxfuse.symmetry import infer_chain
        >>> a = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])]
        >>> b = [a[0][:, ::-1], a[1][::-1]]
        >>> networks = Networks((a, b, a), (infer_chain(a),) * 3)
        >>> BlurredGAMF().align(networks).orders["0"].tolist()
        [[0, 1], [1, 0], [0, 1]]
    """

    bandwidth: float = 32.0
    memory: float = 64.0
    backend: Backend = "auto"

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Match the networks; the key is for a random start.

        Raises:
            ValueError: as `stack_edges`, and for a random start without a key.
        """
        stack = stack_edges(networks, "BlurredGAMF")
        scaled, noise = [], []
        for edges in stack.edges:
            each = list(edges)
            scaled.append(edges / jnp.sqrt(squared_bandwidth(each, self.bandwidth)))
            distances = sampled_distances(scaled[-1][0], scaled[-1][min(1, stack.count - 1)])
            noise.append(jnp.var(jnp.exp(-distances)))
        variance = {node: jnp.float32(0) for node, _ in stack.sizes}
        for edges, link, each in zip(stack.edges, stack.links, noise, strict=True):
            for node, far in zip(link, (2, 1), strict=False):
                variance[node] = variance[node] + (stack.count - 1) * edges.shape[far] * each
        unit = {node: jnp.sqrt(jnp.where(v > 0, v, 1.0)) for node, v in variance.items()}
        stack = EdgeStack(tuple(scaled), stack.links, stack.sizes)
        scorer = KernelScores(stack, "blurred", int(self.memory * 2**20), self.backend)
        return _align(self, scorer, unit, key)


@jax.tree_util.register_static
@dataclass(frozen=True)
class RowGAMF(Annealing):
    """Cool the matchings of K networks on the scores of GAMF's released code.

    Thinklab-SJTU/GAMF at 6c78ea1, on which its published figures of federated learning rest, has
    one kernel for a pair of units instead of one for every pair of edges:
    `A_kl[a, b] = exp(-|row_a - row_b|_4 / 2)` between all the weights of a unit, in the 4-norm,
    those of network k brought into the order of l by `P_kl = U_k U_l^T`; each tensor's A is divided
    by its mean, and `R_k = sum_{l != k} (A_in + A_out) U_l`. Temperatures are those of the code, in
    plain units. Its random start is `RowGAMF(start="random")`, with a key; its Sinkhorn iterations
    grow from 100 to 1200 where these are warm-started, and its tolerance is 0.002 of the sum over
    units where this one is of the mean. The universe is as wide as the networks. A sweep costs
    O(K^2 n^2 m e).

    The objective of the result, and the trace `[temperatures]`, are `sum_k <R_k, U_k> / 2`.

    Attributes:
        memory: megabytes that the differences in flight may take.

    The settings of `Annealing` come before these.

    Examples:
        >>> from jaxfuse.symmetry import infer_chain
        >>> a = [jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])]
        >>> b = [a[0][:, ::-1], a[1][::-1]]
        >>> networks = Networks((a, b, a), (infer_chain(a),) * 3)
        >>> RowGAMF().align(networks).orders["0"].tolist()
        [[0, 1], [1, 0], [0, 1]]
    """

    tau: float = 0.05
    gamma: float = 0.9
    tau_min: float = 0.005
    sinkhorn_iterations: int = 100
    update: Literal["gauss_seidel", "jacobi"] = "jacobi"
    memory: float = 64.0
    backend: Backend = "auto"

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Match the networks; the key is for a random start.

        Raises:
            ValueError: as `stack_edges`, and for a random start without a key.
        """
        stack = stack_edges(networks, "RowGAMF")
        scorer = KernelScores(stack, "row", int(self.memory * 2**20), self.backend)
        unit = {node: jnp.float32(1) for node, _ in stack.sizes}
        return _align(self, scorer, unit, key)


def _align(
    annealing: Annealing, scorer: "KernelScores", unit: Matrices, key: jax.Array | None
) -> Correspondence:
    sizes, count = dict(scorer.stack.sizes), scorer.stack.count
    units = {node: jnp.full(count, each) for node, each in unit.items()}
    cooled = annealing.anneal(scorer, annealing.first(sizes, count, key), units)
    last = annealing.harden(scorer, cooled.matchings)
    orders = rebase(
        {n: jnp.argmax(u, axis=-1).astype(jnp.int32) for n, u in last.matchings.items()}
    )
    aligned = {
        node: jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (count, n))
        for node, n in sizes.items()
    }
    at_aligned = scorer.value({n: jax.nn.one_hot(o, sizes[n]) for n, o in aligned.items()})
    keep = at_aligned >= last.trace[-1]
    stopped = jnp.where(last.settled, Status.CONVERGED, Status.NOT_CONVERGED)
    return Correspondence(
        select(keep, aligned, orders),
        None,
        jnp.where(keep, at_aligned, last.trace[-1]),
        jnp.where(keep, Status.ALREADY_ALIGNED, stopped).astype(jnp.int32),
        cooled.trace,
    )


@dataclass(frozen=True)
class KernelScores:
    """Scores by a kernel between the moved edges of every two networks, for `Annealing`.

    Attributes:
        stack: the edges; for "blurred" divided by sqrt(sigma).
        kernel: "blurred", sums over pairs of edges, or "row", one distance for a pair of units.
        budget: bytes that what is compared at a time may take.
        backend: who solves assignments.
    """

    stack: EdgeStack
    kernel: Literal["blurred", "row"]
    budget: int
    backend: Backend

    @property
    def parents(self) -> tuple[tuple[str, str], ...]:
        """There are none: such groups are refused."""
        return ()

    def classes(self) -> tuple[tuple[str, ...], ...]:
        """Return the nodes in classes that share no tensor."""
        nodes = {node: jnp.zeros(()) for node, _ in self.stack.sizes}
        links = tuple(link for link in self.stack.links if len(link) == 2)
        return Problem(nodes, (), (links,)).colours()

    def begin(self, matchings: Matrices) -> Matrices:
        """Return the matchings `[K, n, n]`: all that scores depend on."""
        return matchings

    def against(self, carried: Matrices, k: jax.Array, own: Matrices) -> Matrices:
        """Return the matchings."""
        return carried

    def moved(self, others: Matrices, k: jax.Array, own: Matrices) -> Matrices:
        """Return the matchings with those of network k replaced."""
        return {node: u.at[k].set(own[node]) for node, u in others.items()}

    def scores(
        self, others: Matrices, k: jax.Array, own: Matrices, nodes: Sequence[str]
    ) -> Matrices:
        """Return R_k `[n, n]` of the named nodes, its rows units of the universe."""

        def add(total: Matrices, m: jax.Array) -> tuple[Matrices, None]:
            def one(total: Matrices) -> Matrices:
                theirs = {node: u[m] for node, u in others.items()}
                return {
                    node: total[node]
                    + jnp.dot(
                        theirs[node], self._pair(node, k, m, own, theirs).T, precision=HIGHEST
                    )
                    for node in nodes
                }

            return lax.cond(m == k, lambda total: total, one, total), None

        zero = {node: jnp.zeros_like(own[node]) for node in nodes}
        return lax.scan(add, zero, jnp.arange(self.stack.count))[0]

    def value(self, matchings: Matrices) -> jax.Array:
        """Return `sum_k <R_k, U_k> / 2`."""

        def one(k: jax.Array) -> jax.Array:
            own = {node: u[k] for node, u in matchings.items()}
            scores = self.scores(matchings, k, own, tuple(own))
            products = [jnp.vdot(own[node], s, precision=HIGHEST) for node, s in scores.items()]
            return sum(products, start=jnp.float32(0))

        return jnp.sum(lax.map(one, jnp.arange(self.stack.count))) / 2

    def _pair(
        self,
        node: str,
        k: jax.Array,
        m: jax.Array,
        own: Matrices,
        theirs: Matrices,
    ) -> jax.Array:
        """Return A_km `[n, n]` of a node, over all its tensors."""
        total: Any = jnp.float32(0)
        for edges, other in self.stack.facing(node):
            a, b = edges[k], edges[m]
            if self.kernel == "blurred":
                if other is not None:
                    a, b = _move(a, own[other].T), _move(b, theirs[other].T)
                total += paired_scores(a, b, self.budget)
                continue
            if other is not None:
                a = _move(a, jnp.dot(own[other].T, theirs[other], precision=HIGHEST))
            scores = row_scores(a.reshape(len(a), -1), b.reshape(len(b), -1), self.budget)
            total += scores / jnp.mean(scores)
        return total


def _move(edges: jax.Array, matching: jax.Array) -> jax.Array:
    """Move the far ends of edges `[n, m, e]` by a soft matching `[m, M]`."""
    return jnp.einsum("nme,mu->nue", edges, matching, precision=HIGHEST)


def row_scores(a: jax.Array, b: jax.Array, budget: int) -> jax.Array:
    """Return `exp(-|a_i - b_j|_4 / 2)` `[n, n]` of rows `[n, m]`, a few rows at a time.

    Examples:
        >>> print(f"{row_scores(jnp.zeros((1, 2)), jnp.array([[2.0, 0.0]]), 1024)[0, 0]:.3f}")
        0.368
    """
    rows = max(1, min(len(a), budget // (4 * b.size)))

    def one_row(row: jax.Array) -> jax.Array:
        fourth = jnp.sum(jnp.square(jnp.square(row[None] - b)), axis=-1)
        return jnp.exp(-jnp.sqrt(jnp.sqrt(fourth)) / 2)

    return lax.map(one_row, a, batch_size=rows)
