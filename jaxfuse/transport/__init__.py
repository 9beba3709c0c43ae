"""Maps between the units of networks that are no permutations."""

from jaxfuse.transport.maps import Maps, fuse_maps, map_params, maps_of_orders
from jaxfuse.transport.plan import Plan, transport_plan

__all__ = ["Maps", "Plan", "fuse_maps", "map_params", "maps_of_orders", "transport_plan"]
