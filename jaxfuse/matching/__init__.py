"""The matching problem, and one solver per file."""

from jaxfuse.matching.coordinate_ascent import CoordinateAscent
from jaxfuse.matching.frank_wolfe import FrankWolfe
from jaxfuse.matching.graduated_assignment import GraduatedAssignment
from jaxfuse.matching.portfolio import Portfolio
from jaxfuse.matching.problem import Problem, build_problem
from jaxfuse.matching.result import Matching, Solver

__all__ = [
    "CoordinateAscent",
    "FrankWolfe",
    "GraduatedAssignment",
    "Matching",
    "Portfolio",
    "Problem",
    "Solver",
    "build_problem",
]
