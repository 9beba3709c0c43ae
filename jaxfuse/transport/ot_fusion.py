"""OTFusion: transport the units of every network to those of the first, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.activations.moments import Moments, Role, measure_moments
from jaxfuse.affinity.block import HIGHEST
from jaxfuse.correspondence import Correspondence
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.networks import Networks
from jaxfuse.status import Status
from jaxfuse.transport.checks import finite_params, join_status, refuse_nested
from jaxfuse.transport.correlated import only_finite, refuse_non_finite
from jaxfuse.transport.incoming import describe_units, order_nodes
from jaxfuse.transport.maps import Maps
from jaxfuse.transport.plan import transport_plan

# A dead unit keeps this share of the mean importance, so that no marginal is zero.
_LEAST = 1e-6


@jax.tree_util.register_static
@dataclass(frozen=True)
class OTFusion:
    """Transport the units of every network to those of the first by optimal transport.

    Singh and Jaggi, NeurIPS 2020, algorithm 1. Group by group, in the order of the network, the
    plan T `[n_k, n_0]` moves the mass mu of the units of network k to the mass nu of the units of
    network 0 at the least cost `<T, C>`, where C are Euclidean distances between units.

    Two maps follow. Unit j of network 0 is met by the convex mix `to = diag(1/nu) T^T` of the units
    x of network k. What a layer of k takes from its unit i comes then from the units of 0 that i
    went to, in proportion: `back = diag(1/mu) T`, for `W x` is close to `(W back) (to x)`, as
    `back @ to` has rows of sum one and is the identity where units of k are only split. The paper
    and its code multiply inputs with `T diag(1/nu)`: the same for networks of one width under
    uniform marginals, where every figure of theirs is, and else wrong by the ratio of the
    marginals, n_0 / n_k for every layer: `inputs="average"`.

    The cost "weights" compares the incoming weights, their inputs already in the units of network
    0, with biases and scales as more entries (the released code has neither). Where a group has
    several writers, as a residual stream, those that take units of later groups are left out: they
    are not matched yet. With `sweeps=2` all groups are matched again with all of them in. The cost
    "activations" compares what the units do on a batch, at all places of a group together.

    Under uniform marginals and at one width the exact plan is a permutation, and the result has
    orders. Groups that another one indexes are refused. Outputs are not transported.

    Attributes:
        cost: "weights" or "activations".
        transport: "exact" (network simplex, by POT) or "entropic" (Sinkhorn).
        regularisation: of the entropic plan, relative to the mean cost. The released code has 0.01
            too, absolute, on networks whose mean cost is near one.
        marginals: "uniform", or "importance": in proportion to the norm of what is compared.
        inputs: "conserve" or "average", see above.
        sweeps: passes over all groups; for the cost "weights".
        role: of the activations: "output", before bias and nonlinearity as published, or "input".
        batch_size: examples that are in flight at once.
        max_iterations: of Sinkhorn.

    Examples:
        >>> from jaxfuse.symmetry import infer_chain
        >>> from jaxfuse.transport.maps import fuse_maps
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> small = [jax.random.normal(k1, (4, 3)), jax.random.normal(k2, (3, 2))]
        >>> wide = [small[0].repeat(2, axis=1), small[1].repeat(2, axis=0) / 2]
        >>> symmetries = (infer_chain(small), infer_chain(wide))
        >>> maps = OTFusion().align(Networks((small, wide), symmetries)).maps
        >>> fused = fuse_maps((small, wide), symmetries, maps, [0.5, 0.5])
        >>> bool(jnp.allclose(fused[1], small[1], atol=1e-5))
        True
    """

    cost: Literal["weights", "activations"] = "weights"
    transport: Literal["exact", "entropic"] = "exact"
    regularisation: float = 0.01
    marginals: Literal["uniform", "importance"] = "uniform"
    inputs: Literal["conserve", "average"] = "conserve"
    sweeps: int = 1
    role: Role = "output"
    batch_size: int = 100
    max_iterations: int = 2000

    def __post_init__(self) -> None:
        choices = {
            "cost": ("weights", "activations"),
            "transport": ("exact", "entropic"),
            "marginals": ("uniform", "importance"),
            "inputs": ("conserve", "average"),
            "role": ("output", "input"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {allowed}")
        if not (self.regularisation > 0 and self.sweeps > 0 and self.max_iterations > 0):
            raise ValueError(f"regularisation, sweeps and max_iterations are positive: got {self}")
        if self.cost == "activations" and self.sweeps > 1:
            raise ValueError("activations do not change from sweep to sweep: pass sweeps=1")

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Transport all networks to the first.

        Args:
            networks: K networks of any widths; with their function and about 100 unlabelled
                examples or more for the cost "activations".
            key: not used.

        Returns:
            Maps to the units of network 0, or orders where the plans are permutations. The
            objective is the transport cost with its sign turned, over all nodes and networks; of
            two sweeps the later compares more and costs more.

        Raises:
            ValueError: for groups that another one indexes or that nothing computes, without data
                where the cost needs it, and outside jit for weights that are NaN or infinite.

        Works under `jit` and `vmap`; exact plans by a callback to the host. Not differentiable.
        """
        if self.cost == "activations":
            networks.function("OTFusion(cost='activations')")
        refuse_nested(networks, "OTFusion")
        return refuse_non_finite(_align(self, networks))


class Carried(NamedTuple):
    """How the units of one network go to those of network 0, per node, and at what cost.

    Attributes:
        to: per node `[n_0, n_k]`.
        back: per node `[n_k, n_0]`.
        trace: minus the cost of every sweep, `[sweeps]`.
        status: int32.
    """

    to: dict[str, jax.Array]
    back: dict[str, jax.Array]
    trace: jax.Array
    status: jax.Array


