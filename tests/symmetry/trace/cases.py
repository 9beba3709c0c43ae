"""A function, its parameters and inputs, and the groups that should be found; and the check."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxfuse.symmetry import Symmetry, infer_symmetry
from tests.oracles.symmetry import Function, missed, soundness

ROUNDING = 1e-9


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers in float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A leaf of random numbers for every shape."""
    return {name: normal(*shape, seed=n + 1) for n, (name, shape) in enumerate(shapes.items())}


@dataclasses.dataclass
class Case:
    """One program with a known symmetry.

    Attributes:
        name: of the test.
        function: `function(params, *inputs)`.
        params: the parameters, or the shapes to draw them in.
        inputs: the inputs, or the shapes of random ones.
        groups: the groups that should be found: name and size; None where being right is enough,
            because more could be found than is.
        over: what they should be indexed by.
        complete: whether no two entries of a pinned axis may change places unnoticed.
    """

    name: str
    function: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    groups: Mapping[str, int] | None
    over: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    complete: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.params, dict) and all(_is_shape(v) for v in self.params.values()):
            self.params = weights(**self.params)
        self.inputs = tuple(
            normal(*value, seed=100 + n) if _is_shape(value) else value
            for n, value in enumerate(self.inputs)
        )


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(size, int) for size in value)


def table(*cases: Case) -> dict[str, Any]:
    """Arguments of `pytest.mark.parametrize` for cases."""
    return {"argnames": "case", "argvalues": cases, "ids": [case.name for case in cases]}


def check(case: Case) -> Symmetry:
    """Infer the symmetry of a case, and compare and prove it."""
    symmetry = infer_symmetry(case.function, case.params, *case.inputs)
    complete = case.complete and case.groups is not None
    prove(symmetry, case.function, case.params, case.inputs, complete=complete)
    if case.groups is not None:
        assert symmetry.groups == dict(case.groups)
        assert dict(symmetry.over) == dict(case.over)
    return symmetry


def prove(
    symmetry: Symmetry,
    function: Callable[..., Any],
    params: Any,
    inputs: tuple[Any, ...],
    *,
    complete: bool = False,
) -> None:
    """Show that a symmetry changes nothing, and that its pinned axes can't be moved."""
    well_formed(symmetry, params)
    compiled = Function(function, params, inputs)
    assert soundness(compiled, params, symmetry) < ROUNDING, symmetry.table()
    if complete:
        assert missed(compiled, params, symmetry) == [], symmetry.table()


def well_formed(symmetry: Symmetry, params: Any) -> None:
    """Check what a symmetry says against the parameters and against itself."""
    symmetry.check(params)
    sizes = symmetry.groups
    pinned = {name: size for name, size, _ in symmetry.pinned}
    assert not set(sizes) & set(pinned)
    assert all(type(size) is int and size > 1 for size in (*sizes.values(), *pinned.values()))
    assert all(name for name in (*sizes, *pinned))
    assert all(reason for _, _, reason in symmetry.pinned)
    carried: dict[str, int] = {}
    for tensor in symmetry.tensors:
        for size, group, pin in zip(tensor.shape, tensor.groups, tensor.pins, strict=True):
            assert group is None or pin is None
            assert size == 1 or group is not None or pin is not None, tensor
            name = pin if group is None else group
            assert name is None or size == (sizes | pinned)[name], tensor
        blocks = carried.setdefault(tensor.path, 0)
        carried[tensor.path] = blocks + int(np.prod(tensor.shape))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in carried:
            assert carried[name] == np.size(leaf), f"the blocks of {name} do not make it up"
