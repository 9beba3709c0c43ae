"""The command `jaxfuse`."""

from jaxfuse.cli.main import main

__all__ = ["main"]
