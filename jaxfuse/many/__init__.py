"""The problem of matching K networks, and one scheme per file."""

from jaxfuse.many.all_to_one import AllToOne
from jaxfuse.many.gamf import GAMF
from jaxfuse.many.hierarchical import Hierarchical
from jaxfuse.many.merge_many import MergeMany
from jaxfuse.many.problem import ManyProblem, ManySolver, Matchings, build_many, pairwise
from jaxfuse.many.sequential import Sequential
from jaxfuse.many.sharding import shard_networks
from jaxfuse.many.universe_frank_wolfe import UniverseFrankWolfe

__all__ = [
    "GAMF",
    "AllToOne",
    "Hierarchical",
    "ManyProblem",
    "ManySolver",
    "Matchings",
    "MergeMany",
    "Sequential",
    "UniverseFrankWolfe",
    "build_many",
    "pairwise",
    "shard_networks",
]
