"""How time and memory grow: exponents fitted to measurements at several sizes."""

from collections.abc import Sequence

import numpy as np


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the exponent p of the power law `c * size^p` that fits best in logarithms.

    Args:
        sizes: two different ones or more, positive.
        values: one for each size, positive.

    Raises:
        ValueError: for fewer than two different sizes, and for what has no logarithm.

    Examples:
        >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
        2.0
    """
    if len(sizes) != len(values):
        raise ValueError(f"got {len(sizes)} sizes and {len(values)} values, want one for each")
    if len(set(sizes)) < 2 or min(*sizes, *values) <= 0:
        raise ValueError(f"want two different positive sizes, got {sizes} with {values}")
    x, y = np.log(sizes), np.log(values)
    x = x - x.mean()
    return float(x @ (y - y.mean()) / (x @ x))


def last_slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the exponent between the two largest sizes, where fixed costs weigh least."""
    order = np.argsort(sizes)[-2:]
    return slope([sizes[i] for i in order], [values[i] for i in order])
