"""Align many pairs of networks at once, spread over devices and processes."""

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxfuse.affinity import Affinity
from jaxfuse.align.pair import Alignment, align_params
from jaxfuse.matching.problem import Backend
from jaxfuse.methods import AnyMethod
from jaxfuse.networks import ApplyFunction
from jaxfuse.status import is_concrete
from jaxfuse.symmetry import Symmetry
from jaxfuse.symmetry.tree import named_leaves

PyTree = Any


def align_pairs(
    params_a: PyTree,
    params_b: PyTree,
    *,
    mesh: Mesh | None = None,
    axis: str = "pairs",
    one_reference: bool = False,
    method: AnyMethod | str = "portfolio",
    symmetry: Symmetry | tuple[Symmetry, Symmetry] | None = None,
    affinity: Affinity | str = "linear",
    apply_fn: ApplyFunction | None = None,
    inputs: PyTree = None,
    targets: Any = None,
    activation_weight: float = 3.0,
    backend: Backend = "auto",
    key: jax.Array | None = None,
) -> Alignment:
    """Align a batch of pairs of networks, each device its share of them.

    `jax.vmap` of `align_params` under `jax.shard_map`: devices exchange nothing, so none waits for
    another. Where the devices do not divide the pairs, the last pair is repeated up to a multiple.
    Compiles once per model, number of pairs and settings; works under `jit` as `align_params`
    does. Alone, a pair finds the same matching up to rounding: the products of a batch round
    otherwise, which can decide between matchings of one similarity.

    With several processes (`jax.distributed.initialize`), the mesh has the devices of all, and
    every process makes the call with arrays over all of them, its own pairs in its own part: `leaf
    = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("pairs")), local)`.
    It finds its results in `leaf.addressable_shards`, or, where each has the same number of pairs
    on each of its devices, by `jax.experimental.multihost_utils.global_array_to_host_local_array`.

    Args:
        params_a: the references, every leaf `[pairs, ...]`; a tree of arrays.
        params_b: the networks to reorder, every leaf `[pairs, ...]`.
        mesh: whose devices share the pairs; by default all devices, at most one for each pair.
        axis: the axis of the mesh along which they do. Along others the work is repeated.
        one_reference: whether `params_a` is one network, without the first axis, to which all of
            `params_b` are aligned, as clients to a server.
        method: as in `align_params`.
        symmetry: as in `align_params`, of a single network.
        affinity: as in `align_params`.
        apply_fn: as in `align_params`.
        inputs: as in `align_params`; the same for all pairs.
        targets: as in `align_params`; the same for all pairs.
        activation_weight: as in `align_params`.
        backend: as in `align_params`.
        key: as in `align_params`; pair i gets `jax.random.split(key, pairs)[i]`.

    Returns:
        An `Alignment`, every array with a first axis for the pairs, laid out over the devices.
        `seconds` is that of the whole call. A pair with a weight that is NaN or infinite has the
        status NON_FINITE, outside jit too, and leaves the others as they are.

    Raises:
        ValueError: as `align_params` for what shapes tell, for leaves that do not agree on the
            number of pairs, for an axis that the mesh has not, for pairs that are no multiple of
            the devices of a mesh of explicit axes, and, on a mesh of several processes, for pairs
            that are not laid out over its devices.

    The permutations are not differentiable; gradients flow to B through the reordering.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> server = [jnp.arange(8.0).reshape(2, 4), jnp.arange(12.0).reshape(4, 3)]
        >>> orders = jnp.array([[3, 1, 0, 2], [1, 2, 3, 0], [0, 1, 2, 3]])
        >>> clients = [server[0][:, orders].transpose(1, 0, 2), server[1][orders]]
        >>> alignments = align_pairs(server, clients, one_reference=True)
        >>> bool((alignments.params[1] == server[1][None]).all())
        True
    """
    trees = {"params_b": params_b}
    if not one_reference:
        trees["params_a"] = params_a
    count = _count(trees)
    mesh = _mesh(mesh, axis, count)
    options = {
        "method": method,
        "symmetry": symmetry,
        "affinity": affinity,
        "apply_fn": apply_fn,
        "activation_weight": activation_weight,
        "backend": backend,
    }
    spread = functools.partial(
        _align,
        mesh=mesh,
        axis=axis,
        one_reference=one_reference,
        count=count,
        options=tuple(options.items()),
    )
    arguments = (params_a, params_b, inputs, targets, key)
    if not is_concrete(*jax.tree.leaves(arguments)):
        return spread(*arguments)
    started = time.perf_counter()
    if mesh.is_multi_process:
        _check_global(trees, mesh, axis)
    found = spread(*_place(arguments, mesh, axis, one_reference, count))
    jax.block_until_ready(found)
    return found._replace(seconds=time.perf_counter() - started)


