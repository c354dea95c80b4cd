"""Make tests/golden/hypernet again: a tiny bundle, two LoRA files in two dialects, and the dense merge they mean.

    python tests/support/make_golden_hypernet.py

The expected ΔW_m comes from the dense Eq. 2 in float64, not from an artifact. The Kotlin and Swift engines read them
too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tiny_world import dense_reference, random_lora, tiny_hypernet, tiny_layout

from export.options import HypernetOptions
from export.write import write_hypernet
from lorarar.lora import write_lora

FOLDER = Path(__file__).parents[1] / "golden" / "hypernet"
RANK = 4
SCALES = (0.9, 1.1)


def make(folder: Path) -> None:
    """Write everything into `folder`."""
    layout = tiny_layout("transformer")
    write_hypernet(tiny_hypernet(), layout, HypernetOptions("onnx", "fp32", RANK), folder / "bundle")
    content, style = random_lora(layout, (4, 2), 1), random_lora(layout, (3,), 2)
    write_lora(content, folder / "content.safetensors", dialect="kohya")
    write_lora(style, folder / "style.safetensors", dialect="peft")
    expected = dense_reference(layout, content, style, SCALES)
    save_file(
        {name: dense.delta.astype(np.float32) for name, dense in expected.items()}, folder / "expected.safetensors"
    )


if __name__ == "__main__":
    make(FOLDER)
