"""Partial matching: permute, and leave the units that match worst unmerged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxfuse.activations.moments import Role, measure_moments
from jaxfuse.activations.objective import activation_scores
from jaxfuse.affinity import Affinity, Linear
from jaxfuse.correspondence import Correspondence
from jaxfuse.matching import Portfolio, Problem, Solver, build_problem
from jaxfuse.matching.graduated_assignment import noise_scale
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.matching.problem import Backend
from jaxfuse.networks import Networks
from jaxfuse.transport.checks import join_status
from jaxfuse.transport.correlated import check_shown, nested_nodes, only_finite, refuse_non_finite
from jaxfuse.transport.maps import maps_of_orders

Compare = Literal["auto", "weights", "activations", "both"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class PartialMatching:
    """Match all networks to the first, and merge only the units that match well.

    The first step of PLeaS (Nasery et al., CVPR 2025, section 3.1). Of every group the share
    `ratio` of units that match worst stays apart: its n units become `n (1 + ratio)` for
    two networks, `n (1 + (K - 1) ratio)` for K. Merged units are averaged, separate ones keep what
    computes them and are taken by what took them, and a separate unit of one network says nothing
    to one of another: those weights are zero. A layer between groups of ratios r and s then needs
    `(1 + r) (1 + s) - 2 r s` times the operations of one of two parents (`flops_ratio`), if the
    zeros are left out. The second step of PLeaS, least squares layer by layer, is not part of this.

    Groups that index others and the units they index, as heads, are merged whole.

    Attributes:
        ratio: share of units that stay apart: one for all groups, or a share for each group that
            is named, as pairs or a dict, in which "*" stands for the others. Groups that are not
            named are merged whole.
        solver: how two networks are matched.
        compare: what of them: "weights" as the paper's weight matching; "activations" as its
            activation matching, here by correlation; "both" as `jaxfuse.align_params` with inputs;
            "auto" is "both" where there is data, else "weights".
        worst: what tells the worst matches: "score" a low score, as the released code; "distance"
            what the score leaves of the units' own, `s_ii + s_jj - 2 s_ij`, so that small units
            count as well matched. On the OTFusion pair the latter is worth 0.6 points of accuracy
            at a ratio of 0.2.
        affinity: how weights are compared.
        role: whether activations are compared before the nonlinearity ("output") or after it
            ("input").
        activation_weight: of activations against weights, where both are compared.
        backend: who solves assignments, as in `jaxfuse.hungarian`.

    Examples:
        >>> from jaxfuse.symmetry import infer_chain
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> a = [jax.random.normal(k1, (4, 10)), jax.random.normal(k2, (10, 3))]
        >>> b = [a[0][:, ::-1].at[:, 3].add(1.0), a[1][::-1].at[5].add(1.0)]
        >>> networks = Networks((a, b), (infer_chain(a),) * 2)
        >>> PartialMatching(ratio=0.2).align(networks).orders["0"][1].tolist()
        [9, 8, 7, 6, -1, 4, -1, 2, 1, 0, 5, 3]
    """

    ratio: float | tuple[tuple[str, float], ...] | Mapping[str, float] = 0.2
    solver: Solver = Portfolio()
    compare: Compare = "auto"
    worst: Literal["score", "distance"] = "distance"
    affinity: Affinity = Linear()
    role: Role = "output"
    activation_weight: float = 3.0
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.ratio, Mapping):
            object.__setattr__(self, "ratio", tuple(self.ratio.items()))
        if not all(0 <= share <= 1 for share in self._shares().values()):
            raise ValueError(f"ratio is a share of the units, between 0 and 1: got {self.ratio}")
        if self.compare not in ("auto", "weights", "activations", "both"):
            raise ValueError(
                f"compare is 'auto', 'weights', 'activations' or 'both': got {self.compare!r}"
            )
        if self.worst not in ("score", "distance"):
            raise ValueError(f"worst is 'score' or 'distance': got {self.worst!r}")

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Match all networks to the first and set the worst matches apart.

        Args:
            networks: K networks of one width.
            key: source of randomness, for solvers that use it.

        Returns:
            Orders int32 `[K, n + (K - 1) m]`, m the units set apart: first those of network 0 in
            its order, with -1 in the others where a unit is separate, then the separate units of
            each other network; and the maps that go with them. The objective is the solver's,
            summed over the pairs, before units are set apart.

        Raises:
            ValueError: for networks of different widths, a ratio for a group that there is not or
                that hangs together with others, activations without data, and outside jit for
                weights or inputs that are NaN or infinite.

        Works under `jit` and `vmap`. Not differentiable.
        """
        networks.check_one_width("PartialMatching")
        if self.compare in ("activations", "both"):
            networks.function(f"PartialMatching(compare={self.compare!r})")
        self._count_apart(networks)
        return refuse_non_finite(_align(self, networks, key))

    def _count_apart(self, networks: Networks) -> dict[str, int]:
        """Return per node the number of units that are set apart."""
        symmetry = networks.symmetry
        nested = nested_nodes(symmetry)
        nodes = list_nodes(symmetry)
        shares = self._shares()
        whole = {node.group for name, node in nodes.items() if name in nested}
        for group in shares.keys() - {"*"}:
            if group not in symmetry.groups:
                raise ValueError(
                    f"ratio names {group!r}, which is none of the groups {list(symmetry.groups)}"
                )
            if group in whole:
                raise ValueError(
                    f"ratio names {group!r}, which indexes another group or is indexed by one: its "
                    "units can't be set apart; leave it out, or pin the group it hangs on"
                )
        return {
            name: round(shares.get(node.group, shares.get("*", 0.0)) * node.shape[-1])
            * (name not in nested)
            for name, node in nodes.items()
        }

    def _shares(self) -> dict[str, float]:
        """Return the ratios by group; "*" stands for all others."""
        if isinstance(self.ratio, (float, int)):
            return {"*": float(self.ratio)}
        return dict(self.ratio)


