"""Everything to everyone."""

import numpy as np

from jaxfuse.data.partitions.draws import checked


def homogeneous(labels: np.ndarray, *, clients: int = 2) -> tuple[np.ndarray, ...]:
    """Give every client all examples, so that models differ only in their seed.

    Args:
        labels: `[n]` integer labels.
        clients: Number of clients.

    Returns:
        One index array `[n]` a client.

    Raises:
        ValueError: Labels are not `[n]` integers, or there are fewer than one client.

    Examples:
        >>> homogeneous(np.array([0, 1, 1]))
        (array([0, 1, 2]), array([0, 1, 2]))
    """
    labels = checked(labels, clients)
    return tuple(np.arange(len(labels)) for _ in range(clients))
