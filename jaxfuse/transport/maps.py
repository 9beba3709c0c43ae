"""Linear maps of units: how K networks of any widths come into one common space."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.symmetry.axes import TensorAxes
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import is_weight, leaf_name, map_named
from jaxfuse.transport.carriers import carriers, computes

PyTree = Any


class Maps(NamedTuple):
    """Per node, how the units of K networks map to N common units, and back.

    A layer that computes units is multiplied by `to`, one that takes them by `back`:
    `W'_k = to_k[h] W_k back_k[g]`. For permutations `back` is the transpose of `to`; for a linear
    map it is the inverse; for merged units (ZipIt) it copies them.

    Attributes:
        to: per node and network `[N, n_k]`.
        back: per node and network `[n_k, N]`.
        mass: per node `[K, N]`: how much of a common unit each network has, from which its share in
            the fused unit follows; zero where a network has no such unit.
    """

    to: dict[str, tuple[jax.Array, ...]]
    back: dict[str, tuple[jax.Array, ...]]
    mass: dict[str, jax.Array]

    def of(self, k: int) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Return the maps of one network."""
        to = {node: each[k] for node, each in self.to.items()}
        return to, {node: each[k] for node, each in self.back.items()}

    def trim(self) -> "Maps":
        """Leave out common units that no network has; outside jit only."""
        to, back, mass = jax.tree.map(np.asarray, tuple(self))
        used = {node: np.flatnonzero(np.any(each > 0, axis=0)) for node, each in mass.items()}
        trimmed = Maps(
            {node: tuple(each[used[node]] for each in maps) for node, maps in to.items()},
            {node: tuple(each[:, used[node]] for each in maps) for node, maps in back.items()},
            {node: each[:, used[node]] for node, each in mass.items()},
        )
        return jax.tree.map(jnp.asarray, trimmed)


def maps_of_orders(orders: Mapping[str, jax.Array], sizes: Mapping[str, int]) -> Maps:
    """Turn orders int32 `[K, N]` of the units of K networks, -1 for none, into maps.

    Args:
        orders: per node, as `jaxfuse.many.Matchings` has them.
        sizes: per node the number of units of a network.

    Examples:
        >>> maps_of_orders({"h": jnp.array([[0, 1], [1, 0]])}, {"h": 2}).to["h"][1].tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    to = {
        node: tuple(jax.nn.one_hot(row, sizes[node]) for row in order)
        for node, order in orders.items()
    }
    back = {node: tuple(each.T for each in maps) for node, maps in to.items()}
    mass = {node: (order >= 0).astype(jnp.float32) for node, order in orders.items()}
    return Maps(to, back, mass)


def map_params(
    params: PyTree,
    symmetry: Symmetry,
    to: Mapping[str, jax.Array],
    back: Mapping[str, jax.Array],
    share: Mapping[str, jax.Array] | None = None,
) -> PyTree:
    """Bring one network into the common space: `W' = to[h] W back[g]` for every tensor.

    An axis of units that a leaf computes is mapped by `to`, as are biases, scales and means; one
    that it takes by `back` (`computes` tells which); a running variance by the squares of `to`.
    Unless the maps are permutations, a network with nonlinearities computes another function
    afterwards.

    Args:
        params: the parameters.
        symmetry: its groups.
        to: per node `[N, n]`. Nodes that are missing stay.
        back: per node `[n, N]`.
        share: per node `[N]`, a factor on what computes the common units.

    Returns:
        A tree of the same structure, whose mapped axes have the common sizes; each leaf in its own
        dtype.

    Raises:
        ValueError: if a group that something indexes, or a leaf of several blocks, is to change
            its size, and if two groups on a tensor are indexed by the same axis.

    Differentiable.

    Examples:
        >>> params = {"in": jnp.eye(2), "out": jnp.ones((2, 1))}
        >>> spec = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, params)
        >>> wider = map_params(params, spec, {"h": jnp.eye(3, 2)}, {"h": jnp.eye(2, 3)})
        >>> wider["in"].shape, wider["out"].shape
        ((2, 3), (3, 1))
    """
    nodes = list_nodes(symmetry)
    tensors: dict[str, list[TensorAxes]] = {}
    for tensor in symmetry.tensors:
        if any(tensor.groups):
            tensors.setdefault(tensor.path, []).append(tensor)

    def move(path: str, leaf: Any) -> Any:
        for tensor in tensors.get(path, ()):
            block = jnp.asarray(tensor.take(leaf), jnp.float32)
            for axis, contexts in carriers(symmetry, tensor).items():
                group = str(tensor.groups[axis])
                names = [name for name, node in nodes.items() if node.group == group]
                if names[0] not in to:
                    continue
                if not computes(symmetry, tensor, axis):
                    matrices = jnp.stack([back[name].T for name in names])
                else:
                    square = leaf_name(path) in ("var", "running_var")
                    maps = [jnp.square(to[name]) if square else to[name] for name in names]
                    if share is not None:
                        maps = [
                            share[name][:, None] * each
                            for name, each in zip(names, maps, strict=True)
                        ]
                    matrices = jnp.stack(maps)
                block = _along(block, (*contexts, axis), matrices, tensor)
            leaf = _put(leaf, tensor, block)
        return leaf

    return map_named(move, params)


def fuse_maps(
    params: Sequence[PyTree],
    symmetries: Sequence[Symmetry],
    maps: Maps,
    shares: Sequence[float | jax.Array],
) -> PyTree:
    """Fuse K networks in the common space: `W = sum_k M_k[h] W_k back_k[g]`.

    M_k is `to_k` times the share of network k in every common unit: its weight times its mass,
    over those of all networks. So a unit that one network alone has keeps its incoming weights
    whole, and what it sends to a common unit counts with that network's weight, as in ZipIt
    (Stoica et al., ICLR 2024) and PLeaS (Nasery et al., CVPR 2025).

    Args:
        params: K parameter trees.
        symmetries: per network its symmetry.
        maps: per node the maps of all networks.
        shares: K weights that sum to one; those of leaves without a group, such as outputs.

    Returns:
        One tree of the common sizes, in the dtypes of the first network.

    Raises:
        ValueError: as `map_params`.

    Differentiable.

    Examples:
        >>> params = {"in": jnp.eye(2), "out": jnp.ones((2, 1))}
        >>> spec = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, params)
        >>> other = {"in": params["in"][:, ::-1], "out": params["out"]}
        >>> maps = maps_of_orders({"h": jnp.array([[0, 1], [1, 0]])}, {"h": 2})
        >>> fuse_maps([params, other], [spec, spec], maps, [0.5, 0.5])["in"].tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    weights = jnp.stack([jnp.asarray(share, jnp.float32) for share in shares])
    moved = []
    for k, (tree, symmetry) in enumerate(zip(params, symmetries, strict=True)):
        to, back = maps.of(k)
        share = {}
        for node, mass in maps.mass.items():
            whole = jnp.tensordot(weights, mass, axes=1)
            share[node] = weights[k] * mass[k] / jnp.where(whole > 0, whole, 1.0)
        weighed = _weigh(tree, symmetry, to, weights[k])
        moved.append(map_params(weighed, symmetry, to, back, share))

    def total(first: Any, *leaves: Any) -> Any:
        if not is_weight(first):
            return first
        parts = [jnp.asarray(leaf, jnp.float32) for leaf in leaves]
        return sum(parts[1:], start=parts[0]).astype(first.dtype)

    return jax.tree.map(total, params[0], *moved)


