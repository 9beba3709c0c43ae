"""How training examples are shared out between models or clients, one scheme per file."""

from jaxfuse.data.partitions.client_dirichlet import client_dirichlet
from jaxfuse.data.partitions.dirichlet import dirichlet
from jaxfuse.data.partitions.homogeneous import homogeneous
from jaxfuse.data.partitions.iid import iid
from jaxfuse.data.partitions.label_skew import label_skew
from jaxfuse.data.partitions.mixed import mixed
from jaxfuse.data.partitions.named import partition
from jaxfuse.data.partitions.noise import add_noise, noise_levels
from jaxfuse.data.partitions.personalised import personalised
from jaxfuse.data.partitions.quantity_skew import quantity_skew
from jaxfuse.data.partitions.record import Partition

__all__ = [
    "Partition",
    "add_noise",
    "client_dirichlet",
    "dirichlet",
    "homogeneous",
    "iid",
    "label_skew",
    "mixed",
    "noise_levels",
    "partition",
    "personalised",
    "quantity_skew",
]
