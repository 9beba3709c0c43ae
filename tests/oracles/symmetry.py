"""Elements of a symmetry applied to parameters by plain indexing in float64 NumPy."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxfuse.symmetry import Symmetry, TensorAxes


def draw(symmetry: Symmetry, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random permutations of every group, one for each entry of what it is indexed by."""
    sizes = dict(symmetry.sizes) | {name: size for name, size, _ in symmetry.pinned}
    contexts = dict(symmetry.over)
    element = {}
    for group, size in symmetry.sizes:
        shape = tuple(sizes[name] for name in contexts.get(group, ()))
        rows = [rng.permutation(size) for _ in range(int(np.prod(shape, dtype=int)))]
        element[group] = np.array(rows).reshape(*shape, size)
    return element


def move(params: Any, symmetry: Symmetry, element: dict[str, np.ndarray]) -> Any:
    """Apply an element of the group to every leaf.

    Fails where two blocks claim one entry of a leaf, and where a group lies on a block without
    what it is indexed by.
    """
    contexts = dict(symmetry.over)

    def source(tensor: TensorAxes) -> tuple[np.ndarray, ...]:
        names = [
            group if group is not None else pin
            for group, pin in zip(
                tensor.groups, tensor.pins or (None,) * len(tensor.groups), strict=True
            )
        ]
        grid = np.indices(tensor.shape)
        result = []
        for axis, group in enumerate(tensor.groups):
            if group is None or group not in element:
                result.append(grid[axis])
                continue
            where = []
            for context in contexts.get(group, ()):
                assert names.count(context) == 1, (tensor, group, context)
                where.append(grid[names.index(context)])
            result.append(element[group][(*where, grid[axis])])
        return tuple(result)

    return _rewrite(params, symmetry, source)


def swap(params: Any, symmetry: Symmetry, pinned: str, pair: tuple[int, int]) -> Any:
    """Exchange two entries of a pinned axis wherever it occurs."""
    first, second = pair

    def source(tensor: TensorAxes) -> tuple[np.ndarray, ...]:
        grid = np.indices(tensor.shape)
        for axis, name in enumerate(tensor.pins):
            if name == pinned:
                entries = grid[axis].copy()
                grid[axis][entries == first] = second
                grid[axis][entries == second] = first
        return tuple(grid)

    return _rewrite(params, symmetry, source)


def _rewrite(
    params: Any, symmetry: Symmetry, source: Callable[[TensorAxes], tuple[np.ndarray, ...]]
) -> Any:
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    old = {_name(path): leaf for path, leaf in paths}
    new, owners = {}, {}
    for tensor in symmetry.tensors:
        leaf = np.asarray(old[tensor.path])
        if tensor.path not in new:
            new[tensor.path] = leaf.copy()
            owners[tensor.path] = np.zeros(leaf.shape, int)
        block = np.ix_(*_entries(tensor, leaf.shape))
        taken = leaf[block]
        view = taken.reshape(tensor.shape)
        new[tensor.path][block] = view[source(tensor)].reshape(taken.shape)
        owners[tensor.path][block] += 1
    for path, count in owners.items():
        assert count.max(initial=0) <= 1, f"two blocks claim one entry of {path}"
    return jax.tree.unflatten(structure, [new.get(_name(p), leaf) for p, leaf in paths])


def _name(path: Any) -> str:
    keys = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
    if len(keys) > 1 and keys[-1] in ("value", "raw_value"):
        keys = keys[:-1]
    return "/".join(keys)


def _entries(tensor: TensorAxes, shape: tuple[int, ...]) -> list[np.ndarray]:
    runs = tensor.index or (None,) * len(shape)
    return [
        np.arange(size)
        if of_axis is None
        else np.array([start + step * k for start, count, step in of_axis for k in range(count)])
        for size, of_axis in zip(shape, runs, strict=True)
    ]


class Function:
    """Outputs of a function in float64, compiled once for parameters of one structure.

    Leaves that are no arrays of floats, and inputs, are constants of the program.
    """

    def __init__(self, apply_fn: Callable[..., Any], params: Any, inputs: tuple[Any, ...]) -> None:
        leaves, structure = jax.tree.flatten(params)
        self.slots = [number for number, leaf in enumerate(leaves) if _is_floating(leaf)]
        arguments = jax.tree.map(lambda x: np.asarray(x, float) if _is_floating(x) else x, inputs)

        def outputs(weights: list[jax.Array]) -> list[jax.Array]:
            complete = list(leaves)
            for slot, weight in zip(self.slots, weights, strict=True):
                complete[slot] = weight
            everything = jax.tree.map(
                lambda x: jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x,
                (jax.tree.unflatten(structure, complete), arguments),
            )
            return jax.tree.leaves(apply_fn(everything[0], *everything[1]))

        self.compiled = jax.jit(outputs, compiler_options={"xla_backend_optimization_level": "0"})
        self.reference = self(params)

    def __call__(self, params: Any) -> list[np.ndarray]:
        leaves = jax.tree.leaves(params)
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            weights = [jax.numpy.asarray(leaves[slot], np.float64) for slot in self.slots]
            return [np.asarray(out) for out in self.compiled(weights)]

    def change(self, params: Any) -> float:
        """Return the largest difference of an output, relative to the largest entry of its array.

        Integers and booleans count as 1 where one of them differs.
        """
        return max(
            (_difference(new, old) for new, old in zip(self(params), self.reference, strict=True)),
            default=0.0,
        )


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, (np.ndarray, jax.Array)) and jax.numpy.issubdtype(
        leaf.dtype, np.floating
    )


def _difference(new: np.ndarray, old: np.ndarray) -> float:
    if not jax.numpy.issubdtype(old.dtype, np.inexact):
        return float(not np.array_equal(new, old))
    assert np.all(np.isfinite(old)), "the reference is not finite"
    return float(np.max(np.abs(new - old), initial=0) / max(np.max(np.abs(old), initial=0), 1e-300))


def soundness(
    function: Function, params: Any, symmetry: Symmetry, *, draws: int = 3, seed: int = 0
) -> float:
    """Return the largest change of the outputs under random elements of the whole group."""
    rng = np.random.default_rng(seed)
    moved = (move(params, symmetry, draw(symmetry, rng)) for _ in range(draws))
    return max(function.change(params) for params in moved)


def missed(
    function: Function, params: Any, symmetry: Symmetry, *, tolerance: float = 1e-9
) -> list[tuple[str, int, int]]:
    """Return the pairs of entries of pinned axes whose exchange changes nothing."""
    return [
        (name, *pair)
        for name, pair in _pairs(symmetry)
        if function.change(swap(params, symmetry, name, pair)) <= tolerance
    ]


def _pairs(symmetry: Symmetry) -> Iterator[tuple[str, tuple[int, int]]]:
    carried = {pin for tensor in symmetry.tensors for pin in tensor.pins}
    for name, size, _ in symmetry.pinned:
        if name in carried:
            for pair in itertools.combinations(range(size), 2):
                yield name, pair
