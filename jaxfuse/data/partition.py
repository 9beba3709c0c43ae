"""How training examples are shared out between models or clients."""

import jax
import numpy as np

_DRAWS = 1000


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
    labels = _checked(labels, clients)
    return tuple(np.arange(len(labels)) for _ in range(clients))


def personalised(
    labels: np.ndarray, *, key: jax.Array, special_class: int = 9, fraction: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Share out between a personal model that knows one class alone, and a general model.

    The heterogeneous two-model split of OTFusion (Singh and Jaggi, 2020): A gets all
    examples of the special class and a tenth of the others, B gets the other examples that are
    left. No example goes to both.

    Args:
        labels: `[n]` integer labels.
        key: Which tenth A gets.
        special_class: The class that only A sees. Default: 9, as in the released code.
        fraction: Share of each other class that A gets, from 0 to 1.

    Returns:
        Sorted index arrays of A and of B.

    Raises:
        ValueError: The fraction is not in [0, 1], or no label is the special class.

    Examples:
        >>> labels = np.repeat(np.arange(3), 10)
        >>> a, b = personalised(labels, key=jax.random.key(0), special_class=2)
        >>> len(a), len(b)
        (12, 18)
    """
    labels = _checked(labels, 2)
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    if special_class not in labels:
        raise ValueError(f"no label is {special_class}: choose a special_class that occurs")
    generator = _generator(key)
    for_a = labels == special_class
    for other in np.unique(labels[~for_a]):
        members = np.flatnonzero(labels == other)
        for_a[generator.permutation(members)[: round(fraction * len(members))]] = True
    return np.flatnonzero(for_a), np.flatnonzero(~for_a)


def dirichlet(
    labels: np.ndarray,
    *,
    key: jax.Array,
    clients: int = 2,
    concentration: float = 0.5,
    minimum: int = 10,
) -> tuple[np.ndarray, ...]:
    """Share out each class in proportions drawn from a Dirichlet distribution.

    The federated split of GAMF (Liu et al., 2022) and many others (Yurochkin et al., 2019): the
    proportions of a class are set to zero for clients that hold `n / clients` examples already,
    and all is drawn anew until every client has enough examples.

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
    labels = _checked(labels, clients)
    if not concentration > 0:
        raise ValueError(f"concentration must be positive, got {concentration}")
    if clients * minimum > len(labels):
        raise ValueError(
            f"{clients} clients with {minimum} examples each need {clients * minimum}, got "
            f"{len(labels)}: lower minimum or clients"
        )
    generator = _generator(key)
    for _ in range(_DRAWS):
        owners = _draw_owners(labels, clients, concentration, generator)
        if np.bincount(owners, minlength=clients).min() >= minimum:
            return tuple(np.flatnonzero(owners == client) for client in range(clients))
    raise ValueError(
        f"no split in {_DRAWS} draws gave every client {minimum} examples: lower minimum or "
        "clients, or raise concentration"
    )


def _draw_owners(
    labels: np.ndarray, clients: int, concentration: float, generator: np.random.Generator
) -> np.ndarray:
    owners = np.zeros(len(labels), np.int64)
    held = np.zeros(clients, np.int64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        proportions = generator.dirichlet(np.full(clients, concentration))
        proportions = np.where(held < len(labels) / clients, proportions, 0.0)
        if proportions.sum() == 0:
            proportions = (held == held.min()).astype(np.float64)
        bounds = np.cumsum(proportions / proportions.sum())[:-1] * len(members)
        for client, part in enumerate(np.split(members, bounds.astype(np.int64))):
            owners[part] = client
            held[client] += len(part)
    return owners


def _checked(labels: np.ndarray, clients: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be [n] integers, got {labels.dtype}{list(labels.shape)}")
    if clients < 1:
        raise ValueError(f"there must be one client or more, got {clients}")
    return labels


def _generator(key: jax.Array) -> np.random.Generator:
    # Index arrays of unequal lengths are made on the host, from the same explicit key.
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))
