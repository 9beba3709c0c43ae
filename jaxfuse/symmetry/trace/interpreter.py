"""Run a program on structures of axes in place of arrays."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax.extend import core

from jaxfuse.symmetry.trace.array import Array, constant
from jaxfuse.symmetry.trace.factor import (
    Axis,
    Factor,
    atoms,
    axis_size,
    collapse,
    find,
    holds,
    resolve,
)
from jaxfuse.symmetry.trace.registry import (
    KEEP_HISTORY,
    KEEP_POINTERS,
    Role,
    Rule,
    Site,
    read_pointers,
)
from jaxfuse.symmetry.trace.rules import RULES


class UnknownPrimitiveWarning(UserWarning):
    """An operation has no rule, so the axes that it touches were pinned."""


class Interpreter:
    """One pass over a program.

    Attributes:
        enumerated: places whose axes are taken apart entry by entry from the start.
        wanted: such places that this pass found.
        seen: every array that was met.
        computed: per parameter the axes whose units an operation computes from data.
        activations: where in the program, and whether a layer takes or computes it.
        windows: the atoms of the windows of convolutions.
        met: axes that an operation goes over together.
        devices: the devices around the present operation, by the name of their axis.
        stacks: the axes of the scans around the present operation, outermost first.
        unknown: primitives without a rule.
    """

    def __init__(self, rules: Mapping[str, Rule], enumerated: set[object]) -> None:
        self.rules = {**RULES, **rules}
        self.own = frozenset(rules)
        self.enumerated = enumerated
        self.wanted: set[object] = set()
        self.seen: list[Array] = []
        self.computed: dict[str, list[Axis]] = {}
        self.windows: list[Axis] = []
        self.activations: dict[tuple[str, Role], tuple[Axis, ...]] = {}
        self.met: list[Array] = []
        self.stacks: list[Axis] = []
        self.devices: dict[str, Factor] = {}
        self._ghosts: frozenset[Factor] = frozenset()
        self.unknown: dict[str, None] = {}

    def computes(self, leaves: frozenset[str], units: Sequence[Axis]) -> None:
        """Note the axes of parameters whose units an operation computes."""
        for leaf in sorted(leaves):
            self.computed.setdefault(leaf, []).extend(units)

    def meets(self, *axes: Axis) -> None:
        """Note the axes that an operation goes over together: what meets on two is no index."""
        self.met.append(Array(axes, ghosts=self._ghosts))

    def passes(self, role: Role, site: str | None, axes: Sequence[Axis]) -> None:
        """Note an activation, unless it lies in a branch or a loop of unknown length."""
        if site is not None and site.replace(".", "").replace(":", "").isdigit():
            self.activations.setdefault((site, role), (*self.stacks, *axes))

    def taps(self, axes: Sequence[Axis]) -> None:
        """Note axes that are the window of a convolution."""
        self.windows += axes

    def run(
        self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Array], key: str
    ) -> list[Array]:
        """Trace a program and return its outputs."""
        known: dict[Any, Array] = {}
        for variable, value in zip(jaxpr.constvars, constants, strict=True):
            known[variable] = constant(value)
            self.seen.append(known[variable])
        known.update(zip(jaxpr.invars, inputs, strict=True))
        for number, equation in enumerate(jaxpr.eqns):
            operands = tuple(self._read(known, atom) for atom in equation.invars)
            results = self._apply(equation, operands, f"{key}{number}")
            known.update(zip(equation.outvars, results, strict=True))
        return [self._read(known, atom) for atom in jaxpr.outvars]

    def _read(self, known: Mapping[Any, Array], atom: Any) -> Array:
        return constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

    def _apply(self, equation: Any, operands: tuple[Array, ...], key: str) -> list[Array]:
        name = equation.primitive.name
        shapes = tuple(tuple(variable.aval.shape) for variable in equation.outvars)
        floating = tuple(_is_floating(atom.aval) for atom in equation.invars)
        site = Site(name, equation.params, operands, floating, shapes, key, self)
        self._ghosts = frozenset().union(*(operand.ghosts for operand in operands))
        rule = self.rules.get(name)
        if rule is None or (name not in KEEP_POINTERS or name in self.own):
            read_pointers(operands)
        if rule is None:
            self.unknown.setdefault(name)
            found = site.opaque(f"operation {name!r} has no rule")
        else:
            found = rule(site)
        results = [found] if isinstance(found, Array) else list(found or ())
        _check_shapes(site, results)
        if name not in KEEP_HISTORY or name in self.own:
            results = [
                _with_history(array, operands, f"{key}:{number}" if len(results) > 1 else key)
                for number, array in enumerate(results)
            ]
            self._note_new(operands, results)
        for array in results:
            settle(array)
        self.seen += results
        return results

    def _note_new(self, operands: Sequence[Array], results: Sequence[Array]) -> None:
        """Note axes that came to be: an operation that makes one may combine what lies along it."""
        known = {atom for operand in operands for axis in operand.axes for atom in atoms(axis)}
        new = [
            axis
            for array in results
            for axis in array.axes
            if any(atom not in known for atom in atoms(axis))
        ]
        if new:
            for operand in operands:
                self.meets(*operand.axes, *new)


def _is_floating(aval: Any) -> bool:
    return hasattr(aval, "dtype") and bool(jnp.issubdtype(aval.dtype, jnp.floating))


def _check_shapes(site: Site, results: Sequence[Array]) -> None:
    if len(results) != len(site.shapes):
        raise ValueError(
            f"the rule of primitive {site.primitive!r} returned {len(results)} arrays, and it has "
            f"{len(site.shapes)} results: return an Array for each"
        )
    for array, shape in zip(results, site.shapes, strict=True):
        if tuple(axis_size(axis) for axis in array.axes) != shape:
            raise ValueError(
                f"the rule of primitive {site.primitive!r} returned axes of sizes {array.shape}, "
                f"and its result has shape {shape}: every axis must be described"
            )


def _with_history(array: Array, operands: Sequence[Array], key: str) -> Array:
    return replace(
        array,
        site=key,
        ghosts=frozenset().union(*(operand.ghosts for operand in operands)),
        leaves=frozenset().union(*(operand.leaves for operand in operands)),
        data=any(operand.data for operand in operands),
    )


def settle(array: Array) -> bool:
    """Make families one whose index is not told by the axes of the array; say if there were any.

    The index is an axis, or a factor of one, or a ghost. Where it lies on several axes, a family
    belongs to the one on its own axis.
    """
    settled = False
    for axis in array.axes:
        for factor in resolve(axis):
            if not isinstance(factor, Factor) or factor.kind != "family" or factor.link is not None:
                continue
            assert factor.index is not None
            index = find(factor.index)
            if holds(axis, index):
                continue
            places = sum(holds(other, index) for other in array.axes)
            ghost = any(holds((other,), index) for other in array.ghosts)
            if places + ghost != 1:
                collapse(factor)
                settled = True
    return settled


def settle_all(arrays: Sequence[Array]) -> None:
    """Settle the families of all arrays: what was tied later may have brought some to others."""
    while sum(settle(array) for array in arrays):
        pass


def warn_unknown(names: Sequence[str]) -> None:
    """Tell which operations had no rule."""
    if names:
        warnings.warn(
            f"no rule for {', '.join(map(repr, names))}: the axes that "
            f"{'they touch' if len(names) > 1 else 'it touches'} were pinned. Say how axes pass "
            "with jaxfuse.symmetry.register_rule, or with rules= of infer_symmetry",
            UnknownPrimitiveWarning,
            stacklevel=3,
        )
