"""Run a function and keep the activations of its groups."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxfuse.symmetry.axes import Activation
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.trace.call import as_function
from jaxfuse.symmetry.trace.infer import infer_symmetry
from jaxfuse.symmetry.trace.program import read_program

PyTree = Any
Recorded = dict[str, jax.Array]
CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def record_activations(
    symmetry: Symmetry,
    function: Callable[..., PyTree] | PyTree,
    *args: PyTree,
    role: Literal["input", "output"] = "output",
) -> dict[str, tuple[jax.Array, ...]]:
    """Run a function on a batch and return the activations that carry each group.

    Args:
        symmetry: whose groups are wanted, by name.
        function: as in `infer_symmetry`; its program is followed as it was there.
        *args: as in `infer_symmetry`, with values. The batch may have another size.
        role: "output" for what layers compute, before bias and nonlinearity; "input" for what
            layers take, after it.

    Returns:
        Per group its activations in the order of the program, `[samples, *symmetry.shape(group)]`
        each: batch, positions and time steps are samples. Groups that no such array carries are
        missing.

    Raises:
        ValueError: if a group has another size in this function.

    Works under `jit` and `vmap`; differentiable where the function is.

    Examples:
        >>> import jax.numpy as jnp
        >>> params = {"in": jnp.ones((4, 8)), "out": jnp.ones((8, 2))}
        >>> mlp = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> symmetry = infer_symmetry(mlp, params, jnp.ones((5, 4)))
        >>> [a.shape for a in record_activations(symmetry, mlp, params, jnp.ones((5, 4)))["in"]]
        [(5, 8)]
    """
    apply_fn, params, inputs = as_function(function, *args)
    found = infer_symmetry(apply_fn, params, *inputs)
    for group in symmetry.groups:
        if group in found.groups and found.shape(group) != symmetry.shape(group):
            raise ValueError(
                f"group {group!r} has shape {symmetry.shape(group)} in the symmetry and "
                f"{found.shape(group)} in this function: was it made for another width?"
            )
    wanted = [activation for activation in found.activations if activation.role == role]
    program = read_program(apply_fn, params, inputs)
    recorded: Recorded = {}
    sites = {activation.tensor.path for activation in wanted}
    _evaluate(program.closed.jaxpr, program.closed.consts, program.arguments, sites, "", recorded)
    result: dict[str, list[jax.Array]] = {}
    for activation in wanted:
        for group in dict.fromkeys(activation.tensor.groups):
            if group in symmetry.groups and activation.tensor.path in recorded:
                values = _by_unit(recorded[activation.tensor.path], activation, symmetry, group)
                result.setdefault(group, []).append(values)
    return {group: tuple(arrays) for group, arrays in result.items()}


def _by_unit(array: jax.Array, activation: Activation, symmetry: Symmetry, group: str) -> jax.Array:
    """Arrange an activation as samples of the units of one group."""
    tensor = activation.tensor
    names = [group or pin for group, pin in zip(tensor.groups, tensor.pins, strict=True)]
    units = [names.index(name) for name in (*symmetry.contexts(group), group)]
    samples = [axis for axis in range(len(names)) if axis not in units]
    viewed = jnp.transpose(tensor.take(array), (*samples, *units))
    return viewed.reshape((-1, *symmetry.shape(group)))


def _evaluate(
    jaxpr: Any,
    constants: Sequence[Any],
    arguments: Sequence[Any],
    sites: set[str],
    prefix: str,
    recorded: Recorded,
) -> list[Any]:
    """Run a program and keep the results of the operations at some sites."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for number, equation in enumerate(jaxpr.eqns):
        key = f"{prefix}{number}"
        operands = [read(atom) for atom in equation.invars]
        name = equation.primitive.name
        inside = any(site.startswith(f"{key}.") for site in sites)
        if inside and name in CALLS:
            program = equation.params[CALLS[name]]
            inner = getattr(program, "jaxpr", program)
            results = _evaluate(
                inner, getattr(program, "consts", ()), operands, sites, f"{key}.", recorded
            )
        elif inside and name == "scan":
            results = _scan(equation.params, operands, sites, f"{key}.", recorded)
        else:
            results = apply_equation(jaxpr, equation, operands)
        for place, result in enumerate(results):
            site = f"{key}:{place}" if len(results) > 1 else key
            if site in sites:
                recorded[site] = result
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def apply_equation(jaxpr: Any, equation: Any, values: Sequence[Any]) -> list[Any]:
    """Run one operation of a program on the values of its operands, as a program of its own.

    Results that nobody uses are None.
    """
    pairs = zip(equation.invars, values, strict=True)
    known = {atom: value for atom, value in pairs if not isinstance(atom, core.Literal)}
    used = [v for v in equation.outvars if not isinstance(v, core.DropVar)]
    names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    program = core.Jaxpr((), list(known), used, [equation], equation.effects, names)
    results = iter(core.jaxpr_as_fun(core.ClosedJaxpr(program, ()))(*known.values()))
    return [None if isinstance(v, core.DropVar) else next(results) for v in equation.outvars]


def _scan(
    params: Any, operands: Sequence[Any], sites: set[str], prefix: str, recorded: Recorded
) -> list[Any]:
    first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
    constants, start, stacked = operands[:first], operands[first:second], operands[second:]

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], tuple[list[Any], Recorded]]:
        seen: Recorded = {}
        program = params["jaxpr"]
        out = _evaluate(
            program.jaxpr, program.consts, [*constants, *carry, *slices], sites, prefix, seen
        )
        return out[: len(carry)], (out[len(carry) :], seen)

    carry, (stacks, seen) = jax.lax.scan(
        step, list(start), list(stacked), length=params["length"], reverse=params["reverse"]
    )
    recorded.update(seen)
    return [*carry, *stacks]
