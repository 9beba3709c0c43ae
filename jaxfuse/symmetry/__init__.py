"""What may be permuted: the symmetry of a network as data, inferred, applied and verified."""

from jaxfuse.symmetry.chain import infer_chain
from jaxfuse.symmetry.permute import permute, random_permutations
from jaxfuse.symmetry.spec import Symmetry, TensorAxes
from jaxfuse.symmetry.verify import Verification, verify

__all__ = [
    "Symmetry",
    "TensorAxes",
    "Verification",
    "infer_chain",
    "permute",
    "random_permutations",
    "verify",
]
