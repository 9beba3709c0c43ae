"""All bundled models by the name of their variant."""

from collections.abc import Mapping
from types import MappingProxyType

from jaxfuse.models.example import Example
from jaxfuse.models.sequence import SEQUENCE
from jaxfuse.models.vision import VISION

ZOO: Mapping[str, Example] = MappingProxyType({**VISION, **SEQUENCE})
"""Every variant, small and at its published size."""
