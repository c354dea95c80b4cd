"""LoRA.rar: a hypernetwork merges a content LoRA and a style LoRA in one forward pass (arXiv 2412.05148)."""

import os

# From 1.29 on, ONNX Runtime's packages tell its maker what they run, unless this is set before they are loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
