"""The competitors: how each makes one network out of K."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.activations import ActivationMatching
from jaxfuse.align import Alignment, Alignments, align_many, align_params
from jaxfuse.experiments.family import Parents
from jaxfuse.fusion import fuse
from jaxfuse.fusion.repair import LeastSquares, Repair, RepairActivations, RestoreNorms
from jaxfuse.many import GAMF, MergeMany, UniverseFrankWolfe
from jaxfuse.many.gamf_kernels import RowGAMF
from jaxfuse.matching import CoordinateAscent, Portfolio
from jaxfuse.methods import METHODS, AnyMethod
from jaxfuse.status import Status
from jaxfuse.transport.cca import CCAMerge
from jaxfuse.transport.ot_fusion import OTFusion
from jaxfuse.transport.partial import PartialMatching
from jaxfuse.transport.pfnm import PFNM
from jaxfuse.transport.zip_it import ZipIt

PyTree = Any
Variant = Literal["average", "norm", "noise", "inverted", "repaired", "fitted"]
VARIANTS: MappingProxyType[Variant, str] = MappingProxyType(
    {
        "average": "average",
        "norm": "norms, no data",
        "noise": "fit on noise, no data",
        "inverted": "fit on inversions, no data",
        "repaired": "REPAIR, images",
        "fitted": "fit, images",
    }
)
"""What is done to the average of the aligned networks, and what the column is called."""


@dataclass(frozen=True)
class Recipe:
    """A way to fuse networks.

    Attributes:
        label: what the tables call it.
        method: how two networks are aligned; None leaves them as they are.
        many: how more than two are; the same by default.
        affinity: how edges are compared, where weights are.
        images: whether the alignment looks at the unlabelled images.
        inverted: whether it looks at inversions of the parents in their place, which take no data.
        images_of: the parent whose images these are; None takes as many of each.
        ours: whether it stands for jaxfuse.
        own: the variant that is the recipe's result: the bare average for a published method, the
            repair that measures best (`benchmarks/results/matchers.md`) for jaxfuse.
        by_class: whether each class's logit is shared out by how many examples of the class the
            parents have seen, instead of equally.
        wider: whether the result is wider than a parent, and so no compact ensemble.
    """

    label: str
    method: AnyMethod | None = None
    many: AnyMethod | None = None
    affinity: str = "linear"
    images: bool = False
    inverted: bool = False
    images_of: int | None = None
    ours: bool = False
    own: Variant = "average"
    by_class: bool = False
    wider: bool = False


_MANY = METHODS["annealed_merge_many"].method
RECIPES: MappingProxyType[str, Recipe] = MappingProxyType(
    {
        "plain": Recipe("plain average"),
        "ot_weights": Recipe("OTFusion, weights", OTFusion()),
        "ot_activations": Recipe("OTFusion, activations", OTFusion("activations"), images=True),
        "git_rebasin": Recipe(
            "Git Re-Basin", CoordinateAscent(), MergeMany(start=None, order="random")
        ),
        "gamf": Recipe("GAMF, Gaussian affinity", GAMF(), affinity="gaussian"),
        "gamf_code": Recipe("GAMF, released code's kernel", RowGAMF()),
        "jaxfuse_weights": Recipe(
            "jaxfuse, weights and noise", Portfolio(), _MANY, ours=True, own="noise"
        ),
        "jaxfuse": Recipe(
            "jaxfuse, no data", Portfolio(), _MANY, inverted=True, ours=True, own="inverted"
        ),
        "jaxfuse_images": Recipe(
            "jaxfuse, images", Portfolio(), _MANY, images=True, ours=True, own="fitted"
        ),
        "activations": Recipe(
            "activation matching, all parents' images",
            ActivationMatching(),
            images=True,
            ours=True,
            own="fitted",
        ),
        "activations_first": Recipe(
            "activation matching, first parent's images",
            ActivationMatching(),
            images=True,
            images_of=0,
            ours=True,
            own="fitted",
        ),
        "universe": Recipe(
            "universe Frank-Wolfe (C2M3), images",
            UniverseFrankWolfe(),
            images=True,
            ours=True,
            own="fitted",
        ),
        "by_class": Recipe(
            "jaxfuse, images, logits shared by class counts",
            Portfolio(),
            _MANY,
            images=True,
            ours=True,
            own="fitted",
            by_class=True,
        ),
        "cca": Recipe("CCA-Merge", CCAMerge(), images=True),
        "zip_it": Recipe("ZipIt", ZipIt(), images=True),
        "partial_zip": Recipe(
            "ZipIt, first half (wider)", ZipIt(until=0.5), images=True, wider=True
        ),
        "partial": Recipe(
            "PLeaS, 0.2 of units apart (wider)", PartialMatching(), images=True, wider=True
        ),
        "pfnm": Recipe("PFNM", PFNM()),
    }
)
"""All of them by name. Settings are the defaults of the library: none was chosen here."""


class Fused(NamedTuple):
    """What a recipe makes of its parents.

    Attributes:
        make: `make(variant, weights) -> params`, None where the variant does not go with maps.
        seconds: of the alignment, with its compilation; and of making inversions, where it looks at
            them and they were not there.
        status: what the alignment says of itself.
    """

    make: Callable[[Variant, Sequence[float] | None], PyTree | None]
    seconds: float
    status: str


def fuse_parents(
    recipe: Recipe,
    parents: Parents,
    *,
    images: int,
    noise: int,
    inversions: jax.Array | None = None,
) -> Fused:
    """Align networks by a recipe, to be averaged and repaired.

    Args:
        recipe: how.
        parents: the networks; the fused one has the widths of the first.
        images: unlabelled training images that methods and repairs may look at.
        noise: samples of noise for the fit without data.
        inversions: of the parents, where they are made already; else they are where one is needed.

    Returns:
        The fused networks to be, and what is known of the alignment.
    """
    started = time.perf_counter()
    if recipe.inverted and inversions is None:
        inversions = jax.block_until_ready(parents.inversions(images))
    making = time.perf_counter() - started
    data = inversions if recipe.inverted else parents.unlabelled(images, recipe.images_of)
    alignment = align(recipe, parents, data)
    params, symmetries = list(parents.params), parents.symmetries
    if recipe.by_class:
        params, alignment = _share_by_class(parents, params, alignment)
    one_width = len({symmetry.sizes for symmetry in symmetries}) == 1
    for_repair = parents.unlabelled(images)
    drawn = jax.ShapeDtypeStruct((noise, *for_repair.shape[1:]), jnp.float32)
    # By the variant: the repair, and what it looks at.
    repairs: dict[Variant, tuple[Repair | None, Any]] = {
        "average": (None, None),
        "norm": (RestoreNorms(), None),
        "noise": (LeastSquares(), drawn),
        "inverted": (LeastSquares(), inversions),
        "repaired": (RepairActivations(), for_repair),
        "fitted": (LeastSquares(), for_repair),
    }
    call = functools.partial(
        fuse, params, symmetry=symmetries[0] if one_width else symmetries, apply_fn=parents.apply_fn
    )

    def make(variant: Variant, weights: Sequence[float] | None = None) -> PyTree | None:
        repair, inputs = repairs[variant]
        if variant == "inverted" and inputs is None:
            inputs = parents.inversions(images)
        try:
            return call(weights, alignment, repair=repair, inputs=inputs)
        except ValueError:
            # Maps may leave units that not all networks have, which no repair takes.
            if alignment.maps is None or repair is None:
                raise
            return None

    return Fused(make, making + float(alignment.seconds), Status(int(alignment.status)).name)


def align(recipe: Recipe, parents: Parents, inputs: jax.Array | None) -> Alignment | Alignments:
    """Align the networks as a recipe says, which looks at the inputs or does not."""
    params, symmetries = parents.params, parents.symmetries
    if recipe.method is None:
        zero = jnp.float32(0)
        status = jnp.int32(Status.ALREADY_ALIGNED)
        return Alignments(params, {}, zero, status, zero[None], 0.0, None)
    one_width = len({symmetry.sizes for symmetry in symmetries}) == 1
    looks = recipe.images or recipe.inverted
    options: dict[str, Any] = {
        "symmetry": symmetries[0] if one_width else symmetries,
        "affinity": recipe.affinity,
        "apply_fn": parents.apply_fn if looks else None,
        "inputs": inputs if looks else None,
        "key": jax.random.key(0),
    }
    if len(params) == 2:
        return align_params(*params, method=recipe.method, **options)
    return align_many(params, method=recipe.many or recipe.method, **options)


def _share_by_class(
    parents: Parents, params: list[PyTree], alignment: Alignment | Alignments
) -> tuple[list[PyTree], Alignment | Alignments]:
    """Scale the logits of every parent by its share of the examples of their class, times K."""
    classes = int(parents.labels.max()) + 1
    counts = np.stack(
        [np.bincount(parents.labels[share], minlength=classes) for share in parents.shares]
    )
    factors = len(params) * counts / np.maximum(counts.sum(axis=0), 1)

    def scale(tree: PyTree, factor: np.ndarray) -> PyTree:
        head = max(tree["dense"], key=int)
        kernel = tree["dense"][head]["kernel"] * jnp.asarray(factor, jnp.float32)[None]
        return {**tree, "dense": {**tree["dense"], head: {"kernel": kernel}}}

    scaled = [scale(tree, factor) for tree, factor in zip(params, factors, strict=True)]
    if isinstance(alignment, Alignment):
        return scaled, alignment._replace(params=scale(alignment.params, factors[1]))
    moved = zip(alignment.params, factors, strict=True)
    return scaled, alignment._replace(params=tuple(scale(tree, each) for tree, each in moved))
