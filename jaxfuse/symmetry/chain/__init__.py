"""The symmetry of a feed-forward chain, read off its parameter tree alone."""

from jaxfuse.symmetry.chain.infer import Chain, infer_chain, read_chain

__all__ = ["Chain", "infer_chain", "read_chain"]
