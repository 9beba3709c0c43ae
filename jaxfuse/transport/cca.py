"""CCA-Merge: linear maps of units that make their activations correlate most."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.activations.moments import Moments, Role
from jaxfuse.affinity.block import HIGHEST
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
from jaxfuse.transport.maps import Maps, maps_of_orders

# Share of the largest eigenvalue below which float32 says nothing of one.
_FLOOR = 1e-6
# Share of the mean variance below which a unit is dead.
_DEAD = 1e-6


@jax.tree_util.register_static
@dataclass(frozen=True)
class CCAMerge:
    """Map the units of every network to those of the first by canonical correlation analysis.

    Of two networks whose units do x and y, with covariances S, and the singular value
    decomposition `S_xx^{-1/2} S_xy S_yy^{-1/2} = U S V^T`, the map `to = S_xx^{1/2} U V^T
    S_yy^{-1/2}` takes y to the space of x: `to y` has the covariance of x and the largest sum of
    canonical correlations with it (Horoi et al., ICML 2024, section 4.2; they write samples as
    rows, so that theirs is the transpose). `back` is its inverse. Every direction counts, however
    weak its correlation. Through a nonlinearity the mapped network computes another function.

    The covariances get a ridge, here relative to their mean variance; the paper adds an absolute
    one. A unit whose activation doesn't vary counts as one of mean variance that correlates with
    nothing. Directions without correlation, as there must be where there are more units than
    samples, are open in the paper; here they follow the permutation that the correlations of units
    give, so that a network and its permuted copy are matched as they should be.

    Groups that index others and the units they index, as heads, can't be mixed: they are permuted
    by correlation.

    Attributes:
        ridge: added to the eigenvalues of each covariance, relative to their mean. The paper tunes
            it; 1 was best on the OTFusion pair, by training images held back. The larger, the
            nearer the maps to rotations.
        role: "input" measures what layers take, after the nonlinearity, as the paper; "output" what
            they compute, before it.
        prior: weight of that permutation beside the whitened correlation; 0 is the paper's. Worth
            most where samples are few: with 100 images on that pair 1.6 points of accuracy.
        batch_size: examples that are in flight at once.
        backend: who solves assignments, as in `jaxfuse.hungarian`.

    Examples:
        >>> from jaxfuse.symmetry import infer_symmetry
        >>> from jaxfuse.transport.maps import fuse_maps
        >>> mlp = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
        >>> a = {"in": jax.random.normal(k1, (4, 8)), "out": jax.random.normal(k2, (8, 2))}
        >>> b = {"in": a["in"][:, ::-1], "out": a["out"][::-1]}
        >>> x = jax.random.normal(k3, (100, 4))
        >>> symmetry = infer_symmetry(mlp, a, x)
        >>> networks = Networks((a, b), (symmetry, symmetry), (x,), None, mlp)
        >>> maps = CCAMerge().align(networks).maps
        >>> fused = fuse_maps((a, b), networks.symmetries, maps, [0.5, 0.5])
        >>> bool(jnp.allclose(mlp(fused, x), mlp(a, x), atol=1e-3))
        True
    """

    ridge: float = 1.0
    role: Role = "input"
    prior: float = 0.1
    batch_size: int = 100
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if self.ridge < 0 or self.prior < 0 or self.role not in ("input", "output"):
            raise ValueError(
                f"ridge and prior are not negative, role is 'input' or 'output': got {self}"
            )

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Map all networks to the first.

        Args:
            networks: K networks of one width, with their function and about 100 unlabelled examples
                or more.
            key: not used.

        Returns:
            Maps `to` and `back`, `[n, n]` each. The objective is the mean correlation of the
            directions that are mapped to one another, over nodes and networks.

        Raises:
            ValueError: without data, for networks of different widths, for groups that no
                activation shows, and outside jit for weights or inputs that are NaN or infinite.

        Works under `jit` and `vmap`. Gradients pass through eigenvectors, and are not finite where
        eigenvalues or singular values coincide.
        """
        networks.function("CCAMerge")
        for k, symmetry in enumerate(networks.symmetries):
            if symmetry.sizes != networks.symmetry.sizes:
                raise ValueError(
                    "CCAMerge maps units by matrices that have an inverse, which needs one width: "
                    f"network 0 has {networks.symmetry.groups} and network {k} {symmetry.groups}. "
                    "Methods for different widths are 'ot_fusion', 'pfnm' and 'zip_it'"
                )
        return refuse_non_finite(_align(self, networks))


class CanonicalMap(NamedTuple):
    """A map of units and its inverse.

    Attributes:
        to: `[n, n]`, takes the units of the second network to those of the first.
        back: `[n, n]`, its inverse.
        correlations: `[n]`, of the directions that are mapped to one another: the canonical
            correlations, where there is no prior.
    """

    to: jax.Array
    back: jax.Array
    correlations: jax.Array


