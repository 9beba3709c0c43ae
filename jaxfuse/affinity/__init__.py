"""How edges are compared: kernels whose affinity tensor is never built."""

from jaxfuse.affinity.block import Affinity, Block, FeatureBlock, SecondMoment
from jaxfuse.affinity.edges import edges
from jaxfuse.affinity.exact_gaussian import ExactGaussian
from jaxfuse.affinity.gaussian import Gaussian
from jaxfuse.affinity.linear import Linear
from jaxfuse.affinity.rank import resolve_rank

__all__ = [
    "Affinity",
    "Block",
    "ExactGaussian",
    "FeatureBlock",
    "Gaussian",
    "Linear",
    "SecondMoment",
    "edges",
    "resolve_rank",
]
