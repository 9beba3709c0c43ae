"""The matching problem, and one solver per file."""

from jaxfuse.matching.build import build_problem
from jaxfuse.matching.coordinate_ascent import CoordinateAscent
from jaxfuse.matching.frank_wolfe import FrankWolfe
from jaxfuse.matching.graduated_assignment import GraduatedAssignment
from jaxfuse.matching.integer_projected_fixed_point import IntegerProjectedFixedPoint
from jaxfuse.matching.multi_start import MultiStart
from jaxfuse.matching.path_following import PathFollowing
from jaxfuse.matching.portfolio import Portfolio
from jaxfuse.matching.problem import Problem
from jaxfuse.matching.result import Matching, Solver
from jaxfuse.matching.reweighted_random_walk import ReweightedRandomWalk
from jaxfuse.matching.simulated_annealing import SimulatedAnnealing
from jaxfuse.matching.spectral import SpectralMatching

__all__ = [
    "CoordinateAscent",
    "FrankWolfe",
    "GraduatedAssignment",
    "IntegerProjectedFixedPoint",
    "Matching",
    "MultiStart",
    "PathFollowing",
    "Portfolio",
    "Problem",
    "ReweightedRandomWalk",
    "SimulatedAnnealing",
    "Solver",
    "SpectralMatching",
    "build_problem",
]
