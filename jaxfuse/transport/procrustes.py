"""Orthogonal alignment of residual streams and attention heads, by Procrustes' problem."""

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.affinity import Linear
from jaxfuse.affinity.block import HIGHEST
from jaxfuse.correspondence import Correspondence
from jaxfuse.matching import CoordinateAscent, Problem, Solver, build_problem
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.matching.problem import Backend
from jaxfuse.matching.projection import assign, entry_pairs
from jaxfuse.networks import Networks
from jaxfuse.status import Status
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import leaf_name
from jaxfuse.transport.carriers import computes
from jaxfuse.transport.checks import check_function, finite_params, join_status
from jaxfuse.transport.correlated import refuse_non_finite
from jaxfuse.transport.maps import Maps, map_params

# Pull towards the rotation so far, relative to the scores: it decides what they leave open.
_INERTIA = 1e-6
_SCALES = ("scale", "gamma", "weight", "mean", "var", "running_mean", "running_var")


@jax.tree_util.register_static
@dataclass(frozen=True)
class Procrustes:
    """Rotate the units of the named groups, and permute those of all others.

    A residual stream that only linear maps and norms of its length touch (RMSNorm without a scale)
    may be rotated by any orthogonal matrix, as may queries with keys, and values with what reads
    them, inside every head. For such a group the objective `J = sum <A, R_h B R_g^T>` over all
    tensors is largest, the others held fixed, at the polar factor `U V^T` of its scores `U S V^T`
    (Procrustes' problem; Theus et al., "Generalized linear mode connectivity for transformers",
    NeurIPS 2025; Zhang et al., "Beyond the permutation symmetry of transformers", ICML 2025).
    Groups take turns until J grows no more, first with what is joined to inputs and outputs alone,
    then with all. Heads whose units are rotated are matched by the best rotation of every pair,
    the nuclear norm of its scores.

    A symmetry says what may be permuted; that a group may be rotated it does not say, so nothing is
    unless it is named. With a function and inputs the result is checked, outside jit. Scales of a
    norm must be folded into the kernels that follow first; leaves that look like one are refused.

    Attributes:
        groups: names of the groups to rotate, in which `*`, `?` and `[...]` stand for others as in
            a shell.
        permutations: the solver for all other groups; it sees the rotated networks. Coordinate
            ascent is exact where these groups meet only rotated ones, as in a transformer.
        max_sweeps: most turns (15, as GLMC's code).
        tolerance: relative gain of J in a turn below which it ends.
        backend: who solves assignments, as in `jaxfuse.hungarian`.

    Examples:
        >>> k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
        >>> a = {"in": jax.random.normal(k1, (9, 4)), "out": jax.random.normal(k2, (4, 9))}
        >>> spec = Symmetry.from_axes({"in": (None, "r"), "out": ("r", None)}, a)
        >>> turn = jnp.linalg.qr(jax.random.normal(k3, (4, 4)))[0]
        >>> b = {"in": a["in"] @ turn, "out": turn.T @ a["out"]}
        >>> maps = Procrustes(groups=("r",)).align(Networks((a, b), (spec, spec))).maps
        >>> bool(jnp.allclose(maps.to["r"][1], turn, atol=1e-4))
        True
    """

    groups: tuple[str, ...] = ()
    permutations: Solver = CoordinateAscent()
    max_sweeps: int = 15
    tolerance: float = 1e-6
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.groups, str) or self.max_sweeps < 1:
            raise ValueError(f"groups is a tuple of names, max_sweeps at least 1: got {self}")

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Align all networks to the first.

        Args:
            networks: K networks of one width.
            key: for the solver of the permutations.

        Returns:
            Maps, orthogonal matrices and permutations. The objective is J, summed over the
            networks, never below that of the order they have.

        Raises:
            ValueError: for networks of different widths, names that no group has, groups with a
                scale, groups to rotate that a tensor joins with themselves or that index others,
                outside jit also for weights that are NaN or infinite, and, with data, for maps
                that change a function.

        Works under `jit` and `vmap`. Not differentiable.
        """
        networks.check_one_width("Procrustes")
        _rotated(self, networks.symmetry)
        found = refuse_non_finite(_align(self, networks, key))
        if found.maps is not None:
            check_function(networks, found.maps, "Procrustes")
        return found


class Turned(NamedTuple):
    """State of the loop of one pair.

    Attributes:
        to: per node `[n, n]`.
        objective: J.
        trace: `[max_sweeps]`.
        sweep: int32.
        gained: whether the last turn did.
    """

    to: dict[str, jax.Array]
    objective: jax.Array
    trace: jax.Array
    sweep: jax.Array
    gained: jax.Array


@jax.jit
def _align(method: Procrustes, networks: Networks, key: jax.Array | None) -> Correspondence:
    networks, finite = finite_params(networks)
    params, symmetry = networks.params, networks.symmetry
    turned: list[Turned] = []
    statuses = []
    for k in range(1, networks.count):
        problem = build_problem(params[0], params[k], symmetry, Linear(), method.backend)
        state = _turn(method, networks, problem, k, key)
        identity = {node: jnp.eye(n) for node, n in problem.sizes.items()}
        value = problem.objective(identity)
        aligned = state.objective - value <= method.tolerance * jnp.abs(value)
        to = {node: jnp.where(aligned, identity[node], each) for node, each in state.to.items()}
        turned.append(state._replace(to=to, objective=jnp.where(aligned, value, state.objective)))
        stopped = jnp.where(state.gained, Status.NOT_CONVERGED, Status.CONVERGED)
        statuses.append(jnp.where(aligned, Status.ALREADY_ALIGNED, stopped))
    sizes = {name: math.prod(node.shape) for name, node in list_nodes(symmetry).items()}
    to = {node: (jnp.eye(n), *(each.to[node] for each in turned)) for node, n in sizes.items()}
    back = {node: tuple(each.T for each in maps) for node, maps in to.items()}
    mass = {node: jnp.ones((networks.count, n)) for node, n in sizes.items()}
    objective = sum((each.objective for each in turned), start=jnp.float32(0))
    trace = sum((each.trace for each in turned), start=jnp.zeros(method.max_sweeps))
    return Correspondence(
        None, Maps(to, back, mass), objective, join_status(statuses, finite), trace
    )


def _turn(
    method: Procrustes, networks: Networks, problem: Problem, k: int, key: jax.Array | None
) -> Turned:
    """Rotate and permute network k by turns until the objective grows no more."""
    symmetry = networks.symmetry
    rotated = _rotated(method, symmetry)
    trees = [tree for tree in problem.trees if rotated & set(tree)]
    moving = {node for tree in trees for node in tree}
    groups = {node.group for name, node in list_nodes(symmetry).items() if name in moving}
    for tree in trees:
        if problem.meets_itself(tree):
            raise ValueError(
                f"a tensor joins {tree} with one another: what is best for one depends on the "
                "others there, so no rotation of theirs is found. Leave them out of groups="
            )
    rest = symmetry.pin(*map(glob.escape, groups)) if groups else symmetry

    def sweep(state: Turned) -> Turned:
        to = dict(state.to)
        # Permutations that are not known yet count nothing in the first scores.
        known = {
            node: each if node in moving else jnp.where(state.sweep > 0, each, 0.0)
            for node, each in to.items()
        }
        for tree in trees:
            known |= _rotate(problem, tree, rotated, known)
        to |= {node: known[node] for node in moving}
        if rest.groups:
            back = {node: each.T for node, each in to.items()}
            moved = map_params(networks.params[k], symmetry, to, back)
            pair = build_problem(networks.params[0], moved, rest, Linear(), method.backend)
            own = None if key is None else jax.random.fold_in(key, state.sweep)
            found = method.permutations.solve(pair, key=own).permutations
            to |= {node: to[node][order] for node, order in found.items()}
        value = problem.objective(to)
        gained = value - state.objective > method.tolerance * jnp.abs(value)
        ahead = jnp.arange(method.max_sweeps) >= state.sweep
        trace = jnp.where(ahead, value, state.trace)
        return Turned(to, value, trace, state.sweep + 1, gained)

    start = Turned(
        {node: jnp.eye(n) * (node not in moving) for node, n in problem.sizes.items()},
        jnp.float32(-jnp.inf),
        jnp.zeros(method.max_sweeps),
        jnp.int32(0),
        jnp.bool_(True),
    )
    return lax.while_loop(lambda s: s.gained & (s.sweep < method.max_sweeps), sweep, start)


def _rotate(
    problem: Problem, tree: Sequence[str], rotated: frozenset[str], to: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Return the best maps of one tree of nodes, all others as they are."""
    scores = problem.scores(to, tree)
    parents = dict(problem.parents)
    own = [node for node in tree if node in rotated]
    if own[0] not in parents:
        return {node: _polar(scores[node], to[node]) for node in own}
    totals = {node: scores[node] for node in tree if node not in rotated}
    for node in own:
        blocks = entry_pairs(scores[node], problem.sizes[parents[node]])
        totals[parents[node]] += jnp.sum(jnp.linalg.svd(blocks, compute_uv=False), axis=-1)
    outer = assign(totals, problem.backend, problem.parents)
    found = {node: jax.nn.one_hot(order, len(order)) for node, order in outer.items()}
    for node in own:
        order = outer[parents[node]]
        entries = jnp.arange(len(order))
        chosen = entry_pairs(scores[node], len(order))[entries, order]
        before = entry_pairs(to[node], len(order))[entries, order]
        blocks = jnp.zeros((len(order), len(order), *chosen.shape[1:]))
        blocks = blocks.at[entries, order].set(jax.vmap(_polar)(chosen, before))
        found[node] = blocks.swapaxes(1, 2).reshape(scores[node].shape)
    return found


