"""Make one network out of K: align, average, repair."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxfuse.affinity import Affinity
from jaxfuse.align import Alignment, Alignments, align_many, align_params
from jaxfuse.align.search import resolve
from jaxfuse.fusion.average import average, normalise_weights
from jaxfuse.fusion.noise import shaped_noise
from jaxfuse.fusion.repair import REPAIRS, Merger, Repair, ResetStatistics
from jaxfuse.methods import AnyMethod
from jaxfuse.networks import ApplyFunction
from jaxfuse.status import is_concrete
from jaxfuse.symmetry import Symmetry, infer_chain, infer_symmetry
from jaxfuse.transport.maps import Maps, fuse_maps, map_params

PyTree = Any


def fuse(
    params: Sequence[PyTree],
    weights: Sequence[float] | jax.Array | None = None,
    alignment: Alignment | Sequence[Alignment] | Alignments | None = None,
    *,
    method: AnyMethod | str | None = None,
    symmetry: Symmetry | Sequence[Symmetry] | None = None,
    affinity: Affinity | str = "linear",
    apply_fn: ApplyFunction | None = None,
    inputs: PyTree = None,
    targets: Any = None,
    activation_weight: float = 3.0,
    repair: Repair | str | None = "auto",
    key: jax.Array | None = None,
) -> PyTree:
    """Fuse K networks of one architecture into one.

    The networks are brought into the order of the first and averaged; then the average, which
    loses a part of what its parents do, is repaired.

    Args:
        params: K parameter trees, as `align_params` takes them.
        weights: the share of each network, normalised to sum to one; equal by default.
        alignment: what `align_many(params)` returned, or `align_params(params[0], params[k])` for
            k = 1 ... K - 1 (a single one for two networks), where that is known already.
        method: as in `align_params`; "portfolio" for two networks by default,
            "annealed_merge_many" for more.
        symmetry: as in `align_params`; not needed where the alignment is given and no repair is
            wanted.
        affinity: as in `align_params`.
        apply_fn: as in `align_params`.
        inputs: as in `align_params`. Shapes alone (`jax.ShapeDtypeStruct((4000, 28, 28, 1), ...)`)
            stand for so many samples of noise (`jaxfuse.fusion.noise`), on which the repair runs
            the networks: a repair without data, for networks without running statistics. What
            `jaxfuse.invert` makes of classifiers is a better stand-in, for the alignment too.
        targets: as in `align_params`.
        activation_weight: as in `align_params`.
        repair: how the average is corrected: "norm" (the norms of incoming weights, without data),
            "reset" (running statistics), "repair", "rescale", "reshift", "closed_form" (REPAIR and
            its variants), "least_squares" (every layer is fitted to its parents), an instance with
            its own settings, or None. "auto" is what measures best: "least_squares" with inputs,
            "norm" without, and none for linear maps but "reset" with inputs.
        key: as in `align_params`; and of the noise.

    Returns:
        One parameter tree with the structure and dtypes of the first, and its shapes unless the
        method makes a network of other widths.

    Raises:
        ValueError: as `align_params` and `average`, for a wrong number of alignments, for a repair
            that needs data without any, and for one that looks at parents where maps leave units
            that not all networks have (under jit as far as shapes tell).

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
    params = list(params)
    if not params:
        raise ValueError("there is nothing to fuse: pass at least one parameter tree")
    if isinstance(repair, str) and repair != "auto":
        repair = resolve("repair", repair, REPAIRS)
    arguments = () if inputs is None else inputs if isinstance(inputs, tuple) else (inputs,)
    drawn = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(arguments))
    if arguments and apply_fn is None:
        raise ValueError("inputs= needs apply_fn=, the function to run them through")
    by_shape = drawn or not arguments
    if symmetry is None and (alignment is None or repair is not None):
        traced = apply_fn is not None and arguments
        symmetry = infer_symmetry(apply_fn, params[0], *arguments) if traced else None
    known = alignment
    if known is None and len(params) > 1:
        known = _align(
            params,
            method,
            symmetry=symmetry,
            affinity=affinity,
            apply_fn=None if by_shape else apply_fn,
            inputs=None if by_shape else arguments,
            targets=targets,
            activation_weight=activation_weight,
            key=key,
        )
    parents, maps = _collect(params, known)
    shares = normalise_weights(weights, len(parents))
    chosen = _choose_repair(repair, bool(arguments), maps is not None)
    if maps is not None:
        symmetries = _each(symmetry, params)
        fused = fuse_maps(params, symmetries, maps, shares)
        if chosen is not None and not isinstance(chosen, ResetStatistics):
            _check_shared(maps, type(chosen).__name__)
            parents[0] = map_params(params[0], symmetries[0], *maps.of(0))
    else:
        fused = average(parents, weights)
    if chosen is None:
        return fused
    if drawn:
        assert apply_fn is not None
        drawn_key = jax.random.key(0) if key is None else key
        arguments = shaped_noise(apply_fn, parents, arguments, drawn_key)
    first = symmetry if isinstance(symmetry, Symmetry) else _each(symmetry, params)[0]
    return chosen.repair(Merger(fused, tuple(parents), shares, first, apply_fn, arguments))


