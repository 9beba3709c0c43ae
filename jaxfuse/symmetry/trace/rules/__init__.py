"""The rules, one function a primitive, one file a family."""

from jaxfuse.symmetry.trace.registry import RULES
from jaxfuse.symmetry.trace.rules import (
    blocks,
    contraction,
    elementwise,
    indexing,
    layout,
    ordering,
    programs,
    reduction,
)

__all__ = [
    "RULES",
    "blocks",
    "contraction",
    "elementwise",
    "indexing",
    "layout",
    "ordering",
    "programs",
    "reduction",
]
