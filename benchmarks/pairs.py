"""Two networks to align, and what is known of the matching between them."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from jaxfuse import Symmetry, infer_chain
from jaxfuse.bench.weight_matching import Named, Permutations, linear_objective, reorder

CHANNELS = (64, 128, 256, 256, 512, 512, 512, 512)


@dataclass(frozen=True)
class Pair:
    """Two networks, their symmetry, and the planted matching where there is one."""

    params_a: Named
    params_b: Named
    symmetry: Symmetry
    truth: Permutations | None = None

    def quality(self, permutations: Mapping[str, Any]) -> dict[str, float]:
        """Judge a matching of any origin alike: the linear objective, and the units recovered."""
        permutations = {group: np.asarray(p) for group, p in permutations.items()}
        objective = linear_objective(self.params_a, self.params_b, self.symmetry, permutations)
        if self.truth is None:
            return {"objective": objective}
        hits = [permutations[group] == planted for group, planted in self.truth.items()]
        planted = linear_objective(self.params_a, self.params_b, self.symmetry, self.truth)
        units = float(np.mean(np.concatenate(hits)))
        return {"objective": objective, "of_planted": objective / planted, "units": units}


def vgg11(rng: np.random.Generator, width: float) -> Named:
    """Draw He-normal weights."""
    channels = [3, *(max(1, round(width * c)) for c in CHANNELS)]
    params = {}
    for index, (n, m) in enumerate(itertools.pairwise(channels)):
        params[f"conv/{index}/kernel"] = rng.normal(size=(3, 3, n, m)) * np.sqrt(2 / (9 * n))
    last = channels[-1]
    params["dense/0/kernel"] = rng.normal(size=(last, 10)) * np.sqrt(2 / last)
    return {path: kernel.astype(np.float32) for path, kernel in params.items()}


def unrelated(width: float, seed: int) -> Pair:
    """Draw two VGG11."""
    rng = np.random.default_rng(seed)
    params_a, params_b = vgg11(rng, width), vgg11(rng, width)
    return Pair(params_a, params_b, infer_chain(params_a))


def planted(width: float, noise: float, seed: int) -> Pair:
    """Draw a VGG11, and its permuted copy under noise in standard deviations of each tensor."""
    rng = np.random.default_rng(seed)
    params_a = vgg11(rng, width)
    symmetry = infer_chain(params_a)
    orders = {group: rng.permutation(size) for group, size in symmetry.groups.items()}
    params_b = {}
    for tensor in symmetry.tensors:
        kernel = params_a[tensor.path]
        noisy = kernel + noise * kernel.std() * rng.normal(size=kernel.shape)
        moved = reorder(noisy, tensor, orders).astype(np.float32)
        params_b[tensor.path] = moved.reshape(kernel.shape)
    truth = {group: np.argsort(order) for group, order in orders.items()}
    return Pair(params_a, params_b, symmetry, truth)


def from_files(file_a: Path, file_b: Path) -> Pair:
    """Read two feed-forward chains from safetensors files."""
    params_a, params_b = load_file(file_a), load_file(file_b)
    return Pair(params_a, params_b, infer_chain(params_a))
