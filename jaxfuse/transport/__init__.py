"""Maps between the units of networks that are no permutations."""

from jaxfuse.transport.maps import Maps, fuse_maps, map_params, maps_of_orders

__all__ = ["Maps", "fuse_maps", "map_params", "maps_of_orders"]
