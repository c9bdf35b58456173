"""The table of conversions: what each ATen operation is in primitives. Every file here adds its own entries."""

from hypernas.graphs.tracing.operators import arithmetic, functions, layers, picking, pooling, reshaping
from hypernas.graphs.tracing.operators.table import CONVERSIONS, Arguments

__all__ = ["CONVERSIONS", "Arguments", "arithmetic", "functions", "layers", "picking", "pooling", "reshaping"]
