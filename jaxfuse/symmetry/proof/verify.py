"""Prove a symmetry numerically: what is said to move moves freely, and nothing else does."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxfuse.symmetry.editing.override import BY_HAND
from jaxfuse.symmetry.permute import permute
from jaxfuse.symmetry.proof.evaluate import Evaluation, require_values
from jaxfuse.symmetry.proof.jitter import jitter
from jaxfuse.symmetry.proof.probe import find_pins, probe

if TYPE_CHECKING:
    from jaxfuse.symmetry.spec import Symmetry

PyTree = Any

_DRAWS = 64


class Verification(NamedTuple):
    """What permuting the groups, and swapping entries of the pinned axes, did to the outputs.

    Changes are relative to the largest entry of the output array they occur in.

    Attributes:
        errors: per group the largest change of an output when it alone is permuted.
        all: the largest change when all groups are permuted at once.
        holds: whether all of these are below the tolerance.
        changes: per pinned axis (`Symmetry.pinned`) the smallest change of a conclusive swap.
        movable: per pinned axis that need not be the pairs of entries whose swap changed nothing:
            symmetry that was missed.
        inconclusive: pinned axes whose entries have no influence on these inputs, such as taps
            that only see padding; nothing is known of them.
        unknown: leaves with an axis that has neither a group nor a named pin, as in a table
            written by hand: nothing was tried on them.
        tolerance: the largest relative change that counted as rounding.
    """

    errors: dict[str, float]
    all: float
    holds: bool
    changes: dict[str, float]
    movable: dict[str, tuple[tuple[int, int], ...]]
    inconclusive: tuple[str, ...]
    unknown: tuple[str, ...]
    tolerance: float

    @property
    def complete(self) -> bool:
        """Whether every axis is spoken of and no pinned one was found to be movable."""
        return not self.movable and not self.unknown


def verify(
    symmetry: "Symmetry",
    apply_fn: Callable[..., PyTree],
    params: PyTree,
    *inputs: Any,
    key: jax.Array,
    tolerance: float | None = None,
) -> Verification:
    """Permute each group, swap entries of each pinned axis, and see which change the outputs.

    Everything is computed in float64, where the function allows it, so that small effects count.
    Leaves of few distinct values, as biases and variances are at first, hide wrong orders; they
    are jittered before: zeros additively, others by positive factors.

    A pinned axis needs no pin if two of its entries, swapped on all leaves that carry it, leave
    the outputs alone while noise on them does not. Up to three pairs are tried per axis. The probe
    is only as good as the inputs: draw them at random, with batch, sequence and image sizes above
    one, and let the function return floats (logits); of integers alone no pin is called movable.

    Args:
        symmetry: the symmetry to prove.
        apply_fn: `apply_fn(params, *inputs) -> outputs`, arrays or a pytree of them. Integer
            outputs are compared exactly.
        params: initialised or trained parameters. Leaves that are no arrays of real numbers, such
            as the functions in an Equinox module, reach `apply_fn` as they are.
        *inputs: a batch of inputs, arrays or pytrees of them; what is no array is static.
        key: source of the permutations, swaps and noise.
        tolerance: largest relative change that counts as rounding; by default `eps ** 0.55` for
            the coarsest floating dtype that the weights pass through: 2e-9 in float64, 2e-4 where
            the function casts to float32.

    Returns:
        The errors of the groups, what is known of the pinned axes, and the verdicts.

    Raises:
        ValueError: for parameters of another model, shapes without values, traced arrays, and a
            function that returns nothing.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.symmetry.spec import Symmetry
        >>> params = {"in": jnp.ones((3, 8)), "out": jnp.arange(8.0)[:, None]}
        >>> spec = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, params)
        >>> net = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]
        >>> verify(spec, net, params, jnp.ones((2, 3)), key=jax.random.key(0)).holds
        True
    """
    symmetry.check(params)
    require_values("params", params)
    require_values("inputs", inputs)
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), "uint32")))
    evaluation = Evaluation(apply_fn, params, inputs, lambda leaves: jitter(leaves, rng))
    limit = evaluation.tolerance if tolerance is None else tolerance
    permutations = {group: _draw(symmetry.shape(group), rng) for group in symmetry.groups}

    def error(move: dict[str, Any]) -> float:
        return evaluation.change(permute(evaluation.leaves, symmetry, move))

    errors = {group: error({group: order}) for group, order in permutations.items()}
    together = error(permutations)
    pins = find_pins(symmetry, evaluation, BY_HAND)
    if np.isnan(evaluation.change(evaluation.leaves)):
        findings = probe({}, evaluation, limit, rng)._replace(inconclusive=tuple(pins))
    else:
        findings = probe(pins, evaluation, limit, rng)
    return Verification(
        errors,
        together,
        all(change <= limit for change in (*errors.values(), together)),
        *findings,
        unknown=_unknown_leaves(symmetry, evaluation),
        tolerance=limit,
    )


def _draw(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw a permutation for every entry of the contexts: not all the identity, nor all equal."""
    units = np.broadcast_to(np.arange(shape[-1], dtype=np.int32), shape)
    for _ in range(_DRAWS):
        drawn = rng.permuted(units, axis=-1)
        rows = drawn.reshape(-1, shape[-1])
        varied = len(rows) == 1 or np.any(rows != rows[:1])
        if varied and np.any(drawn != units):
            return drawn
    return units.copy()


def _unknown_leaves(symmetry: "Symmetry", evaluation: Evaluation) -> tuple[str, ...]:
    known = {tensor.path for tensor in symmetry.tensors}
    for tensor in symmetry.tensors:
        pins = tensor.pins or (None,) * len(tensor.shape)
        for size, group, pin in zip(tensor.shape, tensor.groups, pins, strict=True):
            if size > 1 and group is None and pin is None:
                known.discard(tensor.path)
    return tuple(
        path for path in evaluation.paths if path not in known and evaluation.leaves[path].size > 1
    )
