"""Align networks that are larger than memory: their tensors are streamed from disk."""

from jaxfuse.streaming.align import CheckpointAlignment, align_checkpoints
from jaxfuse.streaming.plan import needed_memory

__all__ = ["CheckpointAlignment", "align_checkpoints", "needed_memory"]
