"""Evaluation: MARS², similarity metrics, the paper's tables and grids, and the human study."""