@jax.jit
def _align(method: OTFusion, networks: Networks) -> Correspondence:
    networks, finite = finite_params(networks)
    nodes = order_nodes(networks.symmetry)
    moments = None
    if method.cost == "activations":
        moments, whole = only_finite(
            measure_moments(networks, role=method.role, batch_size=method.batch_size)
        )
        finite &= whole
        _check_measured(moments, nodes)
    carried = [_carry(method, networks, moments, nodes, k) for k in range(1, networks.count)]
    trace = sum((each.trace for each in carried), start=jnp.zeros(method.sweeps))
    status = join_status([each.status for each in carried], finite)
    sizes = {
        name: networks.symmetry.groups[node.group]
        for name, node in list_nodes(networks.symmetry).items()
    }
    permutes = method.transport == "exact" and method.marginals == "uniform"
    if permutes and networks.has_one_width:
        orders = {
            node: jnp.stack(
                [jnp.arange(n), *(jnp.argmax(each.to[node], axis=1) for each in carried)]
            ).astype(jnp.int32)
            for node, n in sizes.items()
        }
        return Correspondence(orders, None, trace[-1], status, trace)
    to, back, mass = {}, {}, {}
    for node, n in sizes.items():
        to[node] = (jnp.eye(n), *(each.to[node] for each in carried))
        back[node] = (jnp.eye(n), *(each.back[node] for each in carried))
        mass[node] = jnp.ones((networks.count, n))
    return Correspondence(None, Maps(to, back, mass), trace[-1], status, trace)


def _check_measured(moments: Moments, nodes: Sequence[str]) -> None:
    for node in nodes:
        if node not in moments.sites:
            raise ValueError(
                f"no activation shows the units of {node!r}, so OTFusion(cost='activations') can't "
                "compare them: pin the group (Symmetry.pin), or use cost='weights'"
            )


def _carry(
    method: OTFusion, networks: Networks, moments: Moments | None, nodes: Sequence[str], k: int
) -> Carried:
    """Transport the units of network k to those of network 0, node after node."""
    to: dict[str, jax.Array] = {}
    back: dict[str, jax.Array] = {}
    costs, solved, aligned = [], jnp.bool_(True), jnp.bool_(True)
    for _ in range(method.sweeps):
        total = jnp.float32(0)
        for node in nodes:
            if moments is None:
                compared = _compare_weights(networks, node, back, k)
            else:
                compared = _compare_activations(moments, node, k)
            mu, nu = (_marginal(method, norm) for norm in (compared.norms_k, compared.norms_0))
            found = transport_plan(
                compared.distances,
                mu,
                nu,
                transport=method.transport,
                regularisation=method.regularisation,
                max_iterations=method.max_iterations,
            )
            plan = found.plan
            columns, rows = jnp.sum(plan, axis=0), jnp.sum(plan, axis=1)
            to[node] = (plan / columns[None, :]).T
            back[node] = (
                plan / rows[:, None] if method.inputs == "conserve" else plan / columns[None, :]
            )
            total += jnp.vdot(plan, compared.distances, precision=HIGHEST)
            solved &= found.solved
        costs.append(total)
    for matrix in to.values():
        square = matrix.shape[0] == matrix.shape[1]
        aligned &= jnp.all(matrix == jnp.eye(matrix.shape[0])) if square else False
    status = jnp.where(solved, Status.CONVERGED, Status.NOT_CONVERGED)
    status = jnp.where(solved & aligned, Status.ALREADY_ALIGNED, status).astype(jnp.int32)
    return Carried(to, back, -jnp.stack(costs), status)


class Compared(NamedTuple):
    """The units of one node of network k against those of network 0.

    Attributes:
        distances: `[n_k, n_0]`.
        norms_k: of what is compared, `[n_k]`.
        norms_0: `[n_0]`.
    """

    distances: jax.Array
    norms_k: jax.Array
    norms_0: jax.Array


def _compare_weights(
    networks: Networks, node: str, back: Mapping[str, jax.Array], k: int
) -> Compared:
    common = dict.fromkeys(back)
    mine = describe_units(networks.params[0], networks.symmetry, node, common).joined
    theirs = describe_units(networks.params[k], networks.symmetries[k], node, back).joined
    products = jnp.dot(theirs, mine.T, precision=HIGHEST)
    squares_k, squares_0 = (jnp.sum(jnp.square(each), axis=1) for each in (theirs, mine))
    squares = squares_k[:, None] + squares_0[None, :] - 2 * products
    return Compared(_root(squares), _root(squares_k), _root(squares_0))


def _compare_activations(moments: Moments, node: str, k: int) -> Compared:
    """Compare root mean squares over the samples, summed over the places of the node."""
    squares, squares_k, squares_0 = (jnp.float32(0) for _ in range(3))
    for site in moments.sites[node]:
        variances = moments.split(node, jnp.diagonal(site.covariance))
        means = moments.split(node, site.mean)
        between = moments.between(node, site.covariance, k, 0)
        squares += variances[k][:, None] + variances[0][None, :] - 2 * between
        squares += jnp.square(means[k][:, None] - means[0][None, :])
        squares_k += variances[k] + jnp.square(means[k])
        squares_0 += variances[0] + jnp.square(means[0])
    return Compared(_root(squares), _root(squares_k), _root(squares_0))


def _root(squares: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.maximum(squares, 0.0))


def _marginal(method: OTFusion, norms: jax.Array) -> jax.Array:
    """Return the mass of the units, `[n]` with sum one."""
    if method.marginals == "uniform":
        return jnp.full(norms.shape, 1.0 / norms.size)
    mean = jnp.mean(norms)
    importance = norms + _LEAST * jnp.where(mean > 0, mean, 1.0)
    return importance / jnp.sum(importance)
