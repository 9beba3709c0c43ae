"""Align and fuse neural networks in JAX."""

from jaxfuse.affinity import ExactGaussian, Gaussian, Linear
from jaxfuse.align import Alignment, Alignments, align_many, align_params
from jaxfuse.assignment import hungarian, sinkhorn
from jaxfuse.connectivity import Barrier, barrier, interpolate
from jaxfuse.ensembles import mean_logits, mean_probabilities, vote
from jaxfuse.fusion import average, fuse, rescale_units
from jaxfuse.many import build_many
from jaxfuse.matching import (
    CoordinateAscent,
    FrankWolfe,
    GraduatedAssignment,
    Portfolio,
    build_problem,
)
from jaxfuse.status import Status
from jaxfuse.symmetry import (
    Symmetry,
    infer_chain,
    infer_symmetry,
    permute,
    record_activations,
    register_rule,
    verify,
)

__version__ = "0.1.0"

__all__ = [
    "Alignment",
    "Alignments",
    "Barrier",
    "CoordinateAscent",
    "ExactGaussian",
    "FrankWolfe",
    "Gaussian",
    "GraduatedAssignment",
    "Linear",
    "Portfolio",
    "Status",
    "Symmetry",
    "align_many",
    "align_params",
    "average",
    "barrier",
    "build_many",
    "build_problem",
    "fuse",
    "hungarian",
    "infer_chain",
    "infer_symmetry",
    "interpolate",
    "mean_logits",
    "mean_probabilities",
    "permute",
    "record_activations",
    "register_rule",
    "rescale_units",
    "sinkhorn",
    "verify",
    "vote",
]
