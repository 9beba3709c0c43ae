"""The problem of matching K networks, and one scheme per file."""

from jaxfuse.many.problem import ManyProblem, ManySolver, Matchings, build_many, pairwise

__all__ = ["ManyProblem", "ManySolver", "Matchings", "build_many", "pairwise"]