def flops_ratio(ratio_in: float, ratio_out: float) -> float:
    """Return the operations of a layer after partial matching, relative to one of two parents.

    `(1 + r_in) (1 + r_out) - 2 r_in r_out`: merged and separate units in and out, without the
    blocks of zeros from the separate units of one network to those of the other (Nasery et al.,
    CVPR 2025, section 3.1). An input or output of the network has ratio 0, if it is shared.

    Examples:
        >>> flops_ratio(0.0, 0.0), flops_ratio(1.0, 1.0), round(flops_ratio(0.2, 0.2), 2)
        (1.0, 2.0, 1.36)
    """
    return (1 + ratio_in) * (1 + ratio_out) - 2 * ratio_in * ratio_out


@jax.jit
def _align(method: PartialMatching, networks: Networks, key: jax.Array | None) -> Correspondence:
    apart = method._count_apart(networks)
    (crossed, own), finite = only_finite(_problems(method, networks))
    matchings = [method.solver.solve(problem, key=key) for problem in crossed]
    orders = {}
    for node, count in apart.items():
        columns = [matching.permutations[node] for matching in matchings]
        worth = jnp.float32(0)
        for k, (problem, matching) in enumerate(zip(crossed, matchings, strict=True), start=1):
            scores = problem.group_scores(node, matching.permutations)
            value = jnp.take_along_axis(scores, columns[k - 1][:, None], axis=1)[:, 0]
            if method.worst == "distance":
                value = 2 * value - own[0][node] - own[k][node][columns[k - 1]]
            worth += value
        orders[node] = set_apart(columns, worth, count)
    maps = None
    if any(apart.values()):
        maps = maps_of_orders(orders, {node: len(each) for node, each in own[0].items()})
    objective = jnp.sum(jnp.stack([matching.objective for matching in matchings]))
    trace = jnp.sum(jnp.stack([matching.trace for matching in matchings]), axis=0)
    status = join_status([matching.status for matching in matchings], finite)
    return Correspondence(orders, maps, objective, status, trace)


def set_apart(columns: Sequence[jax.Array], worth: jax.Array, count: int) -> jax.Array:
    """Turn permutations into orders in which the worst matches stay separate.

    Args:
        columns: per network but the first int32 `[n]`, its units that match those of the first.
        worth: of each match `[n]`; the lowest are the worst.
        count: how many are set apart, m.

    Returns:
        Orders int32 `[K, n + (K - 1) m]`.

    Examples:
        >>> set_apart([jnp.array([1, 0])], jnp.array([0.5, 0.9]), 1).tolist()
        [[0, 1, -1], [-1, 0, 1]]
    """
    n = len(worth)
    worst = jnp.sort(jnp.argsort(worth)[:count])
    separate = jnp.zeros(n, bool).at[worst].set(True)
    none = jnp.full(count, -1, jnp.int32)
    rows = [jnp.concatenate([jnp.arange(n, dtype=jnp.int32), *(none for _ in columns)])]
    for k, column in enumerate(columns):
        own = [column[worst] if other == k else none for other in range(len(columns))]
        rows.append(jnp.concatenate([jnp.where(separate, -1, column), *own]).astype(jnp.int32))
    return jnp.stack(rows)


def _problems(
    method: PartialMatching, networks: Networks
) -> tuple[list[Problem], list[dict[str, jax.Array]]]:
    """Return the problems of the first network with each other, and each unit's own scores."""
    params, symmetry = networks.params, networks.symmetry
    weighs = method.compare != "activations"
    watches = method.compare != "weights" and networks.has_data

    def between(k: int, l: int) -> Problem:  # noqa: E741
        return build_problem(params[k], params[l], symmetry, method.affinity, method.backend)

    pairs: dict[str, jax.Array] = {}
    worth: dict[str, jax.Array] = {}
    if watches and weighs:
        problems = [between(0, k) for k in range(1, networks.count)]
        each = [(noise_scale(problem), noise_scale(problem.balanced())) for problem in problems]
        noise, even = jax.tree.map(lambda *parts: sum(parts) / len(parts), *each)
        worth = {node: even[node] / noise[node] for node in noise}
        pairs = activation_scores(networks, noise, method.activation_weight, role=method.role)
    elif watches:
        moments = measure_moments(networks, role=method.role)
        check_shown(moments, networks, "PartialMatching(compare='activations')")
        for node, widths in moments.widths:
            shape = (len(widths), widths[0]) * 2
            pairs[node] = moments.correlation(node).reshape(shape).swapaxes(1, 2)

    def joint(k: int, l: int) -> Problem:  # noqa: E741
        problem = between(k, l)
        added = {node: scores[k, l] for node, scores in pairs.items()}
        if weighs:
            return problem.plus(added, {node: worth[node] * s for node, s in added.items()})
        nodes = jax.tree.map(jnp.zeros_like, problem.nodes)
        return Problem({**nodes, **added}, (), (), problem.backend, problem.parents)

    own = []
    for k in range(networks.count):
        problem = joint(k, k)
        scores = problem.scores_at(problem.identity())
        own.append({node: jnp.diagonal(each) for node, each in scores.items()})
    return [joint(0, k) for k in range(1, networks.count)], own
