"""PFNM: Bayesian matched averaging, where a unit that matches none becomes a new one."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.correspondence import Correspondence
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.matching.problem import Backend
from jaxfuse.networks import Networks
from jaxfuse.status import Status, is_concrete
from jaxfuse.transport.beta_process import Prior, Units, match_units
from jaxfuse.transport.checks import finite_params, join_status, refuse_nested
from jaxfuse.transport.correlated import refuse_non_finite
from jaxfuse.transport.incoming import describe_units, order_nodes
from jaxfuse.transport.maps import Maps

# Relative gain of the last pass up to which it counts as none.
_GAIN = 1e-6


@jax.tree_util.register_static
@dataclass(frozen=True)
class PFNM:
    """Match units to a growing set of common units by a beta process, layer by layer.

    Probabilistic federated neural matching (Yurochkin et al., ICML 2019), with the layers in the
    order of the network as in FedMA (Wang et al., ICLR 2020, BBP-MAP). A common unit is drawn from
    a Gaussian N(mu0, sigma0^2), the unit v of a network that has it from N(common, sigma^2), and
    which network has which is a beta-Bernoulli process of mass gamma. Network after network, the
    widest first, units are matched by the Hungarian method on proposition 2 of the paper,

        |G + v / sigma^2|^2 / (S + 1 / sigma^2) - |G|^2 / S + 2 log(m / (K - m))

    for a common unit that m of the other networks have, with S = 1 / sigma0^2 + m / sigma^2 and G
    = mu0 / sigma0^2 + sum of their v / sigma^2; the same with m = 0 and `2 log(gamma / K) - 2 log
    r` in place of the last term for the r-th new one. Then passes follow, each of which takes
    every network out and matches it again; common units that nobody has are free again.

    A unit is all that computes it: incoming weights, whose inputs stand at the common units they
    were matched to and are zero where the network has no such unit, and biases. Of a residual
    stream the writers that take units of later groups are left out. Outputs stay.

    In the fused network a common unit is the mean of those that have it (`mass`). What differs from
    the released code: it fuses by "posterior", halves the popularity term, caps m at 10 in it, and
    gives the bias' prior mean to the first entry where the bias is the last one.

    Attributes:
        gamma: mass of the process: how readily units are new (7, as FedMA's code).
        sigma: standard deviation of units around a common one (1, as there).
        sigma0: standard deviation of common units (1, as there). Where the squares of the weights
            of a unit sum to about one or less, as in small networks, these two say that matching
            explains little, and most of what grows the network is gamma: a smaller sigma matches
            more.
        mu0: mean of common units (0, as there).
        mu_bias: the same for biases and scales (0.1, as there).
        passes: over all networks after the first matching (5, as there).
        max_width: the most common units of a group; "widest" for as many as the widest network has,
            so that nothing grows; the sum of the widths, which is no limit, if None. Memory grows
            with it, under jit also the arrays that are returned.
        estimate: "mean", or "posterior", the mode under the prior: the mean times `m / (m +
            sigma^2 / sigma0^2)`. It shrinks towards zero: prior means other than zero are not
            added to the fused weights.
        backend: who solves assignments, as in `jaxfuse.hungarian`.

    Examples:
        >>> from jaxfuse.symmetry import infer_chain
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> wide = [jax.random.normal(k1, (9, 6)), jax.random.normal(k2, (6, 2))]
        >>> small = [wide[0][:, 1::2], wide[1][1::2]]
        >>> networks = Networks((wide, small), (infer_chain(wide), infer_chain(small)))
        >>> PFNM(sigma=0.1).align(networks).orders["0"].tolist()
        [[0, 1, 2, 3, 4, 5], [-1, 0, -1, 1, -1, 2]]
    """

    gamma: float = 7.0
    sigma: float = 1.0
    sigma0: float = 1.0
    mu0: float = 0.0
    mu_bias: float = 0.1
    passes: int = 5
    max_width: int | Literal["widest"] | None = None
    estimate: Literal["mean", "posterior"] = "mean"
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if not (self.gamma > 0 and self.sigma > 0 and self.sigma0 > 0 and self.passes >= 0):
            raise ValueError(
                f"gamma, sigma and sigma0 are positive, passes not negative: got {self}"
            )
        if self.estimate not in ("mean", "posterior"):
            raise ValueError(f"estimate={self.estimate!r} is neither 'mean' nor 'posterior'")

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Match the units of all networks to common ones.

        Args:
            networks: K networks of any widths.
            key: for the order of the networks in every pass; the widest first without.

        Returns:
            Orders with -1 where a network has no such unit, and maps. The units of network 0 are
            the first common ones, in their order. Under jit there are as many as `max_width` says,
            of which the last ones may be nobody's; outside jit those are left out. The objective
            is twice the log posterior of the matching, up to a constant and the number of ways to
            name units of one history.

        Raises:
            ValueError: for groups that another one indexes or that nothing computes, a `max_width`
                below a width, and outside jit for weights that are NaN or infinite.

        Works under `jit` and `vmap`. Not differentiable.
        """
        refuse_nested(networks, "PFNM")
        found = refuse_non_finite(_align(self, networks, key))
        if found.orders is None or found.maps is None or not is_concrete(found.status):
            return found
        orders = {node: np.asarray(order) for node, order in found.orders.items()}
        used = {node: np.any(order >= 0, axis=0) for node, order in orders.items()}
        trimmed = {node: jnp.asarray(order[:, used[node]]) for node, order in orders.items()}
        return found._replace(orders=trimmed, maps=found.maps.trim())


@jax.jit
def _align(method: PFNM, networks: Networks, key: jax.Array | None) -> Correspondence:
    networks, finite = finite_params(networks)
    listed = [list_nodes(symmetry) for symmetry in networks.symmetries]
    back: list[dict[str, jax.Array]] = [{} for _ in listed]
    orders, mass, traces = {}, {}, []
    settled, aligned = jnp.bool_(True), jnp.bool_(True)
    for index, node in enumerate(order_nodes(networks.symmetry)):
        widths = [each[node].shape[-1] for each in listed]
        common = _common_width(method, node, widths)
        units = _collect(method, networks, node, widths, back)
        own = None if key is None else jax.random.fold_in(key, index)
        matched = match_units(
            Prior(method.gamma, method.sigma, method.sigma0),
            units,
            widths,
            common,
            passes=method.passes,
            backend=method.backend,
            key=own,
        )
        for k, width in enumerate(widths):
            back[k][node] = jax.nn.one_hot(matched.slots[k, :width], common)
        present = jnp.stack([jnp.sum(each[node], axis=0) for each in back])
        first = jnp.stack([jnp.argmax(each[node], axis=0) for each in back])
        orders[node] = jnp.where(present > 0, first, -1).astype(jnp.int32)
        mass[node] = present
        traces.append(matched.trace)
        gain = jnp.abs(matched.trace[-1] - matched.trace[max(-2, -1 - method.passes)])
        settled &= gain <= _GAIN * jnp.abs(matched.trace[-1])
        moved = matched.slots != jnp.arange(max(widths))[None, :]
        aligned &= ~jnp.any(moved & units.present)
    to = {node: tuple(_to(method, each[node], mass[node]) for each in back) for node in orders}
    maps = Maps(to, {node: tuple(each[node] for each in back) for node in orders}, mass)
    status = jnp.where(settled, Status.CONVERGED, Status.NOT_CONVERGED)
    status = join_status([jnp.where(aligned, Status.ALREADY_ALIGNED, status)], finite)
    trace = sum(traces[1:], start=traces[0])
    return Correspondence(orders, maps, trace[-1], status, trace)


def _common_width(method: PFNM, node: str, widths: list[int]) -> int:
    """Return the most common units that a node may have."""
    if method.max_width == "widest":
        return max(widths)
    if method.max_width is not None and method.max_width < max(widths):
        raise ValueError(
            f"max_width={method.max_width}, and the networks have {widths} units in {node!r}: the "
            "units of one network stay apart, so pass the largest width at least"
        )
    return min(sum(widths), method.max_width or sum(widths))


def _to(method: PFNM, back: jax.Array, mass: jax.Array) -> jax.Array:
    if method.estimate == "mean":
        return back.T
    members = jnp.sum(mass, axis=0)
    return (members / (members + method.sigma**2 / method.sigma0**2))[:, None] * back.T


def _collect(
    method: PFNM,
    networks: Networks,
    node: str,
    widths: list[int],
    back: list[dict[str, jax.Array]],
) -> Units:
    """Describe the units of a node, their inputs at the common units, by their inner products."""
    described = [
        describe_units(params, symmetry, node, own)
        for params, symmetry, own in zip(networks.params, networks.symmetries, back, strict=True)
    ]
    weights = jnp.full(described[0].weights.shape[1], method.mu0)
    if method.mu0:
        # Inputs that no network has say nothing, whatever their prior mean.
        used = jnp.zeros(weights.shape)
        for params, symmetry, own in zip(networks.params, networks.symmetries, back, strict=True):
            ones = jax.tree.map(jnp.ones_like, params)
            used += jnp.sum(describe_units(ones, symmetry, node, own).weights, axis=0)
        weights = jnp.where(used > 0, weights, 0.0)
    vectors = jnp.full(described[0].vectors.shape[1], method.mu_bias)
    prior = jnp.concatenate([weights, vectors]) / method.sigma0**2
    most = max(widths)
    padded = jnp.stack([jnp.pad(d.joined, ((0, most - len(d.joined)), (0, 0))) for d in described])
    return Units(
        jnp.einsum("kid,ljd->kilj", padded, padded, precision=HIGHEST),
        jnp.einsum("kid,d->ki", padded, prior, precision=HIGHEST),
        jnp.sum(jnp.square(prior)),
        jnp.stack([jnp.arange(most) < width for width in widths]),
    )
