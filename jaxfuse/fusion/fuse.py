"""Make one network out of K: align, average, restore the strength of the units."""

from collections.abc import Sequence
from typing import Any, Literal

import jax

from jaxfuse.affinity import Affinity
from jaxfuse.align import Alignment, align_params
from jaxfuse.fusion.average import average, normalise_weights
from jaxfuse.fusion.rescale import rescale_units
from jaxfuse.matching import Solver
from jaxfuse.symmetry import Symmetry, infer_chain

PyTree = Any


def fuse(
    params: Sequence[PyTree],
    weights: Sequence[float] | jax.Array | None = None,
    alignment: Alignment | Sequence[Alignment] | None = None,
    *,
    symmetry: Symmetry | None = None,
    affinity: Affinity | str = "linear",
    solver: Solver | str = "portfolio",
    correction: Literal["norm"] | None = "norm",
    key: jax.Array | None = None,
) -> PyTree:
    """Fuse K networks of one architecture into one of the same size.

    The networks are brought into the order of the first and averaged; then every hidden unit gets
    back the mean norm of its parents' incoming weights, of which an average loses a part.

    Args:
        params: K parameter trees, as `align_params` takes them.
        weights: the share of each network, normalised to sum to one; equal by default.
        alignment: what `align_params(params[0], params[k])` returned, for k = 1 ... K - 1, where
            that is known already; a single one for two networks.
        symmetry: as in `align_params`; not needed where the alignment is given and no correction
            is wanted.
        affinity: as in `align_params`.
        solver: as in `align_params`.
        correction: "norm" (`rescale_units`; measured best), or None for the bare average.
        key: as in `align_params`.

    Returns:
        One parameter tree with the structure, shapes and dtypes of the first.

    Raises:
        ValueError: as `align_params` and `average`, for a wrong number of alignments, and with the
            correction for a group of which the symmetry names no leaf that computes its units.

    Works under `jit` and `vmap`. Differentiable in the parameters, with the matching held fixed.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> params = [jax.random.normal(k1, (4, 8)), jax.random.normal(k2, (8, 3))]
        >>> reversed_units = [params[0][:, ::-1], params[1][::-1]]
        >>> fused = fuse([params, reversed_units])
        >>> bool(jnp.allclose(fused[0], params[0], atol=1e-6))
        True
    """
    if correction not in ("norm", None):
        raise ValueError(f"correction={correction!r} is neither 'norm' nor None")
    params = list(params)
    if not params:
        raise ValueError("there is nothing to fuse: pass at least one parameter tree")
    if symmetry is None and (alignment is None or correction == "norm"):
        symmetry = infer_chain(params[0])
    if symmetry is not None and correction == "norm":
        _check_outputs(symmetry)
    if alignment is None:
        aligned = [
            align_params(
                params[0],
                other,
                symmetry=symmetry,
                affinity=affinity,
                solver=solver,
                key=key,
            ).params
            for other in params[1:]
        ]
    else:
        known = [alignment] if isinstance(alignment, Alignment) else list(alignment)
        if len(known) != len(params) - 1:
            raise ValueError(
                f"got {len(known)} alignments for {len(params)} networks: pass one for each but "
                "the first"
            )
        aligned = [each.params for each in known]
    parents = [params[0], *aligned]
    fused = average(parents, weights)
    if correction is None or symmetry is None:
        return fused
    return rescale_units(fused, parents, normalise_weights(weights, len(parents)), symmetry)


def _check_outputs(symmetry: Symmetry) -> None:
    """Refuse groups that no leaf computes: their units have no norm to give back."""
    computed = {t.groups[t.output] for t in symmetry.tensors if t.output is not None}
    # What moves as a whole, such as a head, is computed with the units inside it.
    computed |= {context for group, over in symmetry.over if group in computed for context in over}
    for group in symmetry.groups:
        if group not in computed:
            raise ValueError(
                f"no leaf has the units of group {group!r} as its outputs (TensorAxes.output), so "
                "their norm can't be restored: pass correction=None, or a symmetry that tells"
            )
