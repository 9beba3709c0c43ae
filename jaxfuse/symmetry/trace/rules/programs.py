"""Programs inside programs: jit, remat, custom derivatives, cond, while, scan, shard_map."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jax.extend import core

from jaxfuse.symmetry.trace.array import Array
from jaxfuse.symmetry.trace.factor import (
    Axis,
    Factor,
    as_factor,
    concrete,
    divide_axis,
    pin,
    tie,
)
from jaxfuse.symmetry.trace.registry import Site, read_pointers, register_rule, tie_all

_DEVICES = "devices"


@register_rule(
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "custom_lin",
    "custom_vmap_call",
    "run_state",
    pointers=True,
    history=True,
)
def call(site: Site) -> list[Array]:
    """Trace the function that is called; its derivatives don't matter."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        if name in site.params:
            return _run(site, site.params[name], site.inputs)
    return site.opaque(f"{site.primitive} without a program")


def _run(site: Site, program: Any, inputs: Sequence[Array], which: str = "") -> list[Array]:
    closed = isinstance(program, core.ClosedJaxpr)
    jaxpr, constants = (program.jaxpr, program.consts) if closed else (program, ())
    return site.tracer.run(jaxpr, constants, inputs, f"{site.key}.{which}")


@register_rule("cond", history=True)
def cond(site: Site) -> list[Array]:
    """Tie the results of the branches."""
    _, *operands = site.inputs
    outcomes = [
        _run(site, branch, operands, f"branch{number}.")
        for number, branch in enumerate(site.params["branches"])
    ]
    return [_merged(results) for results in zip(*outcomes, strict=True)]


def _merged(arrays: Sequence[Array]) -> Array:
    read_pointers(arrays)
    axes = tuple(tie_all(axes) for axes in zip(*(array.axes for array in arrays), strict=True))
    return replace(_history(arrays), axes=axes)


def _history(arrays: Sequence[Array]) -> Array:
    return Array(
        (),
        ghosts=frozenset().union(*(array.ghosts for array in arrays)),
        leaves=frozenset().union(*(array.leaves for array in arrays)),
        data=any(array.data for array in arrays),
    )


@register_rule("while", history=True)
def while_(site: Site) -> list[Array]:
    """Tie what goes round to what comes out of a round."""
    split = site.params["cond_nconsts"]
    middle = split + site.params["body_nconsts"]
    tests, constants, start = (
        site.inputs[:split],
        site.inputs[split:middle],
        site.inputs[middle:],
    )
    carry = _carried(start, site.inputs)
    _run(site, site.params["cond_jaxpr"], (*tests, *carry), "test.")
    out = _run(site, site.params["body_jaxpr"], (*constants, *carry), "body.")
    return [_merged(pair) for pair in zip(carry, out, strict=True)]


def _carried(start: Sequence[Array], everything: Sequence[Array]) -> list[Array]:
    """Describe what goes round: identity for every axis, and the history of all that goes in."""
    history = _history(everything)
    return [replace(history, axes=tuple(concrete(axis) for axis in array.axes)) for array in start]


@register_rule("scan", history=True)
def scan(site: Site) -> list[Array]:
    """Trace one step; stacked operands lend it the index of the stack.

    What a step takes from a stack may have an order of its own in every layer; what is carried
    from step to step has one order in all.
    """
    params = site.params
    first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
    constants, start, stacked = (
        site.inputs[:first],
        site.inputs[first:second],
        site.inputs[second:],
    )
    if params["length"] == 1:
        index: Axis = ()
    else:
        index = tie_all([array.axes[0] for array in stacked]) if stacked else ()
        index = concrete(index) if index else (Factor(params["length"]),)
    if start:
        pin(index, "steps of a scan")
    ghost = as_factor(index)
    slices = [
        replace(array, axes=array.axes[1:], ghosts=array.ghosts | {ghost}, points=None, value=None)
        for array in stacked
    ]
    carry = _carried(start, site.inputs)
    site.tracer.stacks.append(index)
    out = _run(site, params["jaxpr"], (*constants, *carry, *slices))
    site.tracer.stacks.pop()
    ends = [_without(_merged(pair), ghost) for pair in zip(carry, out[: len(carry)], strict=True)]
    read_pointers(out)
    stacks = [
        replace(_without(array, ghost), axes=(index, *array.axes), points=None, value=None)
        for array in out[len(carry) :]
    ]
    return [*ends, *stacks]


def _without(array: Array, ghost: Factor) -> Array:
    return replace(array, ghosts=array.ghosts - {ghost})


@register_rule("shard_map", history=True)
def shard_map(site: Site) -> list[Array]:
    """Trace the program of one device: the devices are an index of what is sharded over them."""
    mesh = dict(site.params["mesh"].shape)
    if any(size > 1 for size in mesh.values()):
        return _sharded(site, mesh)
    return _run(site, site.params["jaxpr"], site.inputs, "shard.")


def _sharded(site: Site, mesh: dict[str, int]) -> list[Array]:
    devices = {name: Factor(size, origin=(_DEVICES, name)) for name, size in mesh.items()}
    local = []
    for array, spec in zip(site.inputs, site.params["in_specs"], strict=True):
        axes, ghosts = list(array.axes), set(array.ghosts)
        for position, names in enumerate(spec):
            for name in _names(names):
                if mesh[name] == 1:
                    continue
                parts = divide_axis(axes[position], mesh[name])
                if parts is None:
                    return site.opaque("sharded across its structure")
                tie(parts[0], (devices[name],))
                axes[position] = parts[1]
                ghosts.add(devices[name])
        local.append(replace(array, axes=tuple(axes), ghosts=frozenset(ghosts)))
    around = dict(site.tracer.devices)
    site.tracer.devices.update(devices)
    out = _run(site, site.params["jaxpr"], local, "shard.")
    site.tracer.devices.clear()
    site.tracer.devices.update(around)
    read_pointers(out)
    results = []
    for array, spec in zip(out, site.params["out_specs"], strict=True):
        axes = list(array.axes)
        for position, names in enumerate(spec):
            outer = tuple(devices[name] for name in _names(names) if mesh[name] > 1)
            axes[position] = (*outer, *axes[position])
        ghosts = array.ghosts - set(devices.values())
        results.append(replace(array, axes=tuple(axes), ghosts=ghosts, points=None))
    return results


def _names(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    return tuple(entry) if isinstance(entry, tuple) else (entry,)


@register_rule("psum", "psum2", "psum_invariant", "pmax", "pmin", history=True)
def collective(site: Site) -> list[Array]:
    """Reduce over axes and devices: what each device had of its own has one order now."""
    over = site.params["axes"]
    gone = {(_DEVICES, name) for name in over}
    return [
        replace(
            array,
            axes=tuple(axis for i, axis in enumerate(array.axes) if i not in over),
            ghosts=frozenset(ghost for ghost in array.ghosts if ghost.origin not in gone),
        )
        for array in site.inputs
    ]


@register_rule("axis_index")
def axis_index(site: Site) -> Array:
    """Number the devices."""
    name = site.params["axis_name"]
    pin((site.tracer.devices[name],), "devices are numbered")
    return Array(())
