"""Entry by entry: results and operands of one shape have one order, as in a residual sum."""

from jaxfuse.symmetry.trace.array import Array, free
from jaxfuse.symmetry.trace.factor import Axis, axis_size, tie
from jaxfuse.symmetry.trace.registry import Site, read_pointers, register_rule, tie_all

# fmt: off
_ELEMENTWISE = (
    "abs", "acos", "acosh", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "complex", "conj", "cos", "cosh",
    "digamma", "div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt",
    "igamma", "igammac", "imag", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p",
    "logistic", "max", "min", "mul", "nextafter", "not", "or", "polygamma", "population_count",
    "pow", "random_gamma_grad", "real", "regularized_incomplete_beta", "rem", "round", "rsqrt",
    "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt",
    "square", "sub", "tan", "tanh", "xor", "zeta",
)
_SAME = (
    "bitcast_convert_type", "convert_element_type", "copy", "copy_p", "device_put",
    "layout_constraint", "mesh_cast", "name", "optimization_barrier", "pcast", "pvary",
    "reduce_precision", "reshard", "sharding_constraint", "stop_gradient",
)
# fmt: on


@register_rule(*_ELEMENTWISE)
def elementwise(site: Site) -> list[Array]:
    """Tie all operands; scalars go with everything."""
    return [_tied(site, site.inputs)]


def _tied(site: Site, operands: tuple[Array, ...]) -> Array:
    axes: list[Axis] = []
    for position, size in enumerate(site.shape):
        # A scalar, or an axis of one entry, goes with everything.
        parts = [
            array.axes[position]
            for array in operands
            if array.axes and array.shape[position] == size
        ]
        axes.append(tie_all(parts) if parts else free((size,))[0])
    return Array(tuple(axes))


@register_rule(*_SAME, pointers=True)
def same(site: Site) -> list[Array]:
    """Hand everything on, pointers too."""
    if any(array.shape != shape for array, shape in zip(site.inputs, site.shapes, strict=False)):
        return site.opaque("read as numbers of another width")
    return list(site.inputs[: len(site.shapes)])


@register_rule("neg")
def negative(site: Site) -> Array:
    """Tie nothing; the sign of a known value is turned."""
    (array,) = site.inputs
    value = None if array.value is None else -array.value
    return Array(array.axes, value=value)


@register_rule("eq", "ne", pointers=True)
def equal(site: Site) -> Array:
    """Compare: two positions on axes are equal in any common order of these axes, as in one_hot."""
    left, right = site.inputs
    if left.points is not None and right.points is not None and not (left.shifted or right.shifted):
        tie(left.points, right.points)
    else:
        read_pointers((left, right))
    return _tied(site, (left, right))


@register_rule("lt", pointers=True)
def less(site: Site) -> Array:
    """Compare: whether a position is negative says nothing of the order."""
    left, right = site.inputs
    if left.points is None or right.value != 0.0:
        read_pointers((left, right))
    return _tied(site, (left, right))


@register_rule("add", pointers=True)
def add(site: Site) -> Array:
    """Add; a position plus the size of its axis waits for the choice between the two."""
    left, right = site.inputs
    pointer = left if left.points is not None else right
    other = right if pointer is left else left
    result = _tied(site, (left, right))
    if pointer.points is None:
        return result
    if other.points is None and other.value == 0.0:
        return Array(result.axes, points=pointer.points, shifted=pointer.shifted)
    size = float(axis_size(pointer.points))
    if other.points is None and other.value == size and not pointer.shifted:
        return Array(result.axes, points=pointer.points, shifted=True)
    read_pointers((left, right))
    return result


@register_rule("select_n", pointers=True)
def select(site: Site) -> Array:
    """Choose entry by entry."""
    which, *cases = site.inputs
    read_pointers([which])
    result = _tied(site, site.inputs)
    first = cases[0].points
    plain = [case for case in cases if case.points is not None and not case.shifted]
    if first is None or any(case.points is not first for case in cases) or not plain:
        read_pointers(cases)
        return result
    return Array(result.axes, points=first)
