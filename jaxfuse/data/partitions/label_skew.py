"""Clients that know a few classes each."""

import jax
import numpy as np

from jaxfuse.data.partitions.draws import DRAWS, checked, generator_of


def label_skew(
    labels: np.ndarray, *, key: jax.Array, clients: int = 2, classes_per_client: int = 2
) -> tuple[np.ndarray, ...]:
    """Give every client examples of a fixed number of classes.

    "noniid-#label1", "noniid-#label2" and so on of NIID-Bench (Li et al., 2022; quantity-based
    label imbalance): client i has the class i modulo the number of classes and others drawn at
    random, and each class is cut in equal parts for the clients that have it. The released code
    knows ten classes; these are all that occur in the labels.

    With fewer clients than classes there may be a class that no client has: its examples are left
    out. Otherwise every example goes to one client.

    Args:
        labels: `[n]` integer labels.
        key: Which split is drawn.
        clients: Number of clients.
        classes_per_client: Number of classes of a client. Default: 2.

    Returns:
        One sorted index array a client, without common examples; every client has one example or
        more of each of its classes.

    Raises:
        ValueError: There are fewer classes than a client should have, or a class has fewer examples
            than clients.

    Examples:
        >>> labels = np.repeat(np.arange(10), 6)
        >>> parts = label_skew(labels, key=jax.random.key(0), clients=10)
        >>> [len(set(labels[part].tolist())) for part in parts]
        [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
        >>> sum(len(part) for part in parts)
        60
    """
    labels = checked(labels, clients)
    classes, counts = np.unique(labels, return_counts=True)
    if not 1 <= classes_per_client <= len(classes):
        raise ValueError(
            f"classes_per_client must be from 1 to the {len(classes)} classes that occur, got "
            f"{classes_per_client}"
        )
    generator = generator_of(key)
    has = _draw_classes(counts, clients, classes_per_client, generator)
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for index in np.flatnonzero(has.any(axis=0)):
        members = generator.permutation(np.flatnonzero(labels == classes[index]))
        holders = np.flatnonzero(has[:, index])
        for client, part in zip(holders, np.array_split(members, len(holders)), strict=True):
            parts[client].append(part)
    return tuple(np.sort(np.concatenate(each)) for each in parts)


def _draw_classes(
    counts: np.ndarray, clients: int, each: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw which classes every client has, `[clients, classes]` bool, until all are enough."""
    number = len(counts)
    for _ in range(DRAWS):
        has = np.zeros((clients, number), bool)
        for client in range(clients):
            first = client % number
            others = generator.choice(number - 1, each - 1, replace=False) if each > 1 else []
            has[client, [first, *((first + 1 + other) % number for other in others)]] = True
        if (has.sum(axis=0) <= counts).all():
            return has
    raise ValueError(
        f"the smallest class has {counts.min()} examples, too few for the clients that should have "
        f"it, in {DRAWS} draws: lower clients or classes_per_client"
    )
