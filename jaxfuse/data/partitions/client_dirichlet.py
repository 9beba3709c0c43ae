"""Every client with class proportions of its own."""

import jax
import numpy as np

from jaxfuse.data.partitions.draws import check_concentration, check_enough, checked, generator_of


def client_dirichlet(
    labels: np.ndarray, *, key: jax.Array, clients: int = 2, concentration: float = 0.5
) -> tuple[np.ndarray, ...]:
    """Give every client equally many examples, of classes in proportions of its own.

    The split of Hsu, Qi and Brown (2019): a client draws its proportions from
    `Dirichlet(concentration * prior)`, then its examples one by one. As in Flower's baseline of the
    paper, none is drawn twice: where a class has run out, the proportions of the others are scaled
    to sum to one, so that the last clients take what is left. The prior is the distribution of the
    labels, for CIFAR-10 the paper's uniform one. In `dirichlet` it is each class that draws
    proportions of clients.

    Args:
        labels: `[n]` integer labels.
        key: Which split is drawn.
        clients: Number of clients.
        concentration: Parameter of the distribution, the sum over all classes: with ten classes of
            equal size, 10 is the uniform distribution over proportions. Flower's is that of one
            class, a tenth of it. Default: 0.5.

    Returns:
        One sorted index array a client, whose lengths differ by one at most; together they are a
        partition of all examples.

    Raises:
        ValueError: The concentration is not positive, or there are fewer examples than clients.

    Examples:
        >>> labels = np.repeat(np.arange(10), 50)
        >>> parts = client_dirichlet(labels, key=jax.random.key(0), clients=5, concentration=0.01)
        >>> [len(part) for part in parts]
        [100, 100, 100, 100, 100]
        >>> len(set(labels[parts[0]].tolist())) < 10
        True
    """
    labels = checked(labels, clients)
    check_concentration(concentration)
    check_enough(len(labels), clients)
    generator = generator_of(key)
    classes, stock = np.unique(labels, return_counts=True)
    concentrations = concentration * stock / len(labels)
    members = [generator.permutation(np.flatnonzero(labels == label)) for label in classes]
    parts = []
    for client in range(clients):
        size = len(labels) // clients + (client < len(labels) % clients)
        proportions = generator.dirichlet(concentrations)
        wanted = _draw_counts(proportions, concentrations, stock, size, generator)
        stock = stock - wanted
        taken = zip(members, stock, wanted, strict=True)
        parts.append(np.concatenate([own[left : left + count] for own, left, count in taken]))
    return tuple(np.sort(part) for part in parts)


def _draw_counts(
    proportions: np.ndarray,
    concentrations: np.ndarray,
    stock: np.ndarray,
    size: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Count the classes of examples drawn one by one, while there are any of each."""
    counts = np.zeros_like(stock)
    while (missing := size - counts.sum()) > 0:
        left = stock - counts
        proportions = np.where(left > 0, proportions, 0.0)
        if proportions.sum() < np.finfo(np.float64).tiny:
            # Smaller than floats are. What a Dirichlet distribution gives to some of its classes
            # is, scaled to sum to one, of a Dirichlet distribution too.
            proportions[left > 0] = generator.dirichlet(concentrations[left > 0])
        drawn = generator.choice(len(stock), missing, p=proportions / proportions.sum())
        # Those before the first that is not there stand; the rest is drawn from what is left.
        order = np.argsort(drawn, kind="stable")
        nth = np.empty(missing, np.int64)
        nth[order] = np.arange(missing) - np.searchsorted(drawn[order], drawn[order])
        beyond = np.flatnonzero(nth >= left[drawn])
        stop = beyond[0] if len(beyond) else missing
        counts += np.bincount(drawn[:stop], minlength=len(stock))
    return counts
