"""Products of tensors: contracted axes are tied, the others handed on."""

from collections.abc import Sequence

from jaxfuse.symmetry.trace.array import Array
from jaxfuse.symmetry.trace.factor import Axis, divide_axis, pin, pinned, tie
from jaxfuse.symmetry.trace.registry import Site, register_rule

_WINDOW = "window of a convolution"
_PLACES = "positions of a convolution"


@register_rule("dot_general")
def dot_general(site: Site) -> Array:
    """Tie contracted and batch axes; what is left of a parameter are units it computes."""
    left, right = site.inputs
    (left_sum, right_sum), (left_batch, right_batch) = site.params["dimension_numbers"]
    for i, j in zip(left_sum, right_sum, strict=True):
        tie(left.axes[i], right.axes[j])
    batch = tuple(
        tie(left.axes[i], right.axes[j]) for i, j in zip(left_batch, right_batch, strict=True)
    )
    rest_left = _without(left.axes, (*left_sum, *left_batch))
    rest_right = _without(right.axes, (*right_sum, *right_batch))
    result = Array((*batch, *rest_left, *rest_right))
    site.tracer.meets(*result.axes, *(left.axes[i] for i in left_sum))
    _note(site, left, right, rest_left, result)
    _note(site, right, left, rest_right, result)
    return result


def _note(site: Site, weight: Array, data: Array, units: Sequence[Axis], result: Array) -> None:
    """Note what a layer takes and computes, if one of the operands is made of parameters."""
    if data.data and weight.leaves and not weight.data:
        site.tracer.computes(weight.leaves, units)
        site.tracer.passes("input", data.site, data.axes)
        site.tracer.passes("output", site.key, result.axes)


def _without(axes: tuple[Axis, ...], dropped: tuple[int, ...]) -> tuple[Axis, ...]:
    return tuple(axis for i, axis in enumerate(axes) if i not in dropped)


@register_rule("conv_general_dilated")
def convolution(site: Site) -> list[Array]:
    """Tie the channels; the window and the places it moves over are pinned.

    A grouped convolution splits the channels in groups, each with inputs and outputs of its own.
    """
    image, kernel = site.inputs
    numbers, groups = site.params["dimension_numbers"], site.params["feature_group_count"]
    if site.params["batch_group_count"] != 1:
        return site.opaque("convolution with batch groups")
    batch_in, channels_in, *places_in = numbers.lhs_spec
    units, inputs, *window = numbers.rhs_spec
    batch_out, channels_out, *places_out = numbers.out_spec
    outputs, channels = kernel.axes[units], image.axes[channels_in]
    if groups == 1:
        tie(channels, kernel.axes[inputs])
    else:
        of_image, of_kernel = divide_axis(channels, groups), divide_axis(outputs, groups)
        if of_image is None or of_kernel is None:
            return site.opaque("channels that do not divide into the groups of a convolution")
        outputs = (*tie(of_image[0], of_kernel[0]), *of_kernel[1])
        tie(of_image[1], kernel.axes[inputs])
    result: list[Axis] = [()] * len(site.shape)
    result[batch_out], result[channels_out] = image.axes[batch_in], outputs
    site.tracer.taps([kernel.axes[axis] for axis in window])
    for number, (place, tap, out) in enumerate(zip(places_in, window, places_out, strict=True)):
        if _is_pointwise(site, number, kernel.shape[tap]):
            result[out] = image.axes[place]
            continue
        pin(kernel.axes[tap], _WINDOW)
        pin(image.axes[place], _PLACES)
        result[out] = pinned(site.shape[out], _PLACES)
    array = Array(tuple(result))
    places = [image.axes[place] for place in places_in]
    site.tracer.meets(*array.axes, *kernel.axes[inputs : inputs + 1], *places)
    _note(site, kernel, image, [outputs], array)
    return [array]


def _is_pointwise(site: Site, number: int, taps: int) -> bool:
    """Tell whether a convolution leaves the entries of an axis where they are."""
    params = site.params
    moves = (
        params["window_strides"][number],
        params["lhs_dilation"][number],
        *params["padding"][number],
    )
    return taps == 1 and moves == (1, 1, 0, 0)
