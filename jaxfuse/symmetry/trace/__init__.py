"""Find the symmetry of a function in its program."""

from jaxfuse.symmetry.trace.array import Array
from jaxfuse.symmetry.trace.factor import pin, pinned, tie
from jaxfuse.symmetry.trace.infer import infer_symmetry
from jaxfuse.symmetry.trace.interpreter import UnknownPrimitiveWarning
from jaxfuse.symmetry.trace.record import record_activations
from jaxfuse.symmetry.trace.registry import Site, register_rule

__all__ = [
    "Array",
    "Site",
    "UnknownPrimitiveWarning",
    "infer_symmetry",
    "pin",
    "pinned",
    "record_activations",
    "register_rule",
    "tie",
]
