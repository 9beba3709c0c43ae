"""Apply a matching to parameters: reorder the units of every group."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.status import is_concrete
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import map_named

PyTree = Any


def permute(params: PyTree, symmetry: Symmetry, permutations: Mapping[str, jax.Array]) -> PyTree:
    """Reorder the units of every group: new unit i is the old unit `permutation[i]`.

    The function that the network computes does not change.

    Args:
        params: the parameters.
        symmetry: which axes belong together.
        permutations: per group an int32 `[n]` permutation; groups that are missing stay.

    Returns:
        Parameters of the same structure, shapes and dtypes; NumPy arrays stay NumPy arrays
        outside jit.

    Raises:
        ValueError: for parameters of another model, a group that the symmetry does not have, and a
            permutation of the wrong length; where the permutations are concrete, also for one that
            does not hold every unit once.

    Examples:
        >>> import jax.numpy as jnp
        >>> params = {"in": jnp.arange(3.0)[None], "out": jnp.arange(3.0)[:, None]}
        >>> spec = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, params)
        >>> permute(params, spec, {"h": jnp.array([2, 0, 1])})["in"]
        Array([[2., 0., 1.]], dtype=float32)
    """
    symmetry.check(params)
    _check_permutations(symmetry, permutations)
    tensors = {tensor.path: tensor for tensor in symmetry.tensors}

    def reorder(path: str, leaf: Any) -> Any:
        if path not in tensors:
            return leaf
        tensor = tensors[path]
        # NumPy on NumPy keeps float64, which JAX would round.
        host = isinstance(leaf, np.ndarray) and is_concrete(*permutations.values())
        xp = np if host else jnp
        viewed = xp.reshape(leaf, tensor.shape)
        for axis, group in enumerate(tensor.groups):
            if group is not None and group in permutations:
                viewed = xp.take(viewed, xp.asarray(permutations[group]), axis=axis)
        return xp.reshape(viewed, leaf.shape)

    return map_named(reorder, params)


def _check_permutations(symmetry: Symmetry, permutations: Mapping[str, jax.Array]) -> None:
    sizes = symmetry.groups
    for group, permutation in permutations.items():
        if group not in sizes:
            raise ValueError(
                f"the symmetry has no group {group!r}: its groups are {list(sizes)}. Name the "
                "permutations by its groups"
            )
        size = sizes[group]
        if np.shape(permutation) != (size,):
            raise ValueError(
                f"the permutation of group {group!r} has shape {np.shape(permutation)}: pass one "
                f"of shape {(size,)}, an index for each of its units"
            )
        if is_concrete(permutation) and not np.array_equal(np.sort(permutation), np.arange(size)):
            raise ValueError(
                f"group {group!r} got {np.asarray(permutation)}, which is no permutation: every "
                f"number from 0 to {size - 1} must occur once"
            )


def random_permutations(symmetry: Symmetry, key: jax.Array) -> dict[str, jax.Array]:
    """Draw a uniformly random permutation of every group.

    Examples:
        >>> spec = Symmetry((("h", 4),), ())
        >>> sorted(random_permutations(spec, jax.random.key(0))["h"].tolist())
        [0, 1, 2, 3]
    """
    keys = jax.random.split(key, max(len(symmetry.sizes), 1))
    return {
        group: jax.random.permutation(k, size).astype(jnp.int32)
        for k, (group, size) in zip(keys, symmetry.sizes, strict=False)
    }
