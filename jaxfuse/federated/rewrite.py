"""Run the program of a function with other rules for some of its operations."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from jaxfuse.symmetry.trace.record import CALLS, apply_equation

Rule = Callable[[Any, Sequence[Any]], list[Any] | None]
"""Called with an operation of a jaxpr and its operands; returns its results, or None to decline."""


def rewrite(function: Callable[..., Any], rule: Rule) -> Callable[..., Any]:
    """Return a function that asks a rule first for the result of every operation.

    Args:
        function: pure function of trees of arrays.
        rule: what is asked. Operations inside `jit` and `checkpoint` are asked for one by one;
            loops and functions with custom derivatives are run as they are.

    Returns:
        A function of the same arguments. Works under `jit`, `vmap` and `grad`.

    Examples:
        >>> import jax.numpy as jnp
        >>> def double(equation, operands):
        ...     return [2 * operands[0]] if equation.primitive.name == "sin" else None
        >>> float(rewrite(lambda x: jnp.sin(x) + 1, double)(3.0))
        7.0
    """

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), rule)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def _evaluate(
    jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any], rule: Rule
) -> list[Any]:
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        results = rule(equation, operands)
        if results is None and equation.primitive.name in ("jit", "closed_call", "checkpoint"):
            program = equation.params[CALLS[equation.primitive.name]]
            inner, inside = getattr(program, "jaxpr", program), getattr(program, "consts", ())
            results = _evaluate(inner, inside, operands, rule)
        if results is None:
            results = apply_equation(jaxpr, equation, operands)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