def _polar(scores: jax.Array, before: jax.Array) -> jax.Array:
    """Return the orthogonal R with the largest `<scores, R>`, near `before` where that is open."""
    size = jnp.linalg.norm(scores)
    pull = jnp.where(jnp.any(before != 0), before, jnp.eye(len(before)))
    u, _, vt = jnp.linalg.svd(scores + _INERTIA * jnp.where(size > 0, size, 1.0) * pull)
    return jnp.dot(u, vt, precision=HIGHEST)


def _rotated(method: Procrustes, symmetry: Symmetry) -> frozenset[str]:
    """Return the nodes to rotate.

    Raises:
        ValueError: as `Procrustes.align` does.
    """
    groups = set()
    for pattern in method.groups:
        found = {group for group in symmetry.groups if fnmatchcase(group, pattern)}
        if not found:
            raise ValueError(
                f"no group matches {pattern!r}: the groups are {list(symmetry.groups)}"
            )
        groups |= found
    nodes = list_nodes(symmetry)
    rotated = frozenset(name for name, node in nodes.items() if node.group in groups)
    for name, node in nodes.items():
        if node.parent in rotated:
            raise ValueError(
                f"the entries of {node.parent!r} index the units of {name!r} and move as wholes, "
                f"so they can't be rotated: name {node.group!r} in groups= instead"
            )
    for tensor in symmetry.tensors:
        for axis, group in enumerate(tensor.groups):
            alone = tensor.output is None and computes(symmetry, tensor, axis)
            if group in groups and alone and leaf_name(tensor.path) in _SCALES:
                raise ValueError(
                    f"leaf {tensor.path!r} looks like a scale or statistic of the units of group "
                    f"{group!r}, which a rotation would mix: fold it into the kernels that follow, "
                    "or leave the group out of groups="
                )
    return rotated
