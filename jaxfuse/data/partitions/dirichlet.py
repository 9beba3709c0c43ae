"""Every class in proportions of its own."""

import jax
import numpy as np

from jaxfuse.data.partitions.draws import (
    check_concentration,
    checked,
    cut,
    draw_until,
    generator_of,
)


def dirichlet(
    labels: np.ndarray,
    *,
    key: jax.Array,
    clients: int = 2,
    concentration: float = 0.5,
    minimum: int = 10,
) -> tuple[np.ndarray, ...]:
    """Share out each class in proportions drawn from a Dirichlet distribution.

    The federated split of GAMF (Liu et al., 2022) and many others (Yurochkin et al., 2019;
    "noniid-labeldir" of NIID-Bench): the proportions of a class are set to zero for clients that
    hold `n / clients` examples already, and all is drawn anew until every client has enough
    examples. In `client_dirichlet` it is each client that draws proportions of classes.

    Args:
        labels: `[n]` integer labels.
        key: Which split is drawn.
        clients: Number of clients.
        concentration: Parameter of the distribution: small for clients of few classes, large for
            clients that are alike. Default: 0.5, as in GAMF.
        minimum: Smallest number of examples of a client.

    Returns:
        One sorted index array a client; together they are a partition of all examples.

    Raises:
        ValueError: The concentration is not positive, or the minimum cannot be met.

    Examples:
        >>> labels = np.repeat(np.arange(10), 50)
        >>> a, b = dirichlet(labels, key=jax.random.key(0))
        >>> len(a) + len(b)
        500
    """
    labels = checked(labels, clients)
    check_concentration(concentration)
    generator = generator_of(key)
    return draw_until(
        lambda: _draw(labels, clients, concentration, generator),
        count=len(labels),
        clients=clients,
        minimum=minimum,
        remedy="lower minimum or clients, or raise concentration",
    )


def _draw(
    labels: np.ndarray, clients: int, concentration: float, generator: np.random.Generator
) -> tuple[np.ndarray, ...]:
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    held = np.zeros(clients, np.int64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        proportions = generator.dirichlet(np.full(clients, concentration))
        proportions = np.where(held < len(labels) / clients, proportions, 0.0)
        if proportions.sum() == 0:
            proportions = (held == held.min()).astype(np.float64)
        for client, part in enumerate(cut(members, proportions / proportions.sum())):
            parts[client].append(part)
            held[client] += len(part)
    return tuple(np.concatenate(each) for each in parts)
