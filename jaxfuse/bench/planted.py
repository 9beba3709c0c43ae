"""Networks with random weights and their noisy permuted copies, of which the matching is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfuse.bench.weight_matching import linear_objective, reorder, weight_blocks
from jaxfuse.models import create, functional
from jaxfuse.models.mlp import MLP
from jaxfuse.symmetry import Symmetry, infer_symmetry, permute
from jaxfuse.symmetry.tree import leaf_name, named_leaves

Named = dict[str, np.ndarray]
Orders = dict[str, np.ndarray]


@dataclass(frozen=True)
class Planted:
    """A network, noisy copies of it in random orders, and what undoes the order of each copy.

    Attributes:
        networks: their leaves by path, float32 on the host.
        symmetry: which axes must be permuted together.
        truths: per copy and group the permutation that undoes its order.
    """

    networks: tuple[Named, ...]
    symmetry: Symmetry
    truths: tuple[Orders, ...]

    def judge(self, permutations: Mapping[str, Any]) -> dict[str, float]:
        """Judge a matching of the first copy by one float64 objective, whatever found it."""
        found = {group: np.asarray(order) for group, order in permutations.items()}
        a, b = self.networks[:2]
        objective = linear_objective(a, b, self.symmetry, found)
        right = linear_objective(a, b, self.symmetry, self.truths[0])
        return {
            "objective": objective,
            "of_planted": objective / right,
            "units": share_of_units([found], self.truths[:1]),
        }

    def judge_many(self, permutations: Mapping[str, Any]) -> dict[str, float]:
        """Judge the orders `[K, n]` of all networks by the objective summed over all pairs."""
        stacked = {group: np.asarray(orders) for group, orders in permutations.items()}
        found = [
            {group: orders[k] for group, orders in stacked.items()}
            for k in range(len(self.networks))
        ]
        own = {group: np.arange(size) for group, size in self.symmetry.sizes}
        objective = self._over_pairs(found)
        return {
            "objective": objective,
            "of_planted": objective / self._over_pairs([own, *self.truths]),
            "units": share_of_units(found[1:], self.truths),
        }

    def _over_pairs(self, orders: Sequence[Orders]) -> float:
        """Return the inner products of all pairs: half of |sum|^2 less the sum of |each|^2."""
        total = 0.0
        moved = []
        for network, order in zip(self.networks, orders, strict=True):
            blocks = weight_blocks(network, network, self.symmetry)
            moved.append([reorder(own, t, order).astype(np.float64) for t, own, _ in blocks])
        for tensors in zip(*moved, strict=True):
            total += float(np.square(sum(tensors)).sum())
            total -= sum(float(np.square(each).sum()) for each in tensors)
        return total / 2


def share_of_units(found: Sequence[Orders], truths: Sequence[Orders]) -> float:
    """Return the share of all units of all groups and copies that are matched as planted."""
    hits = [
        (own[group] == order).ravel()
        for own, truth in zip(found, truths, strict=True)
        for group, order in truth.items()
    ]
    return float(np.mean(np.concatenate(hits)))


def plant(
    shapes: Mapping[str, tuple[int, ...]],
    symmetry: Symmetry,
    *,
    copies: int = 1,
    noise: float = 1.0,
    seed: int = 0,
) -> Planted:
    """Draw a network and its copies.

    Kernels are normal with the standard deviation 1 / sqrt(fan-in), scales of normalisations
    1 + 0.1 N, biases 0.1 N; running statistics stay at their start.

    Args:
        shapes: of the leaves, by path.
        symmetry: what the copies are permuted by.
        copies: how many.
        noise: in standard deviations of each tensor.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    first = {path: _draw(rng, leaf_name(path), shape) for path, shape in shapes.items()}
    networks, truths = [first], []
    statistics = {tensor.path for tensor in symmetry.tensors if tensor.statistic}
    for _ in range(copies):
        noisy = {
            path: leaf
            if path in statistics
            else np.float32(leaf + noise * leaf.std() * rng.normal(size=leaf.shape))
            for path, leaf in first.items()
        }
        orders: Any = {group: rng.permutation(size) for group, size in symmetry.sizes}
        networks.append(permute(noisy, symmetry, orders))
        truths.append({group: np.argsort(order) for group, order in orders.items()})
    return Planted(tuple(networks), symmetry, tuple(truths))


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name == "var":
        return np.ones(shape, np.float32)
    if name == "mean":
        return np.zeros(shape, np.float32)
    normal = rng.normal(size=shape)
    if name == "kernel":
        return (normal / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)
    return ((1.0 if name == "scale" else 0.0) + 0.1 * normal).astype(np.float32)


def plant_model(name: str, *, width: float = 1.0, **options: Any) -> Planted:
    """Plant a model of `jaxfuse.models` for 32x32 images; nothing is run or initialised."""

    def build() -> nnx.Module:
        key = jax.random.key(0)
        return create(name, input_shape=(32, 32, 3), classes=10, width=width, key=key)

    return _plant_module(build, (2, 32, 32, 3), **options)


def plant_mlp(hidden: Sequence[int], *, inputs: int = 784, **options: Any) -> Planted:
    """Plant an MLP without biases and with ten outputs."""

    def build() -> nnx.Module:
        return MLP(inputs, 10, hidden=hidden, rngs=nnx.Rngs(0))

    return _plant_module(build, (2, inputs), **options)


def _plant_module(
    build: Callable[[], nnx.Module], input_shape: tuple[int, ...], **options: Any
) -> Planted:
    apply_fn, tree = functional(nnx.eval_shape(build))
    symmetry = infer_symmetry(apply_fn, tree, jax.ShapeDtypeStruct(input_shape, jnp.float32))
    shapes = {path: tuple(leaf.shape) for path, leaf in named_leaves(tree).items()}
    return plant(shapes, symmetry, **options)


def plant_graph(nodes: int, *, noise: float = 0.5, seed: int = 0) -> Planted:
    """Plant a weighted directed graph: one matrix that carries one group on both of its axes."""
    shapes = {"edges/kernel": (nodes, nodes)}
    like = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
    symmetry = Symmetry.from_axes({"edges/kernel": ("nodes", "nodes")}, like)
    return plant(shapes, symmetry, noise=noise, seed=seed)


def stacked(pairs: Sequence[Planted], index: int) -> dict[str, jax.Array]:
    """Stack one network of every pair on a new first axis, on the device."""
    leaves = pairs[0].networks[index]
    return {path: jnp.stack([pair.networks[index][path] for pair in pairs]) for path in leaves}


def judge_batch(pairs: Sequence[Planted], permutations: Mapping[str, Any]) -> dict[str, float]:
    """Judge the matchings of a batch of pairs `[b, n]`: means, and the sum of the objectives."""
    host = {group: np.asarray(orders) for group, orders in permutations.items()}
    each = [
        pair.judge({group: orders[index] for group, orders in host.items()})
        for index, pair in enumerate(pairs)
    ]
    means = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    return means | {"objective": sum(one["objective"] for one in each)}
