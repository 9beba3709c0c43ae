"""What the server makes of the clients' networks, one method a file."""

from types import MappingProxyType

from jaxfuse.federated.aggregation.average import Average, average_stack
from jaxfuse.federated.aggregation.fedma import FedMA, Layerwise
from jaxfuse.federated.aggregation.jointly import MatchedJointly
from jaxfuse.federated.aggregation.matched import Matched
from jaxfuse.federated.aggregation.protocol import Aggregated, Aggregator
from jaxfuse.matching import GraduatedAssignment
from jaxfuse.transport.ot_fusion import OTFusion

AGGREGATORS: MappingProxyType[str, Aggregator] = MappingProxyType(
    {
        "average": Average(),
        "matched": Matched(),
        "gamf": Matched(GraduatedAssignment()),
        "gamf_many": MatchedJointly(),
        "ot_fusion": Matched(OTFusion()),
        "fedma": FedMA(),
    }
)
"""Aggregators by name, with their default settings."""

__all__ = [
    "AGGREGATORS",
    "Aggregated",
    "Aggregator",
    "Average",
    "FedMA",
    "Layerwise",
    "Matched",
    "MatchedJointly",
    "average_stack",
]
