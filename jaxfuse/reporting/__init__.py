"""Comparisons of fused networks with their parents: measured, tabulated, drawn."""

from jaxfuse.reporting.comparison import Comparison, Curve, Row, compare
from jaxfuse.reporting.plot import plot_barriers
from jaxfuse.reporting.table import comparison_table

__all__ = ["Comparison", "Curve", "Row", "compare", "comparison_table", "plot_barriers"]
