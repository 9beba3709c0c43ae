"""The peer of the benchmarks, which lives in the package: `jaxfuse bench` measures it too."""

from jaxfuse.bench.weight_matching import (
    Named,
    Permutations,
    layer_scores,
    linear_objective,
    reorder,
    weight_matching,
)

__all__ = [
    "Named",
    "Permutations",
    "layer_scores",
    "linear_objective",
    "reorder",
    "weight_matching",
]
