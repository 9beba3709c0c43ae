"""Every method by name: what `method=` takes, and the table of the documentation."""

from typing import Literal, NamedTuple

from jaxfuse.activations import ActivationMatching
from jaxfuse.correspondence import Method
from jaxfuse.learned import SinkhornRebasin, StraightThrough
from jaxfuse.many import (
    GAMF,
    AllToOne,
    Hierarchical,
    ManySolver,
    MergeMany,
    Sequential,
    UniverseFrankWolfe,
)
from jaxfuse.many.gamf_kernels import BlurredGAMF, RowGAMF
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
    Solver,
    SpectralMatching,
)
from jaxfuse.transport.cca import CCAMerge
from jaxfuse.transport.ot_fusion import OTFusion
from jaxfuse.transport.partial import PartialMatching
from jaxfuse.transport.pfnm import PFNM
from jaxfuse.transport.procrustes import Procrustes
from jaxfuse.transport.scale import ScaleAlignment
from jaxfuse.transport.zip_it import ZipIt

AnyMethod = Solver | ManySolver | Method


class Entry(NamedTuple):
    """A method and what its users ask first.

    Attributes:
        method: an instance with its default settings.
        paper: where it comes from.
        data: whether it looks at a batch: "may" (activations count beside weights where there are
            some), "no", "inputs" (needs one), or "targets" (needs one, and uses labels).
        cost: of one step, for K networks of L tensors `[n, n]` and S samples.
        many: how it takes more than two networks: "jointly", or "to the first".
        finds: "permutations", or "maps", which merge or mix units.
        widths: whether the networks may differ in width.
        differentiable: whether gradients flow through the search itself.
    """

    method: AnyMethod
    paper: str
    data: Literal["may", "no", "inputs", "targets"] = "may"
    cost: str = "K L n^3"
    many: Literal["jointly", "to the first"] = "to the first"
    finds: Literal["permutations", "maps"] = "permutations"
    widths: bool = False
    differentiable: bool = False


