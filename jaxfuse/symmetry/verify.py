"""Prove a symmetry numerically: permute every group at random and see the function stay."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.symmetry.permute import permute, random_permutations
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import is_weight

PyTree = Any


class Verification(NamedTuple):
    """What permuting one group after the other did to the outputs.

    Attributes:
        errors: per group the largest change of an output, relative to the largest output.
        holds: whether every error is below the tolerance.
    """

    errors: dict[str, float]
    holds: bool


def verify(
    symmetry: Symmetry,
    apply_fn: Callable[..., jax.Array],
    params: PyTree,
    *inputs: Any,
    key: jax.Array,
    tolerance: float = 1e-4,
) -> Verification:
    """Permute each group at random and measure how far the outputs move.

    Args:
        symmetry: the symmetry to prove.
        apply_fn: `apply_fn(params, *inputs) -> outputs`.
        params: parameters with values that differ from unit to unit; freshly initialised ones
            hide mistakes in biases and statistics that are all equal. Leaves that are no arrays
            of real numbers, such as the functions in an Equinox module, reach `apply_fn` as they
            are.
        *inputs: a batch of inputs, arrays or pytrees of them.
        key: source of the permutations.
        tolerance: largest relative change that counts as rounding; the default leaves room for
            sums of a few thousand float32 terms in another order.

    Returns:
        The error of every group, and the verdict.

    Examples:
        >>> import jax.numpy as jnp
        >>> params = {"in": jnp.ones((3, 8)), "out": jnp.arange(8.0)[:, None]}
        >>> spec = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, params)
        >>> net = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]
        >>> verify(spec, net, params, jnp.ones((2, 3)), key=jax.random.key(0)).holds
        True
    """
    leaves, structure = jax.tree.flatten(params)

    @jax.jit
    def outputs_of(weights: list[jax.Array], inputs: tuple[Any, ...]) -> jax.Array:
        supply = iter(weights)
        complete = [next(supply) if is_weight(leaf) else leaf for leaf in leaves]
        return apply_fn(jax.tree.unflatten(structure, complete), *inputs)

    reference = outputs_of(_weights(params), inputs)
    scale = jnp.maximum(jnp.max(jnp.abs(reference)), jnp.finfo(reference.dtype).tiny)
    errors = {}
    for group, permutation in random_permutations(symmetry, key).items():
        moved = permute(params, symmetry, {group: permutation})
        outputs = outputs_of(_weights(moved), inputs)
        errors[group] = float(jnp.max(jnp.abs(outputs - reference)) / scale)
    return Verification(errors, all(error <= tolerance for error in errors.values()))


def _weights(params: PyTree) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(params) if is_weight(leaf)]
