"""Evaluation: MARS², similarity metrics, and the paper's tables and grids."""
