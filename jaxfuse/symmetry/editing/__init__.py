"""Change a symmetry by hand: pin groups, split them, add others."""

from jaxfuse.symmetry.editing.override import add, pin
from jaxfuse.symmetry.editing.split import split

__all__ = ["add", "pin", "split"]
