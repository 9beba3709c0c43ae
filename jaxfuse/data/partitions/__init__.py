"""How training examples are shared out between models or clients, one scheme per file."""

from jaxfuse.data.partitions.dirichlet import dirichlet
from jaxfuse.data.partitions.homogeneous import homogeneous
from jaxfuse.data.partitions.personalised import personalised

__all__ = [
    "dirichlet",
    "homogeneous",
    "personalised",
]
