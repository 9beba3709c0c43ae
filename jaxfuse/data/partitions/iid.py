"""Equal random shares."""

import jax
import numpy as np

from jaxfuse.data.partitions.draws import check_enough, checked, generator_of


def iid(labels: np.ndarray, *, key: jax.Array, clients: int = 2) -> tuple[np.ndarray, ...]:
    """Share out all examples at random in equal parts.

    "homo" of NIID-Bench (Li et al., 2022). Every example goes to one client, unlike in
    `homogeneous`, where every client has all of them.

    Args:
        labels: `[n]` integer labels, of which only the number matters.
        key: Which split is drawn.
        clients: Number of clients.

    Returns:
        One sorted index array a client, whose lengths differ by one at most; together they are a
        partition of all examples.

    Raises:
        ValueError: There are fewer examples than clients.

    Examples:
        >>> a, b, c = iid(np.zeros(10, int), key=jax.random.key(0), clients=3)
        >>> len(a), len(b), len(c)
        (4, 3, 3)
    """
    labels = checked(labels, clients)
    check_enough(len(labels), clients)
    shuffled = generator_of(key).permutation(len(labels))
    return tuple(np.sort(part) for part in np.array_split(shuffled, clients))
