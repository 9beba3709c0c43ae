"""Run one program for several networks side by side, with a visitor at every layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxfuse.symmetry.axes import is_statistic
from jaxfuse.symmetry.trace.program import read_program
from jaxfuse.symmetry.trace.record import apply_equation
from jaxfuse.symmetry.tree import leaf_name, map_named, named_leaves

PyTree = Any
Named = dict[str, Any]
_LAYOUT = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose")
_CALLS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr"}


@dataclass(frozen=True)
class Place:
    """A leaf as an operand: how its axes lie on those of the operand.

    Attributes:
        path: the leaf.
        axes: per axis of the operand the axis of the leaf, or None.
    """

    path: str
    axes: tuple[int | None, ...]


@dataclass(frozen=True)
class Layer:
    """A product of data with a kernel, in all networks at once.

    Attributes:
        kernel: the leaf, and how it lies on the operand.
        kernel_shape: shape of the operand.
        primitive: "dot_general" or "conv_general_dilated".
        params: of the operation, as in the jaxpr.
        data_first: whether the data are the first operand.
        inputs: per network the data.
        outputs: per network the product.
    """

    kernel: Place
    kernel_shape: tuple[int, ...]
    primitive: str
    params: Mapping[str, Any] = field(repr=False)
    data_first: bool
    inputs: tuple[jax.Array, ...] = field(repr=False)
    outputs: tuple[jax.Array, ...] = field(repr=False)


@dataclass(frozen=True)
class Centring:
    """The subtraction of a running mean from data, in all networks at once.

    Attributes:
        mean: the leaf of the mean, and how it lies on the data.
        variance: the path of the variance beside it.
        inputs: per network the data.
        kernel: the path of the kernel that made the data, if nothing lies between.
    """

    mean: Place
    variance: str
    inputs: tuple[jax.Array, ...] = field(repr=False)
    kernel: str | None = None


@dataclass(frozen=True)
class Shift:
    """The sum of data and a leaf, such as a bias, in all networks at once.

    Attributes:
        bias: the leaf, and how it lies on the data.
        inputs: per network the data.
        kernel: the path of the kernel that made the data, if nothing lies between.
    """

    bias: Place
    inputs: tuple[jax.Array, ...] = field(repr=False)
    kernel: str | None = None


Event = Layer | Centring | Shift


class Visitor(Protocol):
    """Looks at the layers of a program as they come, and may change leaves from there on."""

    def visit(self, event: Event, leaves: Sequence[Named]) -> None:
        """See a layer; leaves that it changes in place count from this operation on."""
        ...


@dataclass(eq=False)
class _Late:
    """A value made of parameters alone, computed when data need it, from the leaves as they are."""

    compute: Callable[[Named], Any]
    place: Place | None = None


def replay(
    apply_fn: Callable[..., PyTree],
    params: Sequence[PyTree],
    inputs: tuple[PyTree, ...],
    visitor: Visitor,
) -> tuple[list[PyTree], list[PyTree]]:
    """Run networks of one architecture on one batch, operation by operation, side by side.

    At every product of data and a kernel, every subtraction of a running mean and every sum with a
    bias the visitor sees the data of all networks, and may put other leaves in place: the
    operation, and all that follow, then use them. Layers inside a loop or a branch are run and not
    shown.

    Args:
        apply_fn: `apply_fn(params, *inputs)`.
        params: trees of one structure and shapes.
        inputs: the batch.
        visitor: what is shown the layers.

    Returns:
        The outputs of every network, and their parameters as the visitor left them.

    Raises:
        ValueError: as `infer_symmetry`, for functions that can't be traced.

    Works under `jit`.
    """
    program = read_program(apply_fn, params[0], inputs)
    leaves = [dict(named_leaves(tree)) for tree in params]
    arguments = []
    for path, value in zip(program.paths, program.arguments, strict=True):
        if path is None:
            arguments.append((jnp.asarray(value),) * len(params))
        else:
            axes = tuple(range(np.ndim(value)))
            arguments.append(_Late(lambda own, path=path: own[path], Place(path, axes)))
    run = _Replay(leaves, visitor)
    flat = run.evaluate(program.closed.jaxpr, program.closed.consts, arguments)
    shape = jax.eval_shape(apply_fn, params[0], *inputs)
    structure = jax.tree.structure(shape)
    outputs = [
        jax.tree.unflatten(structure, [run.values(atom)[k] for atom in flat])
        for k in range(len(params))
    ]
    changed = [
        map_named(lambda path, leaf, own=own: own.get(path, leaf), tree)
        for tree, own in zip(params, leaves, strict=True)
    ]
    return outputs, changed


class _Replay:
    def __init__(self, leaves: list[Named], visitor: Visitor) -> None:
        self.leaves, self.visitor = leaves, visitor
        self.products: list[tuple[Any, str]] = []

    def values(self, known: Any) -> tuple[Any, ...]:
        """Return the value of an operand in every network."""
        if isinstance(known, _Late):
            return tuple(known.compute(own) for own in self.leaves)
        return known

    def evaluate(self, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        count = len(self.leaves)
        known: dict[Any, Any] = {
            var: _Late(lambda _, value=value: value)
            for var, value in zip(jaxpr.constvars, constants, strict=True)
        }
        known.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Any:
            if isinstance(atom, core.Literal):
                return _Late(lambda _, value=atom.val: value)
            return known[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            name = equation.primitive.name
            if name in _CALLS:
                program = equation.params[_CALLS[name]]
                inner = getattr(program, "jaxpr", program)
                results = self.evaluate(inner, getattr(program, "consts", ()), operands)
            elif all(isinstance(operand, _Late) for operand in operands):
                results = _later(jaxpr, equation, operands)
            else:
                product = self._show(jaxpr, equation, operands)
                values = [self.values(operand) for operand in operands]
                each = [
                    apply_equation(jaxpr, equation, [value[k] for value in values])
                    for k in range(count)
                ]
                results = [tuple(own[i] for own in each) for i in range(len(equation.outvars))]
                if product is not None:
                    self.products.append((results[0], product))
            known.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _show(self, jaxpr: Any, equation: Any, operands: Sequence[Any]) -> str | None:
        """Show the visitor an operation of data with one leaf; return the path of a kernel."""
        if len(operands) != 2 or sum(isinstance(operand, _Late) for operand in operands) != 1:
            return None
        first, second = operands
        data_first = isinstance(second, _Late)
        data, late = (first, second) if data_first else (second, first)
        name, place = equation.primitive.name, late.place
        if place is None:
            return None
        kernel = next((path for values, path in self.products if values is data), None)
        if name in ("dot_general", "conv_general_dilated"):
            values = [self.values(operand) for operand in operands]
            outputs = tuple(
                apply_equation(jaxpr, equation, [value[k] for value in values])[0]
                for k in range(len(self.leaves))
            )
            shape = tuple(equation.invars[1 if data_first else 0].aval.shape)
            layer = Layer(place, shape, name, equation.params, data_first, data, outputs)
            self.visitor.visit(layer, self.leaves)
            return place.path
        if name == "sub" and data_first and is_statistic(place.path):
            variance = _beside(place.path)
            if variance in self.leaves[0]:
                self.visitor.visit(Centring(place, variance, data, kernel), self.leaves)
        elif name == "add":
            self.visitor.visit(Shift(place, data, kernel), self.leaves)
        return None


def _beside(path: str) -> str:
    name = leaf_name(path)
    return path[: len(path) - len(name)] + name.replace("mean", "var")


def _later(jaxpr: Any, equation: Any, operands: Sequence[_Late]) -> list[_Late]:
    """Put off an operation on parameters alone."""

    def compute(own: Named, index: int) -> Any:
        return apply_equation(jaxpr, equation, [operand.compute(own) for operand in operands])[
            index
        ]

    place = _placed(equation, operands[0].place) if len(operands) == 1 else None
    return [
        _Late(lambda own, i=index: compute(own, i), place if len(equation.outvars) == 1 else None)
        for index in range(len(equation.outvars))
    ]


def _placed(equation: Any, place: Place | None) -> Place | None:
    """Follow the axes of a leaf through an operation that only lays them out anew."""
    name, params = equation.primitive.name, equation.params
    if place is None:
        return None
    if name in ("convert_element_type", "copy"):
        return place
    shape_in = equation.invars[0].aval.shape
    shape_out = equation.outvars[0].aval.shape
    if name == "transpose":
        return Place(place.path, tuple(place.axes[axis] for axis in params["permutation"]))
    if name == "broadcast_in_dim":
        axes: list[int | None] = [None] * len(shape_out)
        for axis, target in enumerate(params["broadcast_dimensions"]):
            if shape_in[axis] == shape_out[target]:
                axes[target] = place.axes[axis]
        return Place(place.path, tuple(axes))
    if name in _LAYOUT:
        kept = [axis for axis, size in enumerate(shape_in) if size != 1]
        places = [axis for axis, size in enumerate(shape_out) if size != 1]
        if [shape_in[axis] for axis in kept] != [shape_out[axis] for axis in places]:
            return None
        axes = [None] * len(shape_out)
        for source, target in zip(kept, places, strict=True):
            axes[target] = place.axes[source]
        return Place(place.path, tuple(axes))
    return None
