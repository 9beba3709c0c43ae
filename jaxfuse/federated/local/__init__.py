"""How clients train, one method a file."""

from types import MappingProxyType

from jaxfuse.federated.local.feddyn import FedDyn
from jaxfuse.federated.local.fedprox import FedProx
from jaxfuse.federated.local.moon import Moon
from jaxfuse.federated.local.protocol import Journey, LocalMethod, Returned, Start
from jaxfuse.federated.local.scaffold import Scaffold
from jaxfuse.federated.local.sgd import LocalSGD

LOCAL_METHODS: MappingProxyType[str, LocalMethod] = MappingProxyType(
    {
        "sgd": LocalSGD(),
        "fedprox": FedProx(),
        "scaffold": Scaffold(),
        "moon": Moon(),
        "feddyn": FedDyn(),
    }
)
"""Local methods by name, with their default settings."""

__all__ = [
    "LOCAL_METHODS",
    "FedDyn",
    "FedProx",
    "Journey",
    "LocalMethod",
    "LocalSGD",
    "Moon",
    "Returned",
    "Scaffold",
    "Start",
]
