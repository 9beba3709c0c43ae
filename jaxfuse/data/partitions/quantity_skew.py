"""Clients of unequal size."""

import jax
import numpy as np

from jaxfuse.data.partitions.draws import (
    check_concentration,
    check_minimum,
    checked,
    generator_of,
)

_REMEDY = "lower minimum or clients, or raise concentration"
# With NIID-Bench's 100 clients one draw of CIFAR-10 in some hundred thousand has 10 examples for
# each, so that many are looked through, by the block.
_NUMBERS = 200_000_000
_BLOCK = 10_000


def quantity_skew(
    labels: np.ndarray,
    *,
    key: jax.Array,
    clients: int = 2,
    concentration: float = 0.5,
    minimum: int = 10,
) -> tuple[np.ndarray, ...]:
    """Share out all examples at random in parts of sizes drawn from a Dirichlet distribution.

    "iid-diff-quantity" of NIID-Bench (Li et al., 2022): classes are mixed alike everywhere, and the
    sizes are drawn anew until every client has enough examples.

    Args:
        labels: `[n]` integer labels, of which only the number matters.
        key: Which split is drawn.
        clients: Number of clients.
        concentration: Parameter of the distribution: large for equal sizes. Default: 0.5, as in
            NIID-Bench.
        minimum: Smallest number of examples of a client. Default: 10, as in NIID-Bench.

    Returns:
        One sorted index array a client; together they are a partition of all examples.

    Raises:
        ValueError: The concentration is not positive, or the minimum cannot be met.

    Examples:
        >>> parts = quantity_skew(np.zeros(1000, int), key=jax.random.key(0), clients=4)
        >>> sum(len(part) for part in parts), min(len(part) for part in parts) >= 10
        (1000, True)
    """
    labels = checked(labels, clients)
    check_concentration(concentration)
    check_minimum(len(labels), clients, minimum, _REMEDY)
    generator = generator_of(key)
    shuffled = generator.permutation(len(labels))
    bounds = _draw_bounds(len(labels), clients, concentration, minimum, generator)
    return tuple(np.sort(part) for part in np.split(shuffled, bounds))


def _draw_bounds(
    count: int, clients: int, concentration: float, minimum: int, generator: np.random.Generator
) -> np.ndarray:
    block = max(1, _BLOCK // clients)
    for _ in range(max(1, _NUMBERS // (block * clients))):
        proportions = generator.dirichlet(np.full(clients, concentration), block)
        bounds = (np.cumsum(proportions, axis=1)[:, :-1] * count).astype(np.int64)
        sizes = np.diff(bounds, axis=1, prepend=0, append=count)
        enough = np.flatnonzero(sizes.min(axis=1) >= minimum)
        if len(enough):
            return bounds[enough[0]]
    raise ValueError(
        f"no split in {_NUMBERS // clients} draws gave every client {minimum} examples: {_REMEDY}"
    )
