"""Functions and modules: the ways to say what is traced."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

PyTree = Any


def as_function(
    function: Callable[..., PyTree] | PyTree, *args: PyTree
) -> tuple[Callable[..., PyTree], PyTree, tuple[PyTree, ...]]:
    """Bring a function, or a module, and its arguments to one form.

    Args:
        function: `apply_fn`; or a Flax NNX module, which is run in inference mode, or an Equinox
            module, or any other tree that can be called.
        *args: the parameters and the inputs of `apply_fn`, or the inputs of the module.

    Returns:
        `apply_fn`, its parameters, and its inputs.

    Raises:
        ValueError: if the first argument can't be called, or a function lacks its parameters.
    """
    if isinstance(function, nnx.Module):
        graph, random, state = nnx.split(function, nnx.RngState, ...)

        def apply_module(params: PyTree, *inputs: PyTree) -> PyTree:
            module = nnx.merge(graph, nnx.State(params), random)
            module.eval()
            return module(*inputs)  # pyright: ignore[reportCallIssue]

        return apply_module, nnx.to_pure_dict(state), args
    if type(function).__module__.startswith("flax.linen") or any(
        base.__module__ == "flax.linen.module" for base in type(function).__mro__
    ):
        raise ValueError(
            "a Linen module has no parameters of its own: pass module.apply, the variables and the "
            "inputs"
        )
    if not isinstance(function, jax.tree_util.Partial) and _holds_arrays(function):
        if not callable(function):
            raise ValueError(
                "the first argument is a tree that can't be called: pass the function first, then "
                "its parameters and inputs"
            )
        return lambda module, *inputs: module(*inputs), function, args
    if not callable(function):
        raise ValueError(f"infer_symmetry needs a function or a module, got {type(function)}")
    if not args:
        raise ValueError("pass the parameters, and the inputs, that the function is called with")
    return function, args[0], args[1:]


def _holds_arrays(tree: PyTree) -> bool:
    return any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(tree))
