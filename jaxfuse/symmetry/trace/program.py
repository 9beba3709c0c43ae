"""The program of a function: its jaxpr, and what its arguments are."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

from jaxfuse.symmetry.tree import is_weight, leaf_path

PyTree = Any


class Program(NamedTuple):
    """A traced function.

    Attributes:
        closed: its jaxpr.
        arguments: the values, or shapes, that it was traced with.
        paths: per argument the path of its parameter, or None for an input.
        weights: the paths of the parameters that are arrays of real numbers.
    """

    closed: Any
    arguments: tuple[Any, ...]
    paths: tuple[str | None, ...]
    weights: frozenset[str]


def read_program(
    apply_fn: Callable[..., PyTree], params: PyTree, inputs: tuple[PyTree, ...]
) -> Program:
    """Trace a function of trees whose leaves may be no arrays.

    Raises:
        ValueError: if the program depends on values, or is another at each call.
    """
    with_paths, structure = jax.tree_util.tree_flatten_with_path((params, inputs))
    leaves = [leaf for _, leaf in with_paths]
    slots = [number for number, leaf in enumerate(leaves) if _is_array(leaf)]
    shapes = [jax.ShapeDtypeStruct(leaves[i].shape, leaves[i].dtype) for i in slots]

    def program(*arrays: jax.Array) -> PyTree:
        complete = list(leaves)
        for slot, array in zip(slots, arrays, strict=True):
            complete[slot] = array
        return apply_fn(*_unpack(jax.tree.unflatten(structure, complete)))

    paths = []
    for slot in slots:
        (argument, *rest), _ = with_paths[slot]
        paths.append(leaf_path(tuple(rest)) if argument.idx == 0 else None)  # pyright: ignore
    weights = {
        path
        for path, i in zip(paths, slots, strict=True)
        if path is not None and is_weight(leaves[i])
    }
    arguments = tuple(leaves[slot] for slot in slots)
    return Program(_jaxpr(program, shapes), arguments, tuple(paths), frozenset(weights))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def _unpack(both: tuple[PyTree, tuple[PyTree, ...]]) -> tuple[PyTree, ...]:
    params, inputs = both
    return params, *inputs


_ON_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_KEPT = (
    "the function uses a traced array that is none of its arguments: one that it kept from an "
    "earlier call (a side effect), or that a surrounding jit traces. Pass it as an argument"
)


def _jaxpr(program: Callable[..., PyTree], shapes: list[jax.ShapeDtypeStruct]) -> Any:
    """Trace twice: a function with side effects on its own program can't be trusted."""
    try:
        # Each through a function of its own: JAX would not run one that it has traced already.
        first, second = (jax.make_jaxpr(lambda *a: program(*a))(*shapes) for _ in range(2))
    except _ON_VALUES as error:
        raise ValueError(
            "the function's program depends on the values of its parameters or inputs, so it "
            "can't be traced: use jnp.where, jax.lax.cond or jax.lax.scan in place of Python's "
            f"if and for over values. JAX says: {str(error).splitlines()[0]}"
        ) from error
    except jax.errors.UnexpectedTracerError as error:
        raise ValueError(_KEPT) from error
    if any(isinstance(value, Tracer) for value in (*first.consts, *second.consts)):
        raise ValueError(_KEPT)
    difference = _difference(first.jaxpr, second.jaxpr)
    if difference is None and not _same_constants(first.consts, second.consts):
        difference = "its constants differ"
    if difference is not None:
        raise ValueError(
            f"the function's program is another at each call ({difference}): it has side effects, "
            "such as a counter or Python's random numbers. Make it a pure function"
        )
    # What nobody uses says nothing of the function.
    jaxpr, _ = dce_jaxpr(first.jaxpr, [True] * len(first.jaxpr.outvars), instantiate=True)
    return core.ClosedJaxpr(jaxpr, first.consts)


def _same_constants(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(
        one is two or np.array_equal(one, two) for one, two in zip(first, second, strict=True)
    )


def _difference(first: Any, second: Any) -> str | None:
    """Say where two programs part, or None."""
    if len(first.eqns) != len(second.eqns):
        return f"{len(first.eqns)} operations, then {len(second.eqns)}"
    for one, two in zip(first.eqns, second.eqns, strict=True):
        if one.primitive is not two.primitive:
            return f"{one.primitive.name!r}, then {two.primitive.name!r}"
        values = [
            [atom.val for atom in equation.invars if isinstance(atom, core.Literal)]
            for equation in (one, two)
        ]
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*values, strict=False)):
            return f"the constants of {one.primitive.name!r} differ"
        for name, value in one.params.items():
            found = _differ(value, two.params.get(name))
            if found is not None:
                return found or f"{name} of {one.primitive.name!r} differs"
    return None


def _differ(first: Any, second: Any) -> str | None:
    """Say where two parameters of an operation differ; "" where they are plain values."""
    jaxprs = [getattr(value, "jaxpr", value) for value in (first, second)]
    if all(hasattr(jaxpr, "eqns") for jaxpr in jaxprs):
        return _difference(*jaxprs)
    if isinstance(first, tuple) and isinstance(second, tuple):
        if len(first) != len(second):
            return ""
        found = (_differ(a, b) for a, b in zip(first, second, strict=True))
        return next((difference for difference in found if difference is not None), None)
    plain = (bool, int, float, str, np.integer)
    if (
        isinstance(first, plain)
        and isinstance(second, plain)
        and first != second
        and first == first
    ):
        return ""
    return None
