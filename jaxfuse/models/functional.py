"""Flax NNX modules as pure functions of a plain dict of arrays."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from flax import nnx, traverse_util

Params = dict[str, Any]
"""Nested dict with string keys and arrays as its leaves."""


@dataclasses.dataclass(frozen=True)
class _ModuleFunction:
    """What both functions of a module know: its structure and the paths of its variables.

    Two modules of the same structure give functions that are equal and hash alike, so under `jit`
    with a static function they share one compiled program.
    """

    graphdef: nnx.GraphDef
    paths: tuple[tuple[Any, ...], ...]
    random: nnx.State = dataclasses.field(compare=False, repr=False)
    digest: int = dataclasses.field(compare=False, repr=False)

    def __hash__(self) -> int:
        return self.digest

    def module(self, params: Params) -> nnx.Module:
        """Build the module that holds the given arrays.

        Args:
            params: Nested dict as `functional` returns it.

        Returns:
            A new module.

        Raises:
            ValueError: Leaves are missing or unknown.
        """
        leaves = traverse_util.flatten_dict(params)
        named = {_names(path): path for path in self.paths}
        _check_paths(leaves.keys(), named.keys())
        state = traverse_util.unflatten_dict({named[name]: leaf for name, leaf in leaves.items()})
        return nnx.merge(self.graphdef, state, self.random)


@dataclasses.dataclass(frozen=True)
class InferenceFunction(_ModuleFunction):
    """Pure inference-mode function `(params, *inputs) -> outputs` of a module."""

    __hash__ = _ModuleFunction.__hash__

    def __call__(self, params: Params, *inputs: jax.Array) -> jax.Array:
        """Compute the module's output with running statistics and without dropout.

        Args:
            params: Nested dict as `functional` returns it.
            *inputs: Inputs of the module.

        Returns:
            Its output. Differentiable in `params` and the inputs.

        Raises:
            ValueError: Leaves of `params` are missing or unknown.
        """
        return self.module(params)(*inputs)  # pyright: ignore[reportCallIssue]


@dataclasses.dataclass(frozen=True)
class TrainingFunction(_ModuleFunction):
    """Pure training-mode function `(params, x) -> (logits, params)` of a module."""

    trainable: frozenset[tuple[str, ...]]

    __hash__ = _ModuleFunction.__hash__

    def __call__(self, params: Params, x: jax.Array) -> tuple[jax.Array, Params]:
        """Compute the module's output and its statistics after the batch.

        Args:
            params: Nested dict as `functional` returns it.
            x: Batch of inputs.

        Returns:
            The output, and `params` with new batch statistics.

        Raises:
            ValueError: Leaves of `params` are missing or unknown.
        """
        module = self.module(params)
        logits = module(x)  # pyright: ignore[reportCallIssue]
        _, _, state = nnx.split(module, nnx.RngState, ...)
        return logits, _string_keys(nnx.to_pure_dict(state))

    def split(self, params: Params) -> tuple[Params, Params]:
        """Separate what an optimiser moves from statistics.

        Args:
            params: Nested dict as `functional` returns it.

        Returns:
            The leaves that are `nnx.Param`, and the other leaves, as nested dicts.
        """
        leaves = traverse_util.flatten_dict(params)
        weights = {path: leaf for path, leaf in leaves.items() if path in self.trainable}
        others = {path: leaf for path, leaf in leaves.items() if path not in self.trainable}
        return traverse_util.unflatten_dict(weights), traverse_util.unflatten_dict(others)

    def merge(self, weights: Params, statistics: Params) -> Params:
        """Join what `split` separated.

        Args:
            weights: Nested dict of the trained leaves.
            statistics: Nested dict of the other leaves.

        Returns:
            One nested dict.
        """
        leaves = traverse_util.flatten_dict(weights) | traverse_util.flatten_dict(statistics)
        return traverse_util.unflatten_dict(dict(sorted(leaves.items())))


def functional(module: nnx.Module) -> tuple[InferenceFunction, Params]:
    """Turn a module into a pure inference-mode function and its parameters.

    Works for any NNX module that is called with arrays. The module itself is left as it is.

    Args:
        module: The module.

    Returns:
        `apply_fn` with `apply_fn(params, *inputs) -> outputs`, fit for `jit`, `vmap` and `grad`,
        hashable and equal for modules of one structure; and `params`, a nested dict of arrays with
        string keys (list indices too: `params["dense"]["0"]["kernel"]`), with running statistics
        (`nnx.BatchStat`) and without random state.

    Examples:
        >>> from jaxfuse.models.mlp import MLP
        >>> apply_fn, params = functional(MLP(4, 2, hidden=(3,), rngs=nnx.Rngs(0)))
        >>> jax.tree.map(jax.numpy.shape, params)
        {'dense': {'0': {'kernel': (4, 3)}, '1': {'kernel': (3, 2)}}}
        >>> jax.jit(apply_fn)(params, jax.numpy.zeros((5, 4))).shape
        (5, 2)
    """
    module = nnx.clone(module)
    module.eval()
    graphdef, random, state = nnx.split(module, nnx.RngState, ...)
    paths = tuple(path for path, _ in nnx.to_flat_state(state))
    params = _string_keys(nnx.to_pure_dict(state))
    return InferenceFunction(graphdef, paths, random, hash((graphdef, paths))), params


def training_function(module: nnx.Module) -> TrainingFunction:
    """Turn a module into a pure training-mode function of the parameters of `functional`.

    Args:
        module: The module. It is left as it is.

    Returns:
        A function `(params, x) -> (logits, params)` that updates batch statistics, hashable and
        equal for modules of one structure.

    Raises:
        ValueError: The module draws random numbers (dropout), which a pure function of parameters
            and input cannot.

    Examples:
        >>> from jaxfuse.models.mlp import MLP
        >>> module = MLP(4, 2, hidden=(3,), norm="batch", rngs=nnx.Rngs(0))
        >>> forward, (_, params) = training_function(module), functional(module)
        >>> logits, updated = forward(params, jax.numpy.ones((5, 4)))
        >>> bool((updated["norm"]["0"]["mean"] != params["norm"]["0"]["mean"]).all())
        True
        >>> sorted(forward.split(params)[1]["norm"]["0"])
        ['mean', 'var']
    """
    module = nnx.clone(module)
    module.train()
    graphdef, random, state = nnx.split(module, nnx.RngState, ...)
    if jax.tree.leaves(random):
        raise ValueError(
            "the module holds random state (dropout or its own nnx.Rngs), which training does not "
            "advance: build it without dropout"
        )
    variables = nnx.to_flat_state(state)
    trainable = frozenset(_names(path) for path, leaf in variables if isinstance(leaf, nnx.Param))
    paths = tuple(path for path, _ in variables)
    return TrainingFunction(graphdef, paths, random, hash((graphdef, paths)), trainable)


def with_params(module: nnx.Module, params: Params) -> nnx.Module:
    """Return a copy of a module that holds other parameters.

    Args:
        module: The module. It is left as it is.
        params: Nested dict as `functional` returns it.

    Returns:
        The new module, in inference mode.

    Raises:
        ValueError: Leaves of `params` are missing or unknown.

    Examples:
        >>> from jaxfuse.models.mlp import MLP
        >>> module = MLP(4, 2, rngs=nnx.Rngs(0))
        >>> _, params = functional(module)
        >>> zero = with_params(module, jax.tree.map(jax.numpy.zeros_like, params))
        >>> float(zero(jax.numpy.ones((1, 4))).sum())
        0.0
    """
    return functional(module)[0].module(params)


def _names(path: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(part) for part in path)


def _string_keys(tree: Mapping[Any, Any]) -> Params:
    return {
        str(key): _string_keys(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
    }


def _check_paths(got: Iterable[tuple[str, ...]], wanted: Iterable[tuple[str, ...]]) -> None:
    missing = sorted("/".join(path) for path in set(wanted) - set(got))
    unknown = sorted("/".join(path) for path in set(got) - set(wanted))
    if missing or unknown:
        raise ValueError(
            f"params do not fit the module: missing {missing or 'nothing'}, unknown "
            f"{unknown or 'nothing'}; use the params of functional() for the same module"
        )