def canonical_map(
    s_xx: jax.Array,
    s_xy: jax.Array,
    s_yy: jax.Array,
    ridge: float = 1.0,
    prior: jax.Array | None = None,
) -> CanonicalMap:
    """Return the map of CCA-Merge from covariances, `S_xx^{1/2} U V^T S_yy^{-1/2}`.

    Args:
        s_xx: covariance of the units of the first network `[n, n]`.
        s_xy: of the first with the second `[n, n]`.
        s_yy: of the second `[n, n]`.
        ridge: added to the eigenvalues of `s_xx` and `s_yy`, relative to their mean.
        prior: `[n, n]`, added to the whitened correlation before U V^T is taken of it.

    Returns:
        A `CanonicalMap`.

    Examples:
        >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> s = jnp.array([[2.0, 0.5], [0.5, 1.0]])
        >>> found = canonical_map(s, s @ swap.T, swap @ s @ swap.T)
        >>> bool(jnp.allclose(found.to, swap, atol=1e-3))
        True
    """
    root_x, inverse_x = _roots(s_xx, ridge)
    root_y, inverse_y = _roots(s_yy, ridge)
    whitened = _product(inverse_x, s_xy, inverse_y)
    u, _, vt = jnp.linalg.svd(whitened if prior is None else whitened + prior)
    rotation = _product(u, vt)
    correlations = jnp.sum(u * _product(whitened, vt.T), axis=0)
    to, back = _product(root_x, rotation, inverse_y), _product(root_y, rotation.T, inverse_x)
    return CanonicalMap(to, back, correlations)


@jax.jit
def _align(method: CCAMerge, networks: Networks) -> Correspondence:
    moments = measure_shown(networks, method.role, method.batch_size, "CCAMerge")
    moments, finite = only_finite(moments)
    nested = nested_nodes(networks.symmetry)
    orders = match_correlated(moments, networks, list_nodes(networks.symmetry), method.backend)
    sizes = {node: order.shape[1] for node, order in orders.items()}
    permuted = maps_of_orders(orders, sizes)
    to, back, values = dict(permuted.to), dict(permuted.back), []
    for node, n in sizes.items():
        if node in nested:
            continue
        found = _map_node(method, moments, node, jnp.stack(permuted.to[node][1:]))
        to[node] = (jnp.eye(n), *found.to)
        back[node] = (jnp.eye(n), *found.back)
        values.append(jnp.mean(found.correlations))
    objective = jnp.mean(jnp.stack(values)) if values else jnp.float32(0)
    status = jnp.where(finite, Status.CONVERGED, Status.NON_FINITE).astype(jnp.int32)
    maps = Maps(to, back, permuted.mass)
    return Correspondence(None, maps, objective, status, objective[None])


def _map_node(
    method: CCAMerge, moments: Moments, node: str, permutations: jax.Array
) -> CanonicalMap:
    """Return the maps of all networks but the first, stacked."""
    covariance = moments.covariance(node)
    rows = jnp.stack(moments.split(node, covariance, axis=0))
    crossed = jnp.stack(moments.split(node, rows[0])[1:])
    own = jnp.stack([moments.split(node, row)[k] for k, row in enumerate(rows)])
    own = jax.vmap(_revive)(own)

    def find(s_xy: jax.Array, s_yy: jax.Array, permutation: jax.Array) -> CanonicalMap:
        prior = method.prior * permutation if method.prior else None
        return canonical_map(own[0], s_xy, s_yy, method.ridge, prior)

    return jax.vmap(find)(crossed, own[1:], permutations)


def _revive(covariance: jax.Array) -> jax.Array:
    """Give dead units the mean variance, so that no map divides by theirs."""
    variance = jnp.diagonal(covariance)
    mean = jnp.mean(variance)
    mean = jnp.where(mean > 0, mean, 1.0)
    dead = variance <= _DEAD * mean
    return jnp.where(dead[:, None] | dead[None, :], 0.0, covariance) + jnp.diag(dead * mean)


def _roots(covariance: jax.Array, ridge: float) -> tuple[jax.Array, jax.Array]:
    """Return the square root of a covariance with its ridge, and the inverse of the root."""
    values, vectors = jnp.linalg.eigh(covariance)
    values = jnp.maximum(values, 0.0) + ridge * jnp.mean(jnp.diagonal(covariance))
    roots = jnp.sqrt(jnp.maximum(values, _FLOOR * values[-1]))
    scaled, divided = vectors * roots[None, :], vectors / roots[None, :]
    return _product(scaled, vectors.T), _product(divided, vectors.T)


def _product(*matrices: jax.Array) -> jax.Array:
    return jnp.linalg.multi_dot(matrices, precision=HIGHEST)
