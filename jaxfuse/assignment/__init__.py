"""Projections of score matrices on permutations and on doubly stochastic matrices."""

from jaxfuse.assignment.hungarian import Assignment, hungarian
from jaxfuse.assignment.permutation import invert_permutation, permutation_matrix
from jaxfuse.assignment.sinkhorn import Potentials, SinkhornResult, sinkhorn

__all__ = [
    "Assignment",
    "Potentials",
    "SinkhornResult",
    "hungarian",
    "invert_permutation",
    "permutation_matrix",
    "sinkhorn",
]
