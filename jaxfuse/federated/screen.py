"""Tell whether what a client sent can go into an average."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np


def screen(arrays: Mapping[str, np.ndarray], like: Mapping[str, np.ndarray]) -> str | None:
    """Return why a client's arrays are refused, or None if they are sound.

    One entry that is not a number spoils an average, and one array of another shape ends it. An
    array passes in any dtype of the same kind: float64 where the model has float32, if it does not
    overflow there; integers where it has floats; never floats where it has integers.

    Args:
        arrays: what the client sent, by the names of its leaves.
        like: the global network, by the names of its leaves.

    Returns:
        The reason, with the name of the leaf, or None.

    Examples:
        >>> model = {"dense/kernel": np.zeros((2, 3), np.float32)}
        >>> screen({"dense/kernel": np.ones((2, 3))}, model) is None
        True
        >>> screen({"dense/kernel": np.ones((3, 2))}, model)
        "leaf 'dense/kernel' has shape (3, 2), and the model's is (2, 3)"
        >>> screen({"dense/kernel": np.full((2, 3), np.nan)}, model)
        "leaf 'dense/kernel' is not finite: 6 of 6 entries"
    """
    for name in like:
        if name not in arrays:
            return f"leaf {name!r} is missing"
    for name in arrays:
        if name not in like:
            return f"leaf {name!r} is unknown to the model"
    for name, wanted in like.items():
        flaw = _flaw(np.asarray(arrays[name]), wanted)
        if flaw is not None:
            return f"leaf {name!r} {flaw}"
    return None


def _flaw(array: np.ndarray, wanted: np.ndarray) -> str | None:
    """Return what is wrong with one array."""
    if array.shape != wanted.shape:
        return f"has shape {array.shape}, and the model's is {wanted.shape}"
    if not _is_number(array.dtype):
        return f"has dtype {array.dtype}, which is no number"
    if _rank(array.dtype) > _rank(wanted.dtype):
        return f"has dtype {array.dtype}, which the model's {wanted.dtype} cannot hold"
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(array.astype(wanted.dtype)) & np.isfinite(array)
    if not finite.all():
        return f"is not finite: {np.sum(~finite)} of {finite.size} entries"
    return None


def _is_number(dtype: np.dtype) -> bool:
    # JAX knows bfloat16 and the 8-bit floats as numbers, NumPy does not.
    return dtype == np.bool_ or bool(jnp.issubdtype(dtype, jnp.number))


def _rank(dtype: np.dtype) -> int:
    """Return how general a kind of number is."""
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next((rank for rank, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind)), 0)
