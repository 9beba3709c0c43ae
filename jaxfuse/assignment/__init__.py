"""Projections of score matrices on permutations and on doubly stochastic matrices."""

from jaxfuse.assignment.auction import auction
from jaxfuse.assignment.hungarian import Assignment, hungarian
from jaxfuse.assignment.permutation import invert_permutation, permutation_matrix
from jaxfuse.assignment.priced import PricedAssignment
from jaxfuse.assignment.shortest_augmenting_path import shortest_augmenting_path
from jaxfuse.assignment.sinkhorn import Potentials, SinkhornResult, sinkhorn

__all__ = [
    "Assignment",
    "Potentials",
    "PricedAssignment",
    "SinkhornResult",
    "auction",
    "hungarian",
    "invert_permutation",
    "permutation_matrix",
    "shortest_augmenting_path",
    "sinkhorn",
]
