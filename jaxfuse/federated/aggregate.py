"""Aggregate networks that come as named arrays: the function for other engines."""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxfuse.align.search import resolve
from jaxfuse.federated.aggregation import AGGREGATORS, Aggregator
from jaxfuse.federated.screen import screen
from jaxfuse.fusion.average import normalise_weights
from jaxfuse.symmetry import Symmetry, infer_chain, infer_symmetry

_log = logging.getLogger(__name__)

Named = Mapping[str, np.ndarray]


class AggregatedArrays(NamedTuple):
    """What `aggregate` gives.

    Attributes:
        arrays: the network, by the names of the clients' arrays, as NumPy arrays.
        refused: per client that was left out, by its place in the list, the reason.
        kept: the share of units that the matching left in place.
    """

    arrays: dict[str, np.ndarray]
    refused: dict[int, str]
    kept: float


def aggregate(
    clients: Sequence[Named],
    weights: Sequence[float] | None = None,
    *,
    method: Aggregator | str = "matched",
    anchor: Named | None = None,
    symmetry: Symmetry | None = None,
    apply_fn: Any = None,
    inputs: Any = None,
    key: jax.Array | None = None,
) -> AggregatedArrays:
    """Make one network of the clients' named arrays, on the server of any federated engine.

    Clients whose arrays do not fit the others', or are not finite, are left out, and the log says
    so. One program is compiled for each number of clients that are left.

    Args:
        clients: of every client its arrays by name; parts of a name are joined by "/".
        weights: what every client counts, such as its number of examples; equal by default.
        method: a name of `jaxfuse.federated.AGGREGATORS` or an instance.
        anchor: the global network that the round began with, to whose units the clients' are
            matched. Default: the first client of those whose names and shapes most have.
        symmetry: what may be permuted. Default: read off `apply_fn`, or off the arrays, which must
            then be a plain chain of layers (`jaxfuse.infer_chain`).
        apply_fn: `apply_fn(params, *inputs)` of nested dicts, from which the symmetry is read.
        inputs: an example of its inputs, or a tuple of them; shapes are enough.
        key: for methods that draw.

    Returns:
        The network, and who was left out.

    Raises:
        ValueError: no client is usable, weights do not fit, or the method is unknown.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> one = {"0/kernel": rng.normal(size=(4, 8)), "1/kernel": rng.normal(size=(8, 3))}
        >>> one = {name: array.astype(np.float32) for name, array in one.items()}
        >>> other = {"0/kernel": one["0/kernel"][:, ::-1], "1/kernel": one["1/kernel"][::-1]}
        >>> broken = {"0/kernel": one["0/kernel"] * np.nan, "1/kernel": one["1/kernel"]}
        >>> made = aggregate([one, other, broken], [100, 50, 80])
        >>> bool(np.allclose(made.arrays["0/kernel"], one["0/kernel"]))
        True
        >>> made.refused
        {2: "leaf '0/kernel' is not finite: 32 of 32 entries"}
    """
    aggregator = resolve("method", method, AGGREGATORS)
    if not clients:
        raise ValueError("there is nothing to aggregate: pass at least one client")
    raw = [1.0] * len(clients) if weights is None else list(weights)
    if len(raw) != len(clients):
        raise ValueError(f"got {len(raw)} weights for {len(clients)} clients: pass one for each")
    like = anchor if anchor is not None else _first_usable(clients)
    refused = {}
    for index, each in enumerate(clients):
        reason = screen(each, like)
        if reason is not None:
            refused[index] = reason
            _log.warning("client %d is left out: %s", index, reason)
    used = [index for index in range(len(clients)) if index not in refused]
    if not used:
        raise ValueError(f"no client is usable: {refused}")
    trees = [_nested(clients[index], like) for index in used]
    begun = _nested(like, like)
    if symmetry is None and method != "average":
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
        traced = apply_fn is not None
        symmetry = infer_symmetry(apply_fn, begun, *arguments) if traced else infer_chain(begun)
    shares = jnp.asarray(normalise_weights([raw[index] for index in used], len(used)), jnp.float32)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    key = jax.random.key(0) if key is None else key
    made = _aggregate(aggregator, stacked, shares, begun, symmetry, key)
    flat = traverse_util.flatten_dict(made.params, sep="/")
    arrays = {name: np.asarray(flat[name], like[name].dtype) for name in like}
    return AggregatedArrays(arrays, refused, float(made.kept))


@functools.partial(jax.jit, static_argnums=0)
def _aggregate(aggregator: Aggregator, *arguments: Any) -> Any:
    return aggregator.aggregate(*arguments)


def _first_usable(clients: Sequence[Named]) -> Named:
    """Return the first of the clients that most agree with, else the first of all."""
    sound = [each for each in clients if screen(each, each) is None]
    votes = [sum(screen(other, each) is None for other in sound) for each in sound]
    return sound[votes.index(max(votes))] if sound else clients[0]


def _nested(arrays: Named, like: Named) -> Any:
    """Return arrays as a nested dict, in the dtypes of the global network."""
    return traverse_util.unflatten_dict(
        {tuple(name.split("/")): jnp.asarray(arrays[name], like[name].dtype) for name in like}
    )
