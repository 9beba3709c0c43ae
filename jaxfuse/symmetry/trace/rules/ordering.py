"""Sorting and numbering: what is ranked may be permuted, its ranks can't."""

from jaxfuse.symmetry.trace.array import Array, free
from jaxfuse.symmetry.trace.factor import Axis, Factor, pin, pinned, tie
from jaxfuse.symmetry.trace.registry import Site, read_pointers, register_rule

_RANKS = "ordered by value"


@register_rule("iota")
def iota(site: Site) -> Array:
    """Number an axis: the values point at it."""
    axes = list(free(site.shape))
    along = site.params["dimension"]
    numbered: Axis = (Factor(site.shape[along]),) if site.shape[along] > 1 else ()
    axes[along] = numbered
    return Array(tuple(axes), points=numbered)


def _ranked(site: Site, axes: tuple[Axis, ...], along: int, size: int) -> tuple[Axis, ...]:
    return (*axes[:along], pinned(size, _RANKS), *axes[along + 1 :])


@register_rule("top_k", "approx_top_k")
def top_k(site: Site) -> list[Array]:
    """Return ranks, and positions that point at the axis."""
    (array,) = site.inputs
    params = site.params
    along = params["axis"] if site.primitive == "top_k" else params["reduction_dimension"]
    along %= len(array.axes)
    axes = _ranked(site, array.axes, along, site.shape[along])
    return [Array(axes), Array(axes, points=site.ranked(0, along))]


@register_rule("sort", pointers=True)
def sort(site: Site) -> list[Array]:
    """Order along an axis; positions that are ordered along with the values stay positions."""
    along = site.params["dimension"]
    first = site.inputs[0]
    axes = list(first.axes)
    for array in site.inputs[1:]:
        axes = [tie(a, b) for a, b in zip(axes, array.axes, strict=True)]
    keys = site.params["num_keys"]
    read_pointers(site.inputs[:keys])
    if len(site.inputs) > 1 and not any(site.ranked(key, along) for key in range(keys)):
        read_pointers(site.inputs)
    ranked = _ranked(site, tuple(axes), along, site.shape[along])
    return [
        Array(ranked, points=array.points if number >= keys else None)
        for number, array in enumerate(site.inputs)
    ]


@register_rule("rev")
def reverse(site: Site) -> Array:
    """Pin the axes that are turned round."""
    (array,) = site.inputs
    axes = list(array.axes)
    for along in site.params["dimensions"]:
        pin(axes[along], "turned round")
        axes[along] = pinned(array.shape[along], "turned round")
    return Array(tuple(axes))


@register_rule(
    "random_bits",
    "random_seed",
    "random_wrap",
    "random_unwrap",
    "random_split",
    "random_fold_in",
    "random_clone",
    "random_gamma",
    "threefry2x32",
    "rng_bit_generator",
    "rng_uniform",
)
def random(site: Site) -> list[Array]:
    """Return numbers that differ from entry to entry."""
    return site.opaque("random numbers")


@register_rule("platform_index")
def platform(site: Site) -> Array:
    """Return a number."""
    return Array(())


@register_rule("debug_callback", "debug_print")
def debug(site: Site) -> list[Array]:
    """Nothing comes back from a print."""
    return []
