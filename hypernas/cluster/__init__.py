"""Ray: batches are scored and networks trained as trials of Ray Tune, on this machine or on a cluster.

Ray is imported nowhere else, and here only inside functions.
"""

from hypernas.cluster.engine import RayEngine

__all__ = ["RayEngine"]
