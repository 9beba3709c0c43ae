"""Models of the zoo as users of Flax Linen, Equinox and plain JAX write them."""

from benchmarks.doubles.double import Double
from benchmarks.doubles.equinox import EQUINOX
from benchmarks.doubles.linen import LINEN
from benchmarks.doubles.plain import PLAIN

__all__ = ["EQUINOX", "LINEN", "PLAIN", "Double"]
