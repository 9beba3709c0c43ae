"""Make the units of a freshly initialised network differ, so that a wrong order of them shows."""

from typing import Any

import numpy as np

_SPREAD = 0.3


def jitter(leaves: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Spread the entries of every leaf that holds few distinct values.

    Zeros (biases, gates) become small normal numbers of both signs, other entries (scales,
    variances) are multiplied by a positive factor. A leaf counts if it is zero throughout, or if
    its entries take at most half as many values as there are entries: what was drawn or trained
    stays.

    Args:
        leaves: the leaves; those that are no NumPy array of float64 pass through.
        rng: the source of the factors.

    Returns:
        The leaves in the same order.
    """
    return {
        path: _spread(leaf, rng) if _is_uniform(leaf) else leaf for path, leaf in leaves.items()
    }


def _is_uniform(leaf: Any) -> bool:
    if not isinstance(leaf, np.ndarray) or leaf.dtype != np.float64 or not leaf.size:
        return False
    return not np.any(leaf) or 2 * np.unique(leaf).size <= leaf.size


def _spread(leaf: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(leaf.shape)
    # A whole kernel of zeros: its outputs stay of the size of the others.
    shrink = np.sqrt(max(leaf.shape)) if leaf.ndim > 1 else 1.0
    return np.where(leaf == 0, _SPREAD * noise / shrink, leaf * np.exp(_SPREAD * noise))
