"""Federated learning: clients train apart, the server matches their units before it averages."""

from jaxfuse.federated.aggregate import AggregatedArrays, aggregate
from jaxfuse.federated.aggregation import (
    AGGREGATORS,
    Aggregated,
    Aggregator,
    Average,
    FedMA,
    Matched,
    MatchedJointly,
)
from jaxfuse.federated.clients import Clients
from jaxfuse.federated.config import RoundConfig
from jaxfuse.federated.federate import FederatedResult, Round, federate
from jaxfuse.federated.local import (
    LOCAL_METHODS,
    FedDyn,
    FedProx,
    LocalMethod,
    LocalSGD,
    Moon,
    Scaffold,
)
from jaxfuse.federated.rounds import FederatedState, Plan, RoundReport, advance, initial_state

__all__ = [
    "AGGREGATORS",
    "LOCAL_METHODS",
    "Aggregated",
    "AggregatedArrays",
    "Aggregator",
    "Average",
    "Clients",
    "FedDyn",
    "FedMA",
    "FedProx",
    "FederatedResult",
    "FederatedState",
    "LocalMethod",
    "LocalSGD",
    "Matched",
    "MatchedJointly",
    "Moon",
    "Plan",
    "Round",
    "RoundConfig",
    "RoundReport",
    "Scaffold",
    "advance",
    "aggregate",
    "federate",
    "initial_state",
]
