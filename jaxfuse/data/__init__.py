"""Real datasets, and how their examples are shared out."""

from jaxfuse.data.dataset import Dataset, channel_statistics
from jaxfuse.data.digits import load_digits
from jaxfuse.data.load import load
from jaxfuse.data.partitions import (
    Partition,
    add_noise,
    client_dirichlet,
    dirichlet,
    homogeneous,
    iid,
    label_skew,
    mixed,
    noise_levels,
    partition,
    personalised,
    quantity_skew,
)
from jaxfuse.data.tfds import load_tfds

__all__ = [
    "Dataset",
    "Partition",
    "add_noise",
    "channel_statistics",
    "client_dirichlet",
    "dirichlet",
    "homogeneous",
    "iid",
    "label_skew",
    "load",
    "load_digits",
    "load_tfds",
    "mixed",
    "noise_levels",
    "partition",
    "personalised",
    "quantity_skew",
]
