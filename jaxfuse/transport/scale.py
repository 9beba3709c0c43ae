"""Scale alignment: positive scalings of the units of ReLU networks, with permutations."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.affinity import Linear
from jaxfuse.correspondence import Correspondence
from jaxfuse.matching import Portfolio, Solver, build_problem
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.matching.problem import Backend
from jaxfuse.networks import Networks
from jaxfuse.symmetry.permute import spread
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import named_leaves
from jaxfuse.transport.carriers import carriers, computes
from jaxfuse.transport.checks import check_function, finite_params, join_status
from jaxfuse.transport.correlated import refuse_non_finite
from jaxfuse.transport.maps import Maps, map_params

PyTree = Any
Scales = dict[str, jax.Array]
# A log scale moves by a quarter of the log of the ratio of the squared norms.
_STEP = 0.25


@jax.tree_util.register_static
@dataclass(frozen=True)
class ScaleAlignment:
    """Undo the positive scalings that ReLU networks differ by, and match them by permutations.

    A unit of a ReLU network may be scaled by any s > 0, bias included, if what takes it is divided
    by s. So weights of one function differ by scales as by orders. Every network is brought into
    balance (`balance_scales`), in which a unit's incoming and outgoing weights have one norm, the
    geometric mean of the two; there the permutations are found. As the balance of a network does
    not depend on its order, and every scaling of it has the same one, nothing has to alternate.

    The maps end in the scales of network 0: a matched unit of network k gets the ratio of norms
    that its partner has in balance with it, `to = diag(1 / s_0) P diag(s_k)`, which for a single
    layer is the scale `sqrt(|in_0| |out_k| / (|out_0| |in_k|))` of scale-equivariant alignment
    (SEA; Neyshabur et al., "Path-SGD", NeurIPS 2015, on the symmetry). No data are needed.

    A symmetry does not say which nonlinearity its units pass. ReLU, leaky ReLU, max and mean
    pooling, and products with linear maps allow scales; GELU, sigmoid, softmax and layer norm do
    not. With a function and inputs the result is checked, outside jit; otherwise `groups` must name
    groups that allow them. Behind BatchNorm the function stays up to its epsilon.

    Attributes:
        solver: finds the permutations of the balanced networks.
        groups: names of the groups to scale, in which `*`, `?` and `[...]` stand for others as in a
            shell; all by default. The others are permuted alone.
        max_sweeps: of the balance.
        backend: who solves assignments, as in `jaxfuse.hungarian`.

    Examples:
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> a = {"in": jax.random.normal(k1, (5, 4)), "out": jax.random.normal(k2, (4, 3))}
        >>> spec = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, a)
        >>> s, order = jnp.array([0.1, 1.0, 2.0, 10.0]), jnp.array([2, 0, 3, 1])
        >>> b = {"in": (a["in"] * s[None])[:, order], "out": (a["out"] / s[:, None])[order]}
        >>> maps = ScaleAlignment().align(Networks((a, b), (spec, spec))).maps
        >>> bool(jnp.allclose(map_params(b, spec, *maps.of(1))["in"], a["in"], rtol=1e-4))
        True
    """

    solver: Solver = Portfolio()
    groups: tuple[str, ...] = ("*",)
    max_sweeps: int = 200
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.groups, str) or self.max_sweeps < 1:
            raise ValueError(f"groups is a tuple of names, max_sweeps at least 1: got {self}")

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Scale and permute all networks to the first.

        Args:
            networks: K networks of one width.
            key: for the solver.

        Returns:
            Maps. The objective is that of the solver on the balanced networks, summed over the
            networks.

        Raises:
            ValueError: for networks of different widths, names that no group has, outside jit also
                for weights that are NaN or infinite, and, with data, for scales that change a
                function.

        Works under `jit` and `vmap`. Not differentiable.
        """
        networks.check_one_width("ScaleAlignment")
        found = refuse_non_finite(_align(self, networks, key))
        if found.maps is not None:
            check_function(networks, found.maps, "ScaleAlignment")
        return found


@jax.jit
def _align(method: ScaleAlignment, networks: Networks, key: jax.Array | None) -> Correspondence:
    networks, finite = finite_params(networks)
    symmetry = networks.symmetry
    scales, balanced = [], []
    for params in networks.params:
        own = balance_scales(params, symmetry, groups=method.groups, max_sweeps=method.max_sweeps)
        scales.append(own)
        up = {node: jnp.diag(each) for node, each in own.items()}
        down = {node: jnp.diag(1 / each) for node, each in own.items()}
        balanced.append(map_params(params, symmetry, up, down))
    matchings = [
        method.solver.solve(
            build_problem(balanced[0], other, symmetry, Linear(), method.backend), key=key
        )
        for other in balanced[1:]
    ]
    to, back, mass = {}, {}, {}
    for node, first in scales[0].items():
        identity = jnp.eye(first.size)
        to[node], back[node] = (identity,), (identity,)
        mass[node] = jnp.ones((networks.count, first.size))
        for own, matching in zip(scales[1:], matchings, strict=True):
            permutation = identity[matching.permutations[node]]
            ratio = own[node][None, :] / first[:, None]
            to[node] += (permutation * ratio,)
            back[node] += ((permutation / ratio).T,)
    objective = sum((each.objective for each in matchings), start=jnp.float32(0))
    trace = matchings[0].trace if len(matchings) == 1 else objective[None]
    status = join_status([each.status for each in matchings], finite)
    return Correspondence(None, Maps(to, back, mass), objective, status, trace)


