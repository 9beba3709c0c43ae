"""One model of one class, and a general one."""

import jax
import numpy as np

from jaxfuse.data.partitions.draws import checked, generator_of


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
    labels = checked(labels, 2)
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    if special_class not in labels:
        raise ValueError(f"no label is {special_class}: choose a special_class that occurs")
    generator = generator_of(key)
    for_a = labels == special_class
    for other in np.unique(labels[~for_a]):
        members = np.flatnonzero(labels == other)
        for_a[generator.permutation(members)[: round(fraction * len(members))]] = True
    return np.flatnonzero(for_a), np.flatnonzero(~for_a)
