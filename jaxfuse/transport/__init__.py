"""Maps between the units of networks that are no permutations."""

from jaxfuse.transport.greedy import Zipped, zip_units
from jaxfuse.transport.maps import Maps, fuse_maps, map_params, maps_of_orders
from jaxfuse.transport.plan import Plan, transport_plan

__all__ = [
    "Maps",
    "Plan",
    "Zipped",
    "fuse_maps",
    "map_params",
    "maps_of_orders",
    "transport_plan",
    "zip_units",
]