def _align(
    params: Sequence[PyTree], method: AnyMethod | str | None, **options: Any
) -> Alignment | Alignments:
    if len(params) == 2:
        return align_params(*params, method=method or "portfolio", **options)
    return align_many(params, method=method or "annealed_merge_many", **options)


def _collect(
    params: Sequence[PyTree], known: Alignment | Sequence[Alignment] | Alignments | None
) -> tuple[list[PyTree], Maps | None]:
    """Return all networks in the common order, and the maps that brought them there.

    Of the maps of two networks those of the first are still to be applied.
    """
    if isinstance(known, Alignments):
        if len(known.params) != len(params):
            raise ValueError(
                f"got an alignment of {len(known.params)} networks for {len(params)}: pass the one "
                "of these networks"
            )
        return list(known.params), known.maps
    if known is None:
        return [params[0]], None
    singles = [known] if isinstance(known, Alignment) else list(known)
    if len(singles) != len(params) - 1:
        raise ValueError(
            f"got {len(singles)} alignments for {len(params)} networks: pass one for each but "
            "the first"
        )
    maps = [each.maps for each in singles]
    if any(each is not None for each in maps):
        if len(singles) > 1:
            raise ValueError(
                "linear maps of several pairs have no common space: pass what align_many returned"
            )
        return [params[0], singles[0].params], maps[0]
    return [params[0], *(each.params for each in singles)], None


def _check_shared(maps: Maps, repair: str) -> None:
    """Refuse common units that not all networks have: what they should do is no mean of parents.

    Under jit, where values are not known, only those that shapes tell are.
    """
    for node, mass in maps.mass.items():
        narrowest = min(each.shape[1] for each in maps.to[node])
        alone = mass.shape[1] > narrowest
        if is_concrete(mass):
            alone = alone or bool(np.ptp(np.asarray(mass), axis=0).max() > 1e-6)
        if alone:
            raise ValueError(
                f"{repair} fits every unit to the mean of its parents, and some units of {node!r} "
                'are not in all networks alike: pass repair=None, or "reset" for running statistics'
            )


def _choose_repair(repair: Repair | str | None, with_data: bool, by_maps: bool) -> Repair | None:
    if not isinstance(repair, str):
        return repair
    if with_data:
        return REPAIRS["reset" if by_maps else "least_squares"]
    return None if by_maps else REPAIRS["norm"]


def _each(
    symmetry: Symmetry | Sequence[Symmetry] | None, params: Sequence[PyTree]
) -> tuple[Symmetry, ...]:
    if isinstance(symmetry, Symmetry):
        return (symmetry,) * len(params)
    return tuple(map(infer_chain, params)) if symmetry is None else tuple(symmetry)
