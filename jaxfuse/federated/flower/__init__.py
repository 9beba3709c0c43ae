"""Flower: jaxfuse's aggregators as strategies of its message API."""

from importlib.util import find_spec

if find_spec("flwr") is None:
    raise ImportError(
        "jaxfuse.federated.flower needs Flower: pip install 'jaxfuse[federated]' (with Ray, for "
        "its simulation engine: 'jaxfuse[simulation]')"
    )

from jaxfuse.federated.flower.base import JaxStrategy
from jaxfuse.federated.flower.fusion import FusionStrategy
from jaxfuse.federated.flower.records import from_record, named_arrays, to_record
from jaxfuse.federated.flower.replies import ClientUpdate
from jaxfuse.federated.flower.scaffold import (
    ScaffoldStrategy,
    ScaffoldUpdate,
    train_scaffold,
)
from jaxfuse.federated.flower.state import recall, remember

__all__ = [
    "ClientUpdate",
    "FusionStrategy",
    "JaxStrategy",
    "ScaffoldStrategy",
    "ScaffoldUpdate",
    "from_record",
    "named_arrays",
    "recall",
    "remember",
    "to_record",
    "train_scaffold",
]
