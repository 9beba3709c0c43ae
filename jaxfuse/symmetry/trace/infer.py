"""Infer the symmetry of any traceable function from its program."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.trace.array import Array
from jaxfuse.symmetry.trace.assemble import assemble
from jaxfuse.symmetry.trace.call import as_function
from jaxfuse.symmetry.trace.factor import Factor, family, index_of, pin, pinned
from jaxfuse.symmetry.trace.interpreter import Interpreter, settle_all, warn_unknown
from jaxfuse.symmetry.trace.program import read_program
from jaxfuse.symmetry.trace.registry import Rule

PyTree = Any


def infer_symmetry(
    function: Callable[..., PyTree] | PyTree,
    *args: PyTree,
    rules: Mapping[str, Rule] | None = None,
) -> Symmetry:
    """Find every group of axes that may be permuted together without changing a function.

    The function is traced to a jaxpr, and the structure of every axis is followed through it: as
    an ordered product of factors (a flatten, the heads of attention) or a direct sum of blocks
    (concatenated features, fused projections, stacked gates). No weights are read and nothing is
    compiled, so `jax.ShapeDtypeStruct`s do in place of arrays. What the rules do not know is
    pinned: a group that is found is a symmetry, and `Symmetry.verify` proves both that and that
    nothing was missed.

    Args:
        function: `apply_fn`, called as `apply_fn(params, *inputs)`; or a Flax NNX or Equinox
            module, called as `module(*inputs)` (an NNX module in inference mode).
        *args: the parameters and the inputs of `apply_fn`, or the inputs of the module. Leaves
            that are no arrays, such as flags, are passed on as they are.
        rules: rules for primitives, by name, that replace or extend those of the library.

    Returns:
        The symmetry: its groups, the leaves that they lie on, and what is pinned, and why.

    Raises:
        ValueError: if the function's program depends on the values of its inputs, or is another at
            each call because of side effects.

    Warns:
        UnknownPrimitiveWarning: for operations without a rule, whose axes are pinned.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> def mlp(params, x):
        ...     return jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> shape = jax.ShapeDtypeStruct
        >>> params = {"in": shape((4, 8), jnp.float32), "out": shape((8, 2), jnp.float32)}
        >>> infer_symmetry(mlp, params, shape((16, 4), jnp.float32)).groups
        {'in': 8}
    """
    apply_fn, params, inputs = as_function(function, *args)
    program = read_program(apply_fn, params, inputs)
    closed = program.closed
    enumerated: set[object] = set()
    while True:
        interpreter = Interpreter(rules or {}, enumerated)
        arrays = [
            _input(argument.shape) if path is None else _leaf(path, argument.shape, enumerated)
            for path, argument in zip(program.paths, program.arguments, strict=True)
        ]
        outputs = interpreter.run(closed.jaxpr, closed.consts, arrays, "")
        fresh = interpreter.wanted - enumerated
        if not fresh:
            break
        enumerated |= fresh
    for array in outputs:
        for axis in (*array.axes, array.points or ()):
            pin(axis, "output")
    for path, array in zip(program.paths, arrays, strict=True):
        if path is not None and path not in program.weights:
            for axis in array.axes:
                pin(axis, "no array of real numbers")
    settle_all([*arrays, *interpreter.seen])
    warn_unknown(list(interpreter.unknown))
    found = zip(program.paths, arrays, strict=True)
    return assemble({path: a for path, a in found if path in program.weights}, interpreter)


def _leaf(path: str, shape: tuple[int, ...], enumerated: set[object]) -> Array:
    """Describe a parameter: every axis may be permuted until something says otherwise."""
    along = next((axis for axis in range(len(shape)) if (path, axis) in enumerated), None)
    index = None if along is None else index_of(shape[along], path)
    axes = []
    for axis, size in enumerate(shape):
        if size == 1:
            axes.append(())
        elif index is None:
            axes.append((Factor(size, origin=(path, axis)),))
        elif axis == along:
            axes.append((index,))
        else:
            axes.append((family(index, [Factor(size) for _ in index.parts]),))
    return Array(tuple(axes), leaves=frozenset([path]))


def _input(shape: tuple[int, ...]) -> Array:
    return Array(tuple(pinned(size, "input") for size in shape), data=True)
