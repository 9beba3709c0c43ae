"""Match every network to the first, pair by pair, for methods that know two networks."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.correspondence import Correspondence
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.matching.result import Matching
from jaxfuse.networks import Networks
from jaxfuse.status import Status, is_concrete
from jaxfuse.symmetry.spec import Symmetry

PyTree = Any


def match_to_first(
    networks: Networks,
    key: jax.Array | None,
    match: Callable[[PyTree, jax.Array | None], Matching],
) -> Correspondence:
    """Match all networks to the first: one program, run once for each of the others.

    Args:
        networks: K networks of one width.
        key: source of randomness, of which each of the others gets its own, or None.
        match: `match(params, key)`, a network matched to the first.

    Returns:
        What `join_matchings` makes of the results.
    """
    others = networks.params[1:]
    keys = None if key is None else jax.random.split(key, len(others))
    if len(others) < 2:
        found = [match(other, None if keys is None else keys[k]) for k, other in enumerate(others)]
    else:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *others)
        mapped = jax.lax.map(lambda pair: match(*pair), (stacked, keys))
        found = [jax.tree.map(lambda x, k=k: x[k], mapped) for k in range(len(others))]
    return join_matchings(found, networks.symmetry)


def join_matchings(found: Sequence[Matching], symmetry: Symmetry) -> Correspondence:
    """Make one correspondence of networks that were matched to the first, each alone.

    The first network is in its own order, objectives and traces are summed. The status is
    NON_FINITE where one is, NOT_CONVERGED where one is, ALREADY_ALIGNED where all are.

    Examples:
        >>> one = Matching({"h": jnp.array([1, 0])}, 2.0, jnp.int32(0), jnp.ones(3), jnp.int32(3))
        >>> joined = join_matchings([one, one], Symmetry((("h", 2),), ()))
        >>> joined.orders["h"].tolist(), float(joined.objective)
        ([[0, 1], [1, 0], [1, 0]], 4.0)
    """
    orders = {}
    for name, node in list_nodes(symmetry).items():
        first = jnp.arange(math.prod(node.shape), dtype=jnp.int32)
        orders[name] = jnp.stack([first, *(each.permutations[name] for each in found)])
    objective = sum((each.objective for each in found), start=jnp.float32(0))
    trace = sum((each.trace for each in found), start=jnp.zeros_like(found[0].trace))
    codes = jnp.stack([each.status for each in found])
    status = jnp.min(codes)
    for code in (Status.NOT_CONVERGED, Status.NON_FINITE):
        status = jnp.where(jnp.any(codes == code), code, status)
    return Correspondence(orders, None, objective, status.astype(jnp.int32), trace)


def raise_non_finite(status: jax.Array, what: str) -> None:
    """Raise outside jit where a status is NON_FINITE.

    Raises:
        ValueError: that says what is not finite.
    """
    if is_concrete(status) and int(status) == Status.NON_FINITE:
        raise ValueError(f"{what} is NaN or infinite: {Status.NON_FINITE.message}")
