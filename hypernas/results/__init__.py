"""Results for people: finding an earlier search, the statistics and figures about it, its report, and comparisons.

Nothing here imports MLflow; what only MLflow has is asked of ``hypernas.tracking``.
"""
