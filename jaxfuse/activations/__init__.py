"""What the units of networks do on data: joint moments, and the similarities made of them."""

from jaxfuse.activations.moments import Moments, measure_moments, record_nodes

__all__ = ["Moments", "measure_moments", "record_nodes"]
