"""One model out of K: averages and their corrections."""

from jaxfuse.fusion.average import average
from jaxfuse.fusion.fuse import fuse
from jaxfuse.fusion.inversion import invert
from jaxfuse.fusion.rescale import rescale_units

__all__ = ["average", "fuse", "invert", "rescale_units"]