METHODS: dict[str, Entry] = {
    "portfolio": Entry(Portfolio(), "Frank-Wolfe, or graduated assignment if clearly better"),
    "frank_wolfe": Entry(FrankWolfe(), "C2M3 for pairs: Crisostomi et al., NeurIPS 2024"),
    "graduated_assignment": Entry(
        GraduatedAssignment(), "GAMF for pairs, with a reaction term: Liu et al., ICML 2022"
    ),
    "coordinate_ascent": Entry(
        CoordinateAscent(), "Git Re-Basin's weight matching: Ainsworth et al., ICLR 2023"
    ),
    "multi_start": Entry(MultiStart(), "the best of several random starts", cost="8 K L n^3"),
    "simulated_annealing": Entry(
        SimulatedAnnealing(), "Entezari et al., ICLR 2022, on the objective", cost="K L n^2 a swap"
    ),
    "spectral": Entry(SpectralMatching(), "Leordeanu and Hebert, ICCV 2005"),
    "reweighted_random_walk": Entry(ReweightedRandomWalk(), "RRWM: Cho et al., ECCV 2010"),
    "integer_projected_fixed_point": Entry(
        IntegerProjectedFixedPoint(), "IPFP: Leordeanu et al., NIPS 2009"
    ),
    "path_following": Entry(PathFollowing(), "Zaslavskiy et al., PAMI 2009"),
    "merge_many": Entry(
        MergeMany(), "Git Re-Basin's MergeMany, from all to one; ICLR 2023", many="jointly"
    ),
    "annealed_merge_many": Entry(
        MergeMany(start=MergeMany(solver=GraduatedAssignment(polish=None), max_sweeps=3)),
        "MergeMany whose first steps are graduated assignments",
        many="jointly",
    ),
    "universe_frank_wolfe": Entry(
        UniverseFrankWolfe(), "C2M3: Crisostomi et al., NeurIPS 2024", many="jointly"
    ),
    "gamf": Entry(GAMF(), "GAMF's algorithm 2: Liu et al., ICML 2022", many="jointly"),
    "gamf_blurred": Entry(
        BlurredGAMF(),
        "GAMF with the paper's kernel on blurred weights",
        data="no",
        cost="K^2 L n^3",
        many="jointly",
    ),
    "gamf_row": Entry(
        RowGAMF(),
        "GAMF with the released code's row kernel",
        data="no",
        cost="K^2 L n^3",
        many="jointly",
    ),
    "all_to_one": Entry(AllToOne(), "every network to the first"),
    "sequential": Entry(Sequential(), "CLAFusion's loop: Nguyen et al., UAI 2023", many="jointly"),
    "hierarchical": Entry(
        Hierarchical(), "a binary tree of merges: Hierarchical Re-Basin, 2025", many="jointly"
    ),
    "activation_matching": Entry(
        ActivationMatching(),
        "Li et al., 2015; Git Re-Basin, ICLR 2023",
        data="inputs",
        cost="K L S n^2",
    ),
    "sinkhorn_rebasin": Entry(
        SinkhornRebasin(), "Pena et al., CVPR 2023", data="no", differentiable=True
    ),
    "sinkhorn_rebasin_midpoint": Entry(
        SinkhornRebasin(loss="midpoint"),
        "its task loss at the midpoint: Pena et al., CVPR 2023",
        data="targets",
        cost="a training step",
        differentiable=True,
    ),
    "straight_through": Entry(
        StraightThrough(),
        "Git Re-Basin's estimator: Ainsworth et al., ICLR 2023",
        data="targets",
        cost="a training step and a matching",
    ),
    "ot_fusion": Entry(
        OTFusion(),
        "Singh and Jaggi, NeurIPS 2020",
        data="no",
        finds="maps",
        widths=True,
    ),
    "ot_fusion_activations": Entry(
        OTFusion(cost="activations"),
        "Singh and Jaggi, NeurIPS 2020",
        data="inputs",
        finds="maps",
        widths=True,
        cost="K L S n^2",
    ),
    "pfnm": Entry(
        PFNM(),
        "PFNM: Yurochkin et al., ICML 2019; FedMA's matching: Wang et al., ICLR 2020",
        data="no",
        many="jointly",
        finds="maps",
        widths=True,
    ),
    "cca": Entry(
        CCAMerge(),
        "CCA-Merge: Horoi et al., ICML 2024",
        data="inputs",
        finds="maps",
        cost="K L (S n^2 + n^3)",
        differentiable=True,
    ),
    "zip_it": Entry(
        ZipIt(),
        "ZipIt: Stoica et al., ICLR 2024",
        data="inputs",
        many="jointly",
        finds="maps",
        widths=True,
        cost="L (S (K n)^2 + (K n)^3)",
    ),
    "partial": Entry(PartialMatching(), "PLeaS: Nasery et al., CVPR 2025", finds="maps"),
    "procrustes": Entry(
        Procrustes(), "rotations of named groups: Zhang et al., ICML 2025", data="no", finds="maps"
    ),
    "scale": Entry(
        ScaleAlignment(), "permutations and scalings of ReLU units: SEA", data="no", finds="maps"
    ),
}


def method_table() -> str:
    """Return the methods as a Markdown table: what each needs, gives and costs.

    Examples:
        >>> print(method_table().splitlines()[0][:20])
        | method | paper | d
    """
    head = ("method", "paper", "data", "finds", "many networks", "widths", "gradients", "a step")
    rows = [head, ("---",) * len(head)]
    for name, entry in METHODS.items():
        rows.append(
            (
                f"`{name}`",
                entry.paper,
                {"may": "optional", "targets": "inputs, labels if any"}.get(entry.data, entry.data),
                entry.finds,
                entry.many,
                "any" if entry.widths else "one",
                "yes" if entry.differentiable else "no",
                entry.cost,
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
