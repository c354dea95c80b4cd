"""LoRA.rar: a hypernetwork merges a content LoRA and a style LoRA in one forward pass (arXiv 2412.05148)."""

__version__ = "0.1.0"
