"""Clients that know two classes each, in unequal shares."""

import jax
import numpy as np

from jaxfuse.data.partitions.draws import (
    check_concentration,
    checked,
    cut,
    draw_until,
    generator_of,
)


def mixed(
    labels: np.ndarray,
    *,
    key: jax.Array,
    clients: int,
    concentration: float = 0.5,
    minimum: int = 10,
) -> tuple[np.ndarray, ...]:
    """Give every client two classes, and cut each class unequally between two clients.

    "mixed" of NIID-Bench's released code, of labels and quantities at once; the paper has none.
    Client i has class i and the class that follows from a permutation without fixed points, so that
    two clients have each class; their shares are drawn from a Dirichlet distribution. With more or
    fewer clients than classes the released code does not end, or loses examples: that is refused.

    Args:
        labels: `[n]` integer labels.
        key: Which split is drawn.
        clients: Number of clients: as many as classes occur, and two or more.
        concentration: Parameter of the distribution of the two shares. Default: 0.5, as in
            NIID-Bench.
        minimum: Smallest number of examples of a client. Default: 10.

    Returns:
        One sorted index array a client; together they are a partition of all examples.

    Raises:
        ValueError: There are not as many clients as classes, the concentration is not positive, or
            the minimum cannot be met.

    Examples:
        >>> labels = np.repeat(np.arange(4), 50)
        >>> parts = mixed(labels, key=jax.random.key(0), clients=4)
        >>> sum(len(part) for part in parts), max(len(set(labels[part])) for part in parts)
        (200, 2)
    """
    labels = checked(labels, clients)
    check_concentration(concentration)
    classes = np.unique(labels)
    if not clients == len(classes) >= 2:
        raise ValueError(
            f"mixed needs as many clients as classes, two or more, got {clients} clients and "
            f"{len(classes)} classes: label_skew and dirichlet take any number"
        )
    generator = generator_of(key)

    def draw() -> tuple[np.ndarray, ...]:
        second = _derangement(clients, generator)
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for client, label in enumerate(classes):
            members = generator.permutation(np.flatnonzero(labels == label))
            own, other = cut(members, generator.dirichlet(np.full(2, concentration)))
            parts[client].append(own)
            parts[second[client]].append(other)
        return tuple(np.concatenate(each) for each in parts)

    return draw_until(
        draw,
        count=len(labels),
        clients=clients,
        minimum=minimum,
        remedy="lower minimum, or raise concentration",
    )


def _derangement(size: int, generator: np.random.Generator) -> np.ndarray:
    while True:
        drawn = generator.permutation(size)
        if (drawn != np.arange(size)).all():
            return drawn
