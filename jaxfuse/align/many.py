"""Align many networks: one call from K parameter trees to K in one order."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from jaxfuse.affinity import Affinity
from jaxfuse.align.search import move, prepare, search
from jaxfuse.matching.problem import Backend
from jaxfuse.methods import AnyMethod
from jaxfuse.networks import ApplyFunction
from jaxfuse.symmetry import Symmetry
from jaxfuse.transport.maps import Maps

PyTree = Any


class Alignments(NamedTuple):
    """K networks in one order, that of the first.

    Attributes:
        params: the K networks with their units reordered, the first as it was. With linear maps,
            each in the common space and at its widths.
        permutations: per group int32 `[K, n]`, or `[K, ..., n]` for a group that something indexes:
            unit i of the common order is the unit `permutations[k][i]` of network k. Any two
            networks are matched through it, so matchings compose exactly. Empty for linear maps.
        objective: the similarity summed over all pairs, or what the method says, float32.
        status: int32, a `jaxfuse.Status`.
        trace: float32 `[steps]`, the objective along the way.
        seconds: wall time of the search, with its compilation in a first call; NaN under jit.
        maps: the linear maps of all networks into the common space, where the method finds such.
    """

    params: tuple[PyTree, ...]
    permutations: dict[str, jax.Array]
    objective: jax.Array
    status: jax.Array
    trace: jax.Array
    seconds: float | jax.Array
    maps: Maps | None


def align_many(
    params: Sequence[PyTree],
    *,
    method: AnyMethod | str = "annealed_merge_many",
    symmetry: Symmetry | Sequence[Symmetry] | None = None,
    affinity: Affinity | str = "linear",
    apply_fn: ApplyFunction | None = None,
    inputs: PyTree = None,
    targets: Any = None,
    activation_weight: float = 3.0,
    backend: Backend = "auto",
    key: jax.Array | None = None,
) -> Alignments:
    """Bring K networks into one order, that of the first.

    Every network is matched into one universe of units, so the matchings of any two networks
    compose exactly: from k to l to m is from k to m. Solvers of two networks match all to the
    first.

    Networks that lie on several devices are aligned as they would be on one, under jit, but every
    device does the whole work. It is shared by `jaxfuse.align_pairs(first, others,
    one_reference=True)`, for all to the first, and by `jaxfuse.shard_networks` with the solver
    `UniverseFrankWolfe`. Under `jax.jit` with `donate_argnums=0` the aligned parameters take the
    buffers of the given ones.

    Args:
        params: K parameter trees, as `align_params` takes them.
        method: a name of `jaxfuse.methods.METHODS` or an instance. "annealed_merge_many" measures
            best: all to the first, then each to the sum of the others, by graduated assignment and
            last by coordinate ascent.
        symmetry: as in `align_params`; one for each network where the widths differ.
        affinity: as in `align_params`.
        apply_fn: as in `align_params`.
        inputs: as in `align_params`.
        targets: as in `align_params`.
        activation_weight: as in `align_params`.
        backend: as in `align_params`.
        key: as in `align_params`.

    Returns:
        An `Alignments`.

    Raises:
        ValueError: as `align_params`, and for fewer than two networks.

    Works under `jit` and `vmap`. The permutations are not differentiable.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> first = [jax.random.normal(k1, (4, 8)), jax.random.normal(k2, (8, 3))]
        >>> others = [[first[0][:, o], first[1][o]] for o in (jnp.arange(8)[::-1], jnp.arange(8))]
        >>> alignments = align_many([first, *others])
        >>> [bool(jnp.allclose(each[0], first[0])) for each in alignments.params]
        [True, True, True]
    """
    params = list(params)
    if len(params) < 2:
        raise ValueError(f"there is nothing to align: got {len(params)} networks, pass two or more")
    networks, method = prepare(
        params,
        [f"params[{index}]" for index in range(len(params))],
        method=method,
        symmetry=symmetry,
        apply_fn=apply_fn,
        inputs=inputs,
        targets=targets,
    )
    found = search(networks, method, affinity, activation_weight, backend, key)
    aligned = [
        move(tree, networks.symmetries[k], k, found.permutations, found.maps)
        for k, tree in enumerate(params)
    ]
    return Alignments(tuple(aligned), found.permutations, *found[2:])
