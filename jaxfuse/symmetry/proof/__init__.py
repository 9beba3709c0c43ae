"""Prove a symmetry numerically: that it holds, and that nothing is missing."""

from jaxfuse.symmetry.proof.verify import Verification, verify

__all__ = ["Verification", "verify"]
