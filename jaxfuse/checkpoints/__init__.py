"""Networks on disk: safetensors and orbax, in Flax's and PyTorch's layouts."""

from jaxfuse.checkpoints.convert import convert
from jaxfuse.checkpoints.layout import describe
from jaxfuse.checkpoints.read import read
from jaxfuse.checkpoints.write import write

__all__ = ["convert", "describe", "read", "write"]
