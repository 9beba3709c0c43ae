"""ZipIt: merge the units that correlate most, across networks and within each."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.activations.moments import Moments, Role
from jaxfuse.correspondence import Correspondence
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.matching.problem import Backend
from jaxfuse.networks import Networks
from jaxfuse.status import Status
from jaxfuse.transport.correlated import (
    match_correlated,
    measure_shown,
    nested_nodes,
    only_finite,
    refuse_non_finite,
)
from jaxfuse.transport.greedy import zip_units
from jaxfuse.transport.maps import Maps, maps_of_orders

# Share of the mean variance below which a unit is dead.
_DEAD = 1e-6
_TIE = 1e-3


@jax.tree_util.register_static
@dataclass(frozen=True)
class ZipIt:
    """Merge the units of all networks, the two most alike first, until as many are left as asked.

    All units of a group stand side by side, those of every network, and the two that are most alike
    on the data become one, be they of two networks or of one (Stoica et al., ICLR 2024, section 4).
    A merged unit is as like another as the less like of its parts, times `alpha`. Units of one
    network are merged at most `beta / K` times for every unit that goes; more often where no other
    merge is left. A merged unit computes the mean of its parts, and what took one of them takes it.

    With `until`, the groups after it are not zipped: they stand side by side, `n_1 + ... + n_K`
    units wide. The result is one parameter tree that holds a network of several heads: merged up to
    there, then a block for each network with zeros across, and their outputs averaged. It is wider
    than the parents, and so slower. A normalisation over a widened group (layer or group norm) sees
    the units of all networks, and computes something else.

    Groups that index others and the units they index, as heads, are permuted by correlation
    instead, in one width.

    The released code compares units as "correlation" does, lets every network merge once within
    itself where the budget is zero, and takes a merged unit for one of the network of its first
    part alone.

    Attributes:
        compare: "correlation" of activations, as the paper; "distance", one less the mean squared
            difference relative to the largest there is, so that units which matter little are
            merged before those which matter more. On the OTFusion pair, 1,000 images, that is worth
            0.4 points of accuracy at one width and 0.6 at 1.2.
        alpha: in [0, 1]: factor on the likeness of merged units. 1 treats them as others; 0 lets no
            unit merge again with a network that it has a part of. The paper tunes it for each pair;
            1 and the following were chosen on that pair, by training images held back.
        beta: in [0, 1]: share of all merges that may be within networks.
        keep: units that are left, relative to those of network 0; at most all there are.
        until: the last group that is zipped, by name, or the share of groups in the order of the
            network; None zips all.
        role: "input" measures what layers take, after the nonlinearity; "output" what they
            compute, before it.
        batch_size: examples that are in flight at once.
        backend: who solves the assignments of permuted groups, as in `jaxfuse.hungarian`.

    Examples:
        >>> from jaxfuse.symmetry import infer_symmetry
        >>> mlp = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
        >>> a = {"in": jax.random.normal(k1, (4, 3)), "out": jax.random.normal(k2, (3, 2))}
        >>> b = {"in": a["in"][:, ::-1], "out": a["out"][::-1]}
        >>> x = jax.random.normal(k3, (100, 4))
        >>> symmetry = infer_symmetry(mlp, a, x)
        >>> networks = Networks((a, b), (symmetry, symmetry), (x,), None, mlp)
        >>> ZipIt().align(networks).maps.to["in"][1].tolist()
        [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """

    compare: Literal["distance", "correlation"] = "distance"
    alpha: float = 1.0
    beta: float = 0.5
    keep: float = 1.0
    until: str | float | None = None
    role: Role = "output"
    batch_size: int = 100
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        share = self.until if isinstance(self.until, (int, float)) else 0.0
        if not all(0 <= value <= 1 for value in (self.alpha, self.beta, share)) or self.keep <= 0:
            raise ValueError(
                "alpha, beta and until, where it is a share of the groups, lie between 0 and 1, "
                f"and keep is positive: got {self}"
            )
        if self.role not in ("input", "output") or self.compare not in ("distance", "correlation"):
            raise ValueError(
                f"role is 'input' or 'output', compare is 'distance' or 'correlation': got {self}"
            )

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Zip the networks.

        Args:
            networks: K networks of any widths, with their function and about 100 unlabelled
                examples or more.
            key: not used.

        Returns:
            Maps: `to` `[N, n_k]` takes the mean of the units of network k that were merged, `back`
            copies them, and the mass is their number. A merged unit stands where its first part
            would. The objective is the sum of the similarities of the merges.

        Raises:
            ValueError: without data, for a group that there is not, for groups that no activation
                shows, for groups to be permuted whose width differs, and outside jit for weights or
                inputs that are NaN or infinite.

        Works under `jit` and `vmap`. Not differentiable.
        """
        networks.function("ZipIt")
        self._zipped_groups(networks)
        return refuse_non_finite(_align(self, networks))

    def _zipped_groups(self, networks: Networks) -> list[str]:
        groups = list(networks.symmetry.groups)
        if self.until is None:
            return groups
        if isinstance(self.until, str):
            if self.until not in groups:
                raise ValueError(f"until={self.until!r} is none of the groups {groups}")
            return groups[: groups.index(self.until) + 1]
        return groups[: round(self.until * len(groups))]


@jax.jit
def _align(method: ZipIt, networks: Networks) -> Correspondence:
    moments = measure_shown(networks, method.role, method.batch_size, "ZipIt")
    moments, finite = only_finite(moments)
    nodes = list_nodes(networks.symmetry)
    nested = nested_nodes(networks.symmetry)
    shown = dict(moments.widths)
    zipped_groups = method._zipped_groups(networks)
    fixed = [node for node in nodes if node in nested]
    orders = match_correlated(moments, networks, fixed, method.backend)
    permuted = maps_of_orders(orders, {node: order.shape[1] for node, order in orders.items()})
    to, back, mass = dict(permuted.to), dict(permuted.back), dict(permuted.mass)
    similarities = [jnp.float32(0)]
    for name, node in nodes.items():
        if name in fixed:
            continue
        widths = shown[name]
        total = sum(widths)
        units = min(total, max(1, round(method.keep * widths[0])))
        if node.group in zipped_groups:
            likeness = _likeness(method, moments, name)
            zipped = zip_units(likeness, widths, units, method.alpha, method.beta)
            copies = jax.nn.one_hot(zipped.unit, units)
            similarities.append(jnp.sum(zipped.similarities))
        else:
            copies = jnp.eye(total)
        back[name] = tuple(moments.split(name, copies, axis=0))
        mass[name] = jnp.stack([jnp.sum(each, axis=0) for each in back[name]])
        to[name] = tuple(
            each.T / jnp.maximum(jnp.sum(each, axis=0), 1.0)[:, None] for each in back[name]
        )
    maps = Maps(
        {name: to[name] for name in nodes},
        {name: back[name] for name in nodes},
        {name: mass[name] for name in nodes},
    )
    trace = jnp.cumsum(jnp.stack(similarities))
    status = jnp.where(finite, Status.CONVERGED, Status.NON_FINITE).astype(jnp.int32)
    return Correspondence(None, maps, trace[-1], status, trace)


def _likeness(method: ZipIt, moments: Moments, node: str) -> jax.Array:
    """Return how alike units are, `[M, M]`, at most 1.

    Dead units of two networks are alike, for they say the same: nothing. Those of one network are
    too, and give way.
    """
    widths = dict(moments.widths)[node]
    covariance = moments.covariance(node)
    variance = jnp.diagonal(covariance)
    dead = variance <= _DEAD * jnp.mean(variance)
    if method.compare == "distance":
        distance = variance[:, None] + variance[None, :] - 2 * covariance
        largest = jnp.max(distance)
        likeness = 1 - distance / jnp.where(largest > 0, largest, 1.0)
    else:
        either = dead[:, None] | dead[None, :]
        likeness = jnp.where(either, -1.0, moments.correlation(node))
    network = np.repeat(np.arange(len(widths)), widths)
    alike = jnp.where(jnp.asarray(network[:, None] == network[None, :]), 1.0 - _TIE, 1.0)
    return jnp.where(dead[:, None] & dead[None, :], alike, likeness)
