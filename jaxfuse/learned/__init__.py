"""Matchings that are learned by gradient descent."""

from jaxfuse.learned.sinkhorn_rebasin import SinkhornRebasin
from jaxfuse.learned.straight_through import StraightThrough

__all__ = ["SinkhornRebasin", "StraightThrough"]
