"""Align and fuse neural networks in JAX."""

from jaxfuse.activations import ActivationMatching
from jaxfuse.affinity import ExactGaussian, Gaussian, Linear
from jaxfuse.align import Alignment, Alignments, align_many, align_pairs, align_params
from jaxfuse.assignment import hungarian, sinkhorn
from jaxfuse.connectivity import Barrier, barrier, interpolate
from jaxfuse.ensembles import mean_logits, mean_probabilities, vote
from jaxfuse.fusion import average, fuse, invert, rescale_units
from jaxfuse.fusion.repair import (
    LeastSquares,
    RepairActivations,
    ResetStatistics,
    RestoreNorms,
)
from jaxfuse.learned import SinkhornRebasin, StraightThrough
from jaxfuse.many import (
    GAMF,
    AllToOne,
    Hierarchical,
    MergeMany,
    Sequential,
    UniverseFrankWolfe,
    build_many,
    shard_networks,
)
from jaxfuse.matching import (
    CoordinateAscent,
    FrankWolfe,
    GraduatedAssignment,
    IntegerProjectedFixedPoint,
    MultiStart,
    PathFollowing,
    Portfolio,
    ReweightedRandomWalk,
    SimulatedAnnealing,
    SpectralMatching,
    build_problem,
)
from jaxfuse.methods import METHODS
from jaxfuse.status import Status
from jaxfuse.streaming import CheckpointAlignment, align_checkpoints, needed_memory
from jaxfuse.symmetry import (
    Symmetry,
    infer_chain,
    infer_symmetry,
    permute,
    record_activations,
    register_rule,
    verify,
)
from jaxfuse.transport.cca import CCAMerge
from jaxfuse.transport.ot_fusion import OTFusion
from jaxfuse.transport.partial import PartialMatching
from jaxfuse.transport.pfnm import PFNM
from jaxfuse.transport.procrustes import Procrustes
from jaxfuse.transport.scale import ScaleAlignment
from jaxfuse.transport.zip_it import ZipIt

__version__ = "0.1.0"

__all__ = [
    "GAMF",
    "METHODS",
    "PFNM",
    "ActivationMatching",
    "Alignment",
    "Alignments",
    "AllToOne",
    "Barrier",
    "CCAMerge",
    "CheckpointAlignment",
    "CoordinateAscent",
    "ExactGaussian",
    "FrankWolfe",
    "Gaussian",
    "GraduatedAssignment",
    "Hierarchical",
    "IntegerProjectedFixedPoint",
    "LeastSquares",
    "Linear",
    "MergeMany",
    "MultiStart",
    "OTFusion",
    "PartialMatching",
    "PathFollowing",
    "Portfolio",
    "Procrustes",
    "RepairActivations",
    "ResetStatistics",
    "RestoreNorms",
    "ReweightedRandomWalk",
    "ScaleAlignment",
    "Sequential",
    "SimulatedAnnealing",
    "SinkhornRebasin",
    "SpectralMatching",
    "Status",
    "StraightThrough",
    "Symmetry",
    "UniverseFrankWolfe",
    "ZipIt",
    "align_checkpoints",
    "align_many",
    "align_pairs",
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
    "invert",
    "mean_logits",
    "mean_probabilities",
    "needed_memory",
    "permute",
    "record_activations",
    "register_rule",
    "rescale_units",
    "shard_networks",
    "sinkhorn",
    "verify",
    "vote",
]
