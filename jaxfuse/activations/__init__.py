"""What the units of networks do on data: joint moments, and the similarities made of them."""

from jaxfuse.activations.activation_matching import ActivationMatching, match_moments
from jaxfuse.activations.moments import Moments, measure_moments, record_nodes
from jaxfuse.activations.mutual_information import measure_mutual_information
from jaxfuse.activations.similarity import Similarity, compare_units

__all__ = [
    "ActivationMatching",
    "Moments",
    "Similarity",
    "compare_units",
    "match_moments",
    "measure_moments",
    "measure_mutual_information",
    "record_nodes",
]
