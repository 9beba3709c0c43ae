"""Run a program on structures of axes in place of arrays."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jax.extend import core

from jaxfuse.symmetry.trace import rules as _rules
from jaxfuse.symmetry.trace.array import Array, constant
from jaxfuse.symmetry.trace.factor import (
    Axis,
    Factor,
    axis_size,
    collapse,
    find,
    pin,
    resolve,
)
from jaxfuse.symmetry.trace.registry import KEEP_HISTORY, KEEP_POINTERS, RULES, Role, Rule, Site

__all__ = ["Interpreter", "UnknownPrimitiveWarning"]
assert _rules.__all__


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
        self.stacks: list[Axis] = []
        self.unknown: dict[str, None] = {}

    def computes(self, leaves: frozenset[str], units: Sequence[Axis]) -> None:
        """Note the axes of parameters whose units an operation computes."""
        for leaf in sorted(leaves):
            self.computed.setdefault(leaf, []).extend(units)

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
        site = Site(name, equation.params, operands, shapes, key, self)
        rule = self.rules.get(name)
        if rule is None or (name not in KEEP_POINTERS or name in self.own):
            for array in operands:
                if array.points is not None:
                    pin(array.points, "its positions are used as numbers")
        if rule is None:
            self.unknown.setdefault(name)
            found = site.opaque(f"operation {name!r} has no rule")
        else:
            found = rule(site)
        results = [found] if isinstance(found, Array) else list(found)
        _check_shapes(site, results)
        if name not in KEEP_HISTORY or name in self.own:
            results = [
                _with_history(array, operands, f"{key}:{number}" if len(results) > 1 else key)
                for number, array in enumerate(results)
            ]
        for array in results:
            _settle(array)
        self.seen += results
        return results


def _check_shapes(site: Site, results: Sequence[Array]) -> None:
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


def _settle(array: Array) -> None:
    """Make families one whose index is no axis of the array any more."""
    families = [
        factor
        for axis in array.axes
        for factor in resolve(axis)
        if isinstance(factor, Factor) and factor.kind == "family"
    ]
    if not families:
        return
    present = {
        id(factor)
        for axis in (*array.axes, tuple(array.ghosts))
        for factor in resolve(axis)
        if isinstance(factor, Factor)
    }
    for factor in families:
        gone = factor.index is not None and id(find(factor.index)) not in present
        if gone and factor.link is None:
            collapse(factor)


def warn_unknown(names: Sequence[str]) -> None:
    """Tell which operations had no rule."""
    if names:
        warnings.warn(
            f"no rule for {', '.join(map(repr, names))}: the axes that "
            f"{'they touch' if len(names) > 1 else 'it touches'} were pinned. Say how axes pass "
            "with jaxfuse.symmetry.register_rule, or with rules= of infer_symmetry",
            UnknownPrimitiveWarning,
            stacklevel=4,
        )
