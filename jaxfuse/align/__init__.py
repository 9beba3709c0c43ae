"""Align networks: from parameter trees to trees in one order."""

from jaxfuse.align.many import Alignments, align_many
from jaxfuse.align.pair import Alignment, align_params
from jaxfuse.align.pairs import align_pairs
from jaxfuse.align.search import AFFINITIES

__all__ = ["AFFINITIES", "Alignment", "Alignments", "align_many", "align_pairs", "align_params"]
