"""Reductions: an axis that is summed over may be permuted, and is gone."""

from jaxfuse.symmetry.trace.array import Array
from jaxfuse.symmetry.trace.factor import pin, pinned
from jaxfuse.symmetry.trace.registry import Site, register_rule


@register_rule(
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor"
)
def reduction(site: Site) -> list[Array]:
    """Drop the axes."""
    axes = site.params["axes"]
    return [
        Array(tuple(axis for i, axis in enumerate(array.axes) if i not in axes))
        for array in site.inputs
    ]


@register_rule("argmax", "argmin")
def arg_reduction(site: Site) -> Array:
    """Drop the axis, and point at it."""
    (array,) = site.inputs
    (along,) = site.params["axes"]
    rest = (*array.axes[:along], *array.axes[along + 1 :])
    return Array(rest, points=site.ranked(0, along))


@register_rule(
    "reduce_window",
    "reduce_window_sum",
    "reduce_window_max",
    "reduce_window_min",
    "select_and_gather_add",
)
def pooling(site: Site) -> list[Array]:
    """Pin the axes that the window covers; initial values come after the operands."""
    window = site.params["window_dimensions"]
    return [_windowed(site, array, window) for array in site.inputs[: len(site.shapes)]]


def _windowed(site: Site, array: Array, window: tuple[int, ...]) -> Array:
    axes = []
    for axis, size, before, after in zip(array.axes, window, array.shape, site.shape, strict=True):
        if size == 1 and before == after:
            axes.append(axis)
            continue
        pin(axis, "positions of a pooling window")
        axes.append(pinned(after, "positions of a pooling window"))
    return Array(tuple(axes))


@register_rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(site: Site) -> Array:
    """Pin the axis that is run along."""
    (array,) = site.inputs
    along = site.params["axis"]
    pin(array.axes[along], "order of a cumulative operation")
    axes = list(array.axes)
    axes[along] = pinned(site.shape[along], "order of a cumulative operation")
    return Array(tuple(axes))
