"""One rule per primitive, in a table that a user can extend."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from jaxfuse.symmetry.trace.array import Array
from jaxfuse.symmetry.trace.factor import Axis, Factor, Free, pin, pinned, resolve, tie

Role = Literal["input", "output"]


class Tracer(Protocol):
    """What a rule may ask of the interpreter."""

    enumerated: set[object]
    wanted: set[object]
    stacks: list[Axis]
    devices: dict[str, Factor]

    def run(self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Array], key: str) -> Any:
        """Trace another program and return its outputs."""
        ...

    def computes(self, leaves: frozenset[str], units: Sequence[Axis]) -> None:
        """Note the axes of parameters whose units an operation computes."""
        ...

    def meets(self, *axes: Axis) -> None:
        """Note the axes that an operation goes over together: what meets on two is no index."""
        ...

    def passes(self, role: Role, site: str | None, axes: Sequence[Axis]) -> None:
        """Note an activation: what a layer takes, or what it computes."""
        ...

    def taps(self, axes: Sequence[Axis]) -> None:
        """Note axes that are the window of a convolution."""
        ...


@dataclass(frozen=True)
class Site:
    """One operation of the program, as its rule sees it.

    Attributes:
        primitive: name of the primitive.
        params: its parameters, as in the jaxpr.
        inputs: what is known of the operands.
        floating: whether each operand is of real numbers, so that no two entries need be equal.
        shapes: shapes of the results.
        key: where in the program it is: numbers of operations, from the outermost program to the
            innermost, with points between them.
        tracer: the interpreter.
    """

    primitive: str
    params: Mapping[str, Any]
    inputs: tuple[Array, ...]
    floating: tuple[bool, ...]
    shapes: tuple[tuple[int, ...], ...]
    key: str
    tracer: Tracer

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.shapes[0]

    def fixed(self, reason: str, shape: tuple[int, ...] | None = None) -> Array:
        """Return a result whose axes can't be permuted."""
        return Array(tuple(pinned(n, reason) for n in (self.shape if shape is None else shape)))

    def opaque(self, reason: str) -> list[Array]:
        """Pin every axis of the operands and of the results."""
        for array in self.inputs:
            for axis in (*array.axes, tuple(array.ghosts)):
                pin(axis, reason)
        return [self.fixed(reason, shape) for shape in self.shapes]

    def ranked(self, operand: int, along: int) -> Axis | None:
        """Return the axis that ranks of an operand's values point at.

        Among equal values the first comes first, so of integers, and of an array that does not
        vary, ranks are positions, and the axis is pinned.
        """
        axis = self.inputs[operand].axes[along]
        free = any(isinstance(factor, Free) for factor in resolve(axis))
        if self.floating[operand] and not free:
            return axis
        pin(axis, "ties are broken by position")
        return None

    def want_entries(self, axis: Axis) -> None:
        """Ask for an axis to be taken apart entry by entry in the next pass."""
        factors = resolve(axis)
        if factors and isinstance(factors[0], Factor):
            head = factors[0]
            if head.kind == "atom" and head.origin is not None:
                self.tracer.wanted.add(head.origin)


Rule = Callable[[Site], Array | list[Array]]
RULES: dict[str, Rule] = {}
KEEP_POINTERS: set[str] = set()
"""Primitives whose rules know of values that are positions; others pin what is pointed at."""
KEEP_HISTORY: set[str] = set()
"""Primitives whose rules fill in the history of their results themselves."""


def register_rule(
    *primitives: str, pointers: bool = False, history: bool = False
) -> Callable[[Rule], Rule]:
    """Say how a primitive moves the axes of its operands to its results.

    Args:
        *primitives: names of the primitives, as they stand in a jaxpr.
        pointers: whether the rule looks at `Array.points` itself.
        history: whether the rule fills in `ghosts`, `leaves` and `data` of its results itself.

    Returns:
        A decorator for a function of one `Site` that returns an `Array` for each result. Inside,
        `tie(a, b)` says that two axes have one order, `pin(axis, reason)` that one can't be
        permuted; an axis that is handed on keeps its order, and `Site.fixed` makes results that
        can't be permuted.

    Examples:
        >>> from jaxfuse.symmetry.trace.factor import tie
        >>> @register_rule("my_gated_unit")
        ... def gated_unit(site):
        ...     gate, value = site.inputs
        ...     return value.at(*(tie(a, b) for a, b in zip(gate.axes, value.axes)))
        >>> _ = RULES.pop("my_gated_unit")
    """

    def add(rule: Rule) -> Rule:
        for primitive in primitives:
            RULES[primitive] = rule
            # A rule that replaces another does not inherit what that one took care of.
            for keep, own in ((KEEP_POINTERS, pointers), (KEEP_HISTORY, history)):
                (keep.add if own else keep.discard)(primitive)
        return rule

    return add


def tie_all(axes: Sequence[Axis]) -> Axis:
    """Tie several axes of one size."""
    result = axes[0]
    for axis in axes[1:]:
        result = tie(result, axis)
    return result


def read_pointers(arrays: Iterable[Array]) -> None:
    """Pin what arrays point at: the positions are used as numbers."""
    for array in arrays:
        if array.points is not None:
            pin(array.points, "entries are numbered")
