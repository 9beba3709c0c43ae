"""Compute a network's outputs in float64, again and again with other parameters."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import canonicalize_dtype as canonical
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxfuse.status import is_concrete
from jaxfuse.symmetry.tree import is_weight, named_leaves

PyTree = Any

# Calls whose body has the arguments of the call, one for one and once.
_CALLS = frozenset(
    ("jit", "pjit", "closed_call", "core_call", "checkpoint", "custom_jvp_call", "custom_vjp_call")
)
# Outputs smaller than this share of the largest are measured against it: a sum that cancels is
# all rounding.
_FLOOR = 1e-2


class Evaluation:
    """A function of parameters, compiled once, and its outputs for the given ones.

    Floating leaves and inputs are cast to float64, so that rounding hides nothing. A function that
    can't take them is computed in its own dtypes.

    Attributes:
        leaves: the leaves by path; the real ones are float64 NumPy arrays.
        reference: the outputs for these leaves.
        tolerance: the largest relative change that counts as rounding: `eps ** 0.55` for the
            coarsest dtype that the computation rounds to, 2e-9 for float64 and 2e-4 for float32.
    """

    def __init__(
        self,
        apply_fn: Callable[..., PyTree],
        params: PyTree,
        inputs: tuple[Any, ...],
        revise: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        """Compile the function.

        Args:
            apply_fn: `apply_fn(params, *inputs) -> outputs`.
            params: the parameters.
            inputs: what follows them.
            revise: maps the leaves to those that the reference is computed with.

        Raises:
            ValueError: if no leaf is an array of real numbers, and if the function returns no
                array.
        """
        given = named_leaves(params)
        self._dtypes = {path: leaf.dtype for path, leaf in given.items() if is_weight(leaf)}
        if not self._dtypes:
            raise ValueError("the parameters hold no array of real numbers: nothing to verify")
        self.leaves = revise(
            {
                path: np.asarray(leaf, np.float64) if path in self._dtypes else leaf
                for path, leaf in given.items()
            }
        )
        self._structure = jax.tree.structure(params)
        self._apply_fn, self._inputs = apply_fn, inputs
        try:
            self._compile(wide=True)
        except Exception:  # a function may insist on float32, as a scan with such a carry does
            self._compile(wide=False)
        if not self.reference:
            raise ValueError("the function returns no array: return the outputs of the network")

    @property
    def paths(self) -> tuple[str, ...]:
        """The leaves that can be changed: the arrays of real numbers."""
        return tuple(self._dtypes)

    @property
    def is_discrete(self) -> bool:
        """Whether all outputs are integers, which a small change of the weights may not reach."""
        return not any(jnp.issubdtype(out.dtype, jnp.inexact) for out in self.reference)

    def outputs(self, leaves: Mapping[str, Any]) -> list[np.ndarray]:
        """Compute the outputs for other leaves of the same shapes."""
        with self._precision():
            weights = [
                on_device
                if leaves[path] is self.leaves[path]
                else jnp.asarray(leaves[path], on_device.dtype)
                for path, on_device in self._uploaded.items()
            ]
            return [np.asarray(out) for out in self._compiled(weights, self._arrays)]

    def change(self, leaves: Mapping[str, Any]) -> float:
        """Return the largest change of an output relative to the largest output of its array.

        Integers and booleans count as 1 where one of them differs. NaN if an output is NaN.
        """
        outputs = self.outputs(leaves)
        sizes = [_size(out) for out in self.reference]
        floor = _FLOOR * max(sizes, default=0.0)
        changes = [
            _distance(new, old) / max(size, floor, np.finfo(np.float64).tiny)
            if jnp.issubdtype(old.dtype, jnp.inexact)
            else float(not np.array_equal(new, old))
            for new, old, size in zip(outputs, self.reference, sizes, strict=True)
        ]
        return float(np.max(changes)) if changes else 0.0

    def _precision(self) -> AbstractContextManager[Any]:
        return jax.enable_x64(True) if self._wide else nullcontext()

    def _compile(self, wide: bool) -> None:
        self._wide = wide
        flat, structure = jax.tree.flatten(self._inputs)
        is_array = [isinstance(leaf, (jax.Array, np.ndarray)) for leaf in flat]
        paths = list(self._dtypes)

        def outputs_of(weights: Sequence[jax.Array], arrays: Sequence[jax.Array]) -> list[Any]:
            complete = {**self.leaves, **dict(zip(paths, weights, strict=True))}
            supply = iter(arrays)
            inputs = [
                next(supply) if dynamic else leaf
                for dynamic, leaf in zip(is_array, flat, strict=True)
            ]
            tree = jax.tree.unflatten(self._structure, list(complete.values()))
            return jax.tree.leaves(self._apply_fn(tree, *jax.tree.unflatten(structure, inputs)))

        with self._precision(), jax.default_matmul_precision("highest"):
            arrays = [leaf for dynamic, leaf in zip(is_array, flat, strict=True) if dynamic]
            self._arrays = [_widen(leaf) if wide else jnp.asarray(leaf) for leaf in arrays]
            self._uploaded = {
                path: jnp.asarray(self.leaves[path], np.float64 if wide else canonical(dtype))
                for path, dtype in self._dtypes.items()
            }
            traced = jax.jit(outputs_of).trace(list(self._uploaded.values()), self._arrays)
            self._compiled = traced.lower().compile()
        self.tolerance = _coarsest(traced.jaxpr.jaxpr, len(paths)) ** 0.55
        self.reference = self.outputs(self.leaves)


def require_values(name: str, tree: PyTree) -> None:
    """Refuse leaves that have no values yet.

    Args:
        name: what to call the tree in the message.
        tree: the parameters or the inputs.

    Raises:
        ValueError: for a shape and for a traced array, with the path of the leaf.
    """
    for path, leaf in named_leaves(tree).items():
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(
                f"leaf {path!r} of {name} is a shape without values, which can't be verified: "
                "pass initialised arrays (infer_symmetry alone is content with shapes)"
            )
        if not is_concrete(leaf):
            raise ValueError(
                f"leaf {path!r} of {name} is traced: verify looks at values, so call it outside "
                "of jit, vmap and grad"
            )


def _widen(leaf: Any) -> jax.Array:
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(leaf, np.float64) if floating else jnp.asarray(leaf)


def _size(out: np.ndarray) -> float:
    if not jnp.issubdtype(out.dtype, jnp.inexact):
        return 0.0
    absolute = np.abs(_comparable(out))
    return float(np.max(absolute, initial=0.0, where=np.isfinite(absolute)))


def _distance(new: np.ndarray, old: np.ndarray) -> float:
    """Return the largest difference, equal infinities (of masked logits) being none."""
    new, old = _comparable(new), _comparable(old)
    with np.errstate(invalid="ignore"):
        return float(np.max(np.where(new == old, 0.0, np.abs(new - old)), initial=0.0))


def _comparable(out: np.ndarray) -> np.ndarray:
    return out.astype(np.complex128 if np.iscomplexobj(out) else np.float64)


def _coarsest(jaxpr: Jaxpr, weights: int) -> float:
    """Return the largest eps among the values computed from the first arguments."""
    tainted = [index < weights for index in range(len(jaxpr.invars))]
    return max(_epsilons(jaxpr, tainted), default=float(jnp.finfo(jnp.float64).eps))


def _epsilons(jaxpr: Jaxpr, tainted: Sequence[bool]) -> Iterator[float]:
    reached = {var for var, dirty in zip(jaxpr.invars, tainted, strict=True) if dirty}
    for var in reached:
        yield from _epsilon(var)
    for equation in jaxpr.eqns:
        dirty = [not isinstance(v, Literal) and v in reached for v in equation.invars]
        if not any(dirty):
            continue
        reached.update(equation.outvars)
        for var in equation.outvars:
            yield from _epsilon(var)
        for body in _bodies(equation.params.values()):
            # A loop's carry is reached in its second turn at the latest.
            matching = equation.primitive.name in _CALLS and len(body.invars) == len(dirty)
            yield from _epsilons(body, dirty if matching else [True] * len(body.invars))


def _epsilon(var: Any) -> Iterator[float]:
    dtype = getattr(var.aval, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jnp.inexact):
        yield float(jnp.finfo(dtype).eps)


def _bodies(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _bodies(value)