def _weigh(params: PyTree, symmetry: Symmetry, to: Mapping[str, Any], weight: jax.Array) -> PyTree:
    """Multiply what computes no mapped units, such as the outputs, by a weight; all in float32."""
    mapped = {node.group for name, node in list_nodes(symmetry).items() if name in to}
    tensors: dict[str, list[TensorAxes]] = {}
    for tensor in symmetry.tensors:
        moving = carriers(symmetry, tensor) if any(tensor.groups) else ()
        if any(tensor.groups[a] in mapped and computes(symmetry, tensor, a) for a in moving):
            tensors.setdefault(tensor.path, []).append(tensor)

    def weigh(path: str, leaf: Any) -> Any:
        if not is_weight(leaf):
            return leaf
        shared = np.zeros(leaf.shape, bool)
        for tensor in tensors.get(path, ()):
            shared = tensor.put(shared, np.ones(tensor.shape, bool))
        leaf = jnp.asarray(leaf, jnp.float32)
        if shared.all():
            return leaf
        return jnp.where(shared, leaf, leaf * weight) if shared.any() else leaf * weight

    return map_named(weigh, params)


def _along(
    block: jax.Array, axes: Sequence[int], matrices: jax.Array, tensor: TensorAxes
) -> jax.Array:
    """Multiply the units on some axes of a block, taken together, by one matrix per entry.

    Args:
        block: the tensor as it is viewed.
        axes: those that index the units, outermost first, and their own.
        matrices: `[entries, N, n]`, one for every entry of the pinned axes among them.
        tensor: for the message.
    """
    pinned = [axis for axis in axes if tensor.groups[axis] is None]
    moving = [axis for axis in axes if tensor.groups[axis] is not None]
    rest = [axis for axis in range(block.ndim) if axis not in axes]
    order = (*pinned, *moving, *rest)
    sizes = [block.shape[axis] for axis in order]
    entries, wide, narrow = matrices.shape
    moved = jnp.einsum(
        "eun,enr->eur",
        matrices,
        jnp.transpose(block, order).reshape(entries, narrow, -1),
        precision=HIGHEST,
    )
    if wide != narrow:
        if len(moving) > 1:
            raise ValueError(
                f"the units of group {tensor.groups[moving[-1]]!r} of leaf {tensor.path!r} are "
                f"indexed by another group, so their number stays {narrow}: got maps to {wide}"
            )
        sizes[len(pinned)] = wide
    return jnp.transpose(moved.reshape(sizes), np.argsort(order).tolist())


def _put(leaf: Any, tensor: TensorAxes, block: jax.Array) -> Any:
    """Return the leaf with its block replaced, which may have other sizes."""
    if block.shape == tensor.shape:
        return tensor.put(leaf, block)
    if any(runs is not None for runs in tensor.index):
        raise ValueError(
            f"leaf {tensor.path!r} holds several blocks of units, so its size stays: got a block "
            f"of shape {block.shape} in place of {tensor.shape}"
        )
    old, new, sizes = list(tensor.shape), list(block.shape), []
    for size in np.shape(leaf):
        product, wide = old.pop(0), new.pop(0)
        while product != size:
            product, wide = product * old.pop(0), wide * new.pop(0)
        sizes.append(wide)
    return block.reshape(sizes).astype(leaf.dtype)
