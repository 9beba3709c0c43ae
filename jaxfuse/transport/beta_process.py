"""Match the units of a node to a growing set of common ones under a beta process."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.assignment import hungarian
from jaxfuse.matching.problem import Backend


class Prior(NamedTuple):
    """Mass of the process, and standard deviations around a common unit and of common units."""

    gamma: float
    sigma: float
    sigma0: float


class Units(NamedTuple):
    """The units of one node of K networks, padded to the width n of the widest.

    Attributes:
        products: inner products of all units, `[K, n, K, n]`.
        prior: inner products with `mu0 / sigma0^2`, `[K, n]`.
        prior_square: of that with itself.
        present: bool `[K, n]`.
    """

    products: jax.Array
    prior: jax.Array
    prior_square: jax.Array
    present: jax.Array


class Matched(NamedTuple):
    """How the units of a node are matched.

    Attributes:
        slots: int32 `[K, n]`, the common unit of every unit, -1 for padding.
        trace: the objective after every pass, `[1 + passes]`.
    """

    slots: jax.Array
    trace: jax.Array


def match_units(
    prior: Prior,
    units: Units,
    widths: Sequence[int],
    common: int,
    *,
    passes: int,
    backend: Backend = "auto",
    key: jax.Array | None = None,
) -> Matched:
    """Match one network after the other, the widest first, then pass over all of them again.

    Args:
        prior: the model.
        units: of K networks.
        widths: how many each network has.
        common: the most common units, N.
        passes: how often every network is taken out and matched again.
        backend: who solves assignments, as in `jaxfuse.hungarian`.
        key: for the order of the networks in a pass; the widest first without.

    Returns:
        A `Matched`. The common units stand in the order of the first network that has them.

    Not differentiable.

    Examples:
        >>> one = jnp.array([[3.0], [-3.0]])
        >>> both = jnp.stack([one, one[::-1]])
        >>> products = jnp.einsum("kid,ljd->kilj", both, both)
        >>> units = Units(products, jnp.zeros((2, 2)), jnp.zeros(()), jnp.ones((2, 2), bool))
        >>> match_units(Prior(1.0, 0.1, 1.0), units, (2, 2), 4, passes=1).slots.tolist()
        [[0, 1], [1, 0]]
    """
    count, most = units.present.shape
    widest = jnp.asarray(sorted(range(count), key=lambda k: -widths[k]), jnp.int32)
    turns = [widest]
    for index in range(passes):
        if key is None:
            turns.append(widest)
        else:
            turns.append(jax.random.permutation(jax.random.fold_in(key, index), widest))

    def step(slots: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        others = slots.at[k].set(-1)
        columns = hungarian(scores(prior, units, others, k, common), backend=backend)
        slots = others.at[k].set(jnp.where(units.present[k], columns.columns, -1))
        return slots, _objective(prior, units, slots, common)

    start = jnp.full((count, most), -1, jnp.int32)
    slots, values = jax.lax.scan(step, start, jnp.concatenate(turns))
    # Common units take the order of the first network that has them.
    flat = jnp.where(slots >= 0, slots, common).reshape(-1)
    first = jnp.full(common + 1, flat.size).at[flat].min(jnp.arange(flat.size))[:common]
    position = jnp.argsort(jnp.argsort(first)).astype(jnp.int32)
    slots = jnp.where(slots >= 0, position[slots], -1)
    return Matched(slots, values[count - 1 :: count])


class Sums(NamedTuple):
    """What the members of every common unit add up to, `[N]` each.

    Attributes:
        count: how many there are, m.
        square: |G|^2.
        precision: S.
        members: of every unit, whether it is one, `[K, n, N]`.
    """

    count: jax.Array
    square: jax.Array
    precision: jax.Array
    members: jax.Array


def _sums(prior: Prior, units: Units, slots: jax.Array, common: int) -> Sums:
    members = jax.nn.one_hot(slots, common)
    near = 1 / prior.sigma**2
    reached = jnp.einsum("kilj,lju->kiu", units.products, members, precision=HIGHEST)
    among = jnp.sum(reached * members, axis=(0, 1))
    with_prior = jnp.einsum("ki,kiu->u", units.prior, members, precision=HIGHEST)
    count = jnp.sum(members, axis=(0, 1))
    square = units.prior_square + 2 * near * with_prior + near**2 * among
    return Sums(count, square, 1 / prior.sigma0**2 + count * near, members)


def scores(prior: Prior, units: Units, others: jax.Array, k: jax.Array, common: int) -> jax.Array:
    """Return proposition 2: the scores `[n, N]` of the units of network k; zero for padding."""
    near = 1 / prior.sigma**2
    sums = _sums(prior, units, others, common)
    products = jnp.take(units.products, k, axis=0)
    reached = jnp.einsum("ilj,lju->iu", products, sums.members, precision=HIGHEST)
    own = jnp.diagonal(jnp.take(products, k, axis=1))
    inner = units.prior[k][:, None] + near * reached
    joined = sums.square[None, :] + 2 * near * inner + near**2 * own[:, None]
    data = joined / (sums.precision + near)[None, :] - (sums.square / sums.precision)[None, :]
    networks = units.present.shape[0]
    new = sums.count == 0
    rank = jnp.cumsum(new)
    popular = jnp.log(jnp.where(new, 1.0, sums.count) / (networks - sums.count))
    fresh = jnp.log(prior.gamma / networks) - jnp.log(jnp.where(new, rank, 1))
    bonus = 2 * jnp.where(new, fresh, popular)
    return jnp.where(units.present[k][:, None], data + bonus[None, :], 0.0)


def _objective(prior: Prior, units: Units, slots: jax.Array, common: int) -> jax.Array:
    """Return twice the log posterior: `gamma (K - m)! (m - 1)! / K!` for every common unit."""
    sums = _sums(prior, units, slots, common)
    networks = units.present.shape[0]
    data = sums.square / sums.precision - units.prior_square * prior.sigma0**2
    factorials = np.cumsum(np.log(np.maximum(np.arange(networks + 1), 1)))
    m = np.arange(1, networks + 1)
    process = np.log(prior.gamma) + factorials[networks - m] + factorials[m - 1]
    process = np.append(0.0, 2 * (process - factorials[networks])).astype(np.float32)
    each = data + jnp.asarray(process)[sums.count.astype(jnp.int32)]
    return jnp.sum(jnp.where(sums.count > 0, each, 0.0))
