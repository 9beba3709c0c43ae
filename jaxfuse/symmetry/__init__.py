"""What may be permuted: the symmetry of a network as data, inferred, applied and verified."""

from jaxfuse.symmetry.axes import TensorAxes
from jaxfuse.symmetry.chain import infer_chain
from jaxfuse.symmetry.permute import permute, random_permutations
from jaxfuse.symmetry.proof.verify import Verification, verify
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.trace import (
    Site,
    UnknownPrimitiveWarning,
    infer_symmetry,
    record_activations,
    register_rule,
)

__all__ = [
    "Site",
    "Symmetry",
    "TensorAxes",
    "UnknownPrimitiveWarning",
    "Verification",
    "infer_chain",
    "infer_symmetry",
    "permute",
    "random_permutations",
    "record_activations",
    "register_rule",
    "verify",
]