class Balance(NamedTuple):
    """State of the loop: log scales per group, the largest change, and the sweep."""

    logs: dict[str, jax.Array]
    change: jax.Array
    sweep: jax.Array


def balance_scales(
    params: PyTree,
    symmetry: Symmetry,
    *,
    groups: tuple[str, ...] = ("*",),
    max_sweeps: int = 200,
    tolerance: float = 1e-5,
) -> Scales:
    """Find the scales at which the incoming and outgoing weights of every unit have one norm.

    They minimise the sum of squares of all weights, convex in their logarithms; each group in turn
    takes its minimum, `s^2 = |outgoing| / |incoming|` (Stock et al., "Equi-normalization of neural
    networks", ICLR 2019, with the biases among the incoming weights).

    Args:
        params: the parameters.
        symmetry: its groups.
        groups: patterns of the groups to scale; the others keep a scale of one.
        max_sweeps: most turns over all groups.
        tolerance: largest change of a log scale in a turn at which they end.

    Returns:
        Per node the scales `[n]`: multiply what computes the units, divide what takes them. Units
        without incoming or without outgoing weights keep a scale of one.

    Raises:
        ValueError: for a pattern that no group matches.

    Examples:
        >>> params = {"in": jnp.full((1, 2), 4.0), "out": jnp.ones((2, 1))}
        >>> spec = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, params)
        >>> balance_scales(params, spec)["h"].tolist()
        [0.5, 0.5]
    """
    chosen = _choose(symmetry, groups)
    squares = _squares(params, symmetry)
    # Units that a tensor joins with one another move together: half a step stops them swinging.
    looped = {g for t in symmetry.tensors for g in t.groups if t.groups.count(g) > 1}
    steps = {group: _STEP / 2 if group in looped else _STEP for group in chosen}

    def sweep(state: Balance) -> Balance:
        logs, change = dict(state.logs), jnp.float32(0)
        for group in chosen:
            incoming, outgoing = (
                _norms(symmetry, squares, logs, group, side) for side in (True, False)
            )
            both = (incoming > 0) & (outgoing > 0)
            ratio = jnp.where(both, outgoing, 1.0) / jnp.where(both, incoming, 1.0)
            moved = steps[group] * jnp.log(ratio)
            change = jnp.maximum(change, jnp.max(jnp.abs(moved)))
            logs[group] = logs[group] + moved
        return Balance(logs, change, state.sweep + 1)

    start = Balance(
        {group: jnp.zeros(symmetry.shape(group)) for group in symmetry.groups},
        jnp.float32(jnp.inf),
        jnp.int32(0),
    )
    state = lax.while_loop(lambda s: (s.change > tolerance) & (s.sweep < max_sweeps), sweep, start)
    scales = {}
    for name, node in list_nodes(symmetry).items():
        entries = iter(node.entries)
        contexts = symmetry.contexts(node.group)
        at = tuple(slice(None) if c in symmetry.groups else next(entries) for c in contexts)
        scales[name] = jnp.exp(state.logs[node.group][at].reshape(-1))
    return scales


class Squares(NamedTuple):
    """The squared weights of a tensor, and where its groups lie.

    Attributes:
        block: summed over all axes that tell no units apart, which stay with size one.
        axes: per carrier its group, the axes that index it with its own, and whether the leaf
            computes its units.
    """

    block: jax.Array
    axes: tuple[tuple[str, tuple[int, ...], bool], ...]


def _choose(symmetry: Symmetry, patterns: tuple[str, ...]) -> list[str]:
    for pattern in patterns:
        if not any(fnmatchcase(group, pattern) for group in symmetry.groups):
            raise ValueError(
                f"no group matches {pattern!r}: the groups are {list(symmetry.groups)}"
            )
    return [g for g in symmetry.groups if any(fnmatchcase(g, pattern) for pattern in patterns)]


def _squares(params: PyTree, symmetry: Symmetry) -> list[Squares]:
    leaves = named_leaves(params)
    found = []
    for tensor in symmetry.tensors:
        if tensor.statistic or not any(tensor.groups):
            continue
        axes = tuple(
            (str(tensor.groups[axis]), (*contexts, axis), computes(symmetry, tensor, axis))
            for axis, contexts in carriers(symmetry, tensor).items()
        )
        units = {axis for _, own, _ in axes for axis in own}
        others = tuple(axis for axis in range(len(tensor.shape)) if axis not in units)
        block = jnp.square(jnp.asarray(tensor.take(leaves[tensor.path]), jnp.float32))
        found.append(Squares(jnp.sum(block, axis=others, keepdims=True), axes))
    return found


def _norms(
    symmetry: Symmetry,
    squares: list[Squares],
    logs: Mapping[str, jax.Array],
    group: str,
    incoming: bool,
) -> jax.Array:
    """Return the squared norm of what computes, or takes, each unit of a group as it is scaled."""
    total = jnp.zeros(symmetry.shape(group))
    for block, axes in squares:
        if (group, incoming) not in [(name, computed) for name, _, computed in axes]:
            continue
        scaled = block
        for name, own, computed in axes:
            sign = 2.0 if computed else -2.0
            scaled = scaled * spread(jnp.exp(sign * logs[name]), own, block.ndim)
        for name, own, computed in axes:
            if (name, computed) == (group, incoming):
                others = [axis for axis in range(block.ndim) if axis not in own]
                moved = jnp.transpose(scaled, (*own, *others))
                total += jnp.sum(moved, axis=tuple(range(len(own), block.ndim)))
    return total
