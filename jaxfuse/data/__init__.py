"""Real datasets, and how their examples are shared out."""

from jaxfuse.data.dataset import Dataset, channel_statistics
from jaxfuse.data.digits import load_digits
from jaxfuse.data.load import load
from jaxfuse.data.partitions import dirichlet, homogeneous, personalised
from jaxfuse.data.tfds import load_tfds

__all__ = [
    "Dataset",
    "channel_statistics",
    "dirichlet",
    "homogeneous",
    "load",
    "load_digits",
    "load_tfds",
    "personalised",
]
