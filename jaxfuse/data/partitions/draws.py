"""What every partition does: check its labels, draw from a key, cut in proportions."""

from collections.abc import Callable

import jax
import numpy as np

DRAWS = 1000


def checked(labels: np.ndarray, clients: int) -> np.ndarray:
    """Return the labels as an array, or refuse them and the number of clients.

    Raises:
        ValueError: Labels are not `[n]` integers, or there are fewer than one client.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be [n] integers, got {labels.dtype}{list(labels.shape)}")
    if clients < 1:
        raise ValueError(f"there must be one client or more, got {clients}")
    return labels


def check_enough(count: int, clients: int) -> None:
    """Refuse more clients than examples."""
    if clients > count:
        raise ValueError(f"{clients} clients cannot share {count} examples: lower clients")


def check_minimum(count: int, clients: int, minimum: int, remedy: str) -> None:
    """Refuse to give every client more examples than there are."""
    if clients * minimum > count:
        raise ValueError(
            f"{clients} clients with {minimum} examples each need {clients * minimum}, got "
            f"{count}: {remedy}"
        )


def check_concentration(concentration: float) -> None:
    """Refuse a concentration that no Dirichlet distribution has."""
    if not 0 < concentration < np.inf:
        raise ValueError(f"concentration must be positive and finite, got {concentration}")


def generator_of(key: jax.Array) -> np.random.Generator:
    """Return a generator that the key alone decides.

    Index arrays of unequal lengths are made on the host, from the same explicit key.
    """
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def cut(members: np.ndarray, proportions: np.ndarray) -> list[np.ndarray]:
    """Cut an array in parts of given proportions, whose bounds are rounded down.

    Examples:
        >>> [part.tolist() for part in cut(np.arange(5), np.array([0.5, 0.3, 0.2]))]
        [[0, 1], [2, 3], [4]]
    """
    bounds = np.cumsum(proportions)[:-1] * len(members)
    return np.split(members, bounds.astype(np.int64))


def draw_until(
    draw: Callable[[], tuple[np.ndarray, ...]], count: int, clients: int, minimum: int, remedy: str
) -> tuple[np.ndarray, ...]:
    """Draw anew until every client has enough examples, and sort what each has.

    Args:
        draw: Draws one index array a client.
        count: Number of examples there are.
        clients: Number of clients.
        minimum: Smallest number of examples of a client.
        remedy: What to change where no draw is found.

    Raises:
        ValueError: There are too few examples, or no draw of many gave every client enough.
    """
    check_minimum(count, clients, minimum, remedy)
    for _ in range(DRAWS):
        parts = draw()
        if min(len(part) for part in parts) >= minimum:
            return tuple(np.sort(part) for part in parts)
    raise ValueError(f"no split in {DRAWS} draws gave every client {minimum} examples: {remedy}")