@functools.partial(jax.jit, static_argnames=("mesh", "axis", "one_reference", "count", "options"))
def _align(
    params_a: PyTree,
    params_b: PyTree,
    inputs: PyTree,
    targets: Any,
    key: jax.Array | None,
    *,
    mesh: Mesh,
    axis: str,
    one_reference: bool,
    count: int,
    options: tuple[tuple[str, Any], ...],
) -> Alignment:
    each, all_alike = PartitionSpec(axis), PartitionSpec()
    keys = None if key is None else jax.random.split(key, count)

    def on_device(a: PyTree, b: PyTree, keys: Any, inputs: PyTree, targets: Any) -> Alignment:
        def one(a: PyTree, b: PyTree, key: jax.Array | None) -> Alignment:
            return align_params(a, b, inputs=inputs, targets=targets, key=key, **dict(options))

        return jax.vmap(one, in_axes=(None if one_reference else 0, 0, 0))(a, b, keys)

    spread = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(all_alike if one_reference else each, each, each, all_alike, all_alike),
        out_specs=each,
        check_vma=False,
    )
    pad = functools.partial(_pad, size=_padded_size(count, mesh, axis))
    found = spread(
        params_a if one_reference else pad(params_a), pad(params_b), pad(keys), inputs, targets
    )
    return jax.tree.map(lambda leaf: leaf[:count], found)


def _pad(tree: PyTree, size: int) -> PyTree:
    """Repeat the last entry of every leaf up to a size."""

    def pad(leaf: jax.Array) -> jax.Array:
        more = size - leaf.shape[0]
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], more, axis=0)]) if more else leaf

    return jax.tree.map(pad, tree)


def _place(
    arguments: tuple[PyTree, ...], mesh: Mesh, axis: str, one_reference: bool, count: int
) -> tuple[PyTree, ...]:
    """Lay the arguments out over the devices, which hold no more than their share of the pairs."""
    each, alone = NamedSharding(mesh, PartitionSpec(axis)), NamedSharding(mesh, PartitionSpec())
    pad = functools.partial(_pad, size=_padded_size(count, mesh, axis))
    params_a, params_b, inputs, targets, key = arguments
    a = jax.device_put(params_a, alone) if one_reference else jax.device_put(pad(params_a), each)
    if key is not None:
        # Only plain arrays can be put on the devices of several processes.
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        bits = jax.device_put(jax.random.key_data(key) if typed else key, alone)
        key = jax.random.wrap_key_data(bits, impl=jax.random.key_impl(key)) if typed else bits
    return (a, jax.device_put(pad(params_b), each), *jax.device_put((inputs, targets), alone), key)


def _padded_size(count: int, mesh: Mesh, axis: str) -> int:
    """Return the number of pairs with the repetitions of the last that make it a multiple."""
    return count + -count % mesh.shape[axis]


def _mesh(mesh: Mesh | None, axis: str, count: int) -> Mesh:
    """Return a mesh that has the axis: the given one, or one of all devices that get a pair."""
    if mesh is None:
        devices = jax.devices()[:count]
        return jax.make_mesh((len(devices),), (axis,), (AxisType.Auto,), devices=devices)
    if axis not in mesh.shape:
        raise ValueError(
            f"the mesh has the axes {mesh.axis_names} and not {axis!r}: pass axis=, the one whose "
            "devices share the pairs"
        )
    if count % mesh.shape[axis] and AxisType.Explicit in mesh.axis_types:
        raise ValueError(
            f"{count} pairs are no multiple of the {mesh.shape[axis]} devices along {axis!r}, as a "
            "mesh of explicit axes needs: make the mesh with axis_types=(AxisType.Auto,)"
        )
    return mesh


def _count(trees: Mapping[str, PyTree]) -> int:
    """Return the number of pairs, on which all leaves must agree."""
    shapes = {
        f"leaf {path!r} of {name}": np.shape(leaf)
        for name, tree in trees.items()
        for path, leaf in named_leaves(tree).items()
    }
    first = next(iter(shapes), "")
    for leaf, shape in shapes.items():
        if not shape or shape[0] != shapes[first][0] or shape[0] == 0:
            raise ValueError(
                f"{leaf} has shape {shape}, {first} {shapes[first]}: their first axis is that of "
                "the pairs, one or more. Stack the networks leaf by leaf, or pass "
                "one_reference=True where params_a is a single one"
            )
    if not shapes:
        raise ValueError("params_b holds no arrays of real numbers: nothing to align")
    return shapes[first][0]


def _check_global(trees: Mapping[str, PyTree], mesh: Mesh, axis: str) -> None:
    """Refuse pairs that a process holds by itself, where the mesh has devices of others."""
    devices = set(mesh.devices.flat)
    for name, tree in trees.items():
        for path, leaf in named_leaves(tree).items():
            if not isinstance(leaf, jax.Array) or leaf.sharding.device_set != devices:
                raise ValueError(
                    f"leaf {path!r} of {name}, of shape {np.shape(leaf)}, is held by this process "
                    f"alone, and the mesh has devices of others: make it an array of all pairs by "
                    f"jax.make_array_from_process_local_data(NamedSharding(mesh, "
                    f"PartitionSpec({axis!r})), leaf)"
                )
