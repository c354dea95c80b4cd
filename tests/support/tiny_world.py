"""A base small enough to export in seconds: its layout, LoRAs, hypernetwork, and what Eq. 2 makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lorarar.layout import UNET, Layout
from lorarar.lora import LoRA, LoraLayer
from lorarar.merging import RULES

if TYPE_CHECKING:
    from lorarar.hypernet.checkpoints import LoadedPredictor
    from lorarar.hypernet.network import Hypernetwork

BUNDLE_RANK = 128  # of the fixed-rank bundles: the largest that the property tests use
COMBINATIONS = [
    ("onnx", "fp32"),
    ("onnx", "fp16"),
    ("coreml", "fp32"),
    ("coreml", "fp16"),
    ("coreai", "fp32"),
    ("coreai", "fp16"),
    ("executorch", "fp32"),
    ("executorch", "fp16"),
    ("qnn", "fp16"),
]


def soc_of(target: str) -> str | None:
    """Return a chip to compile for, where a target compiles for one."""
    return {"qnn": "sm8650"}.get(target)


def tiny_layout(adapt: str = "attention") -> Layout:
    """SDXL's groups in small: two learned widths, self-attention and cross-attention keys; or whole transformers."""
    linears = []
    for block, width in (("down_blocks.1", 32), ("down_blocks.2", 64), ("up_blocks.0", 64)):
        for attention, inp in (("attn1", width), ("attn2", 48)):
            prefix = f"{block}.attentions.0.transformer_blocks.0.{attention}"
            linears += [(f"{prefix}.to_q", width, width), (f"{prefix}.to_k", inp, width)]
            linears += [(f"{prefix}.to_v", inp, width), (f"{prefix}.to_out.0", width, width)]
        prefix = f"{block}.attentions.0"
        linears += [(f"{prefix}.transformer_blocks.0.ff.net.0.proj", width, 8 * width)]
        linears += [(f"{prefix}.transformer_blocks.0.ff.net.2", 4 * width, width)]
        linears += [(f"{prefix}.proj_in", width, width), (f"{prefix}.proj_out", width, width)]
    return Layout.from_linears("tiny", linears, adapt)


def random_lora(
    layout: Layout, ranks: tuple[int, ...], seed: int, up_scale: float = 1.0, down_scale: float = 1.0
) -> LoRA:
    """Every layer of the layout, with the given ranks in turn. Scale 0 gives layers of zeros."""
    generator = np.random.default_rng(seed)
    layers = {}
    for group in layout.groups:
        for row, name in enumerate(group.layers):
            rank = ranks[row % len(ranks)]
            down = generator.standard_normal((rank, group.in_features)).astype(np.float32) * np.float32(down_scale)
            up = generator.standard_normal((group.out_features, rank)).astype(np.float32) * np.float32(up_scale)
            layers[name] = LoraLayer(down, up)
    return LoRA(layers, source=f"random {seed}")


def tiny_hypernet() -> LoadedPredictor:
    """A hypernetwork for the tiny layout's widths, always the same."""
    from lorarar.hypernet.checkpoints import open_predictor
    from lorarar.hypernet.network import HypernetConfig, Hypernetwork

    network = Hypernetwork.untrained(HypernetConfig(widths=(32, 64), hidden=16), seed=3).eval()
    return open_predictor("tiny", tiny_layout(), network)


class Dense(NamedTuple):
    """A layer's ΔW_m in float64, and the value that a share of error is a share of."""

    delta: np.ndarray
    largest: float


def dense_reference(layout: Layout, content: LoRA, style: LoRA, scales: tuple[float, float]) -> dict[str, Dense]:
    """ΔW_m by Eq. 2 on dense matrices in float64, with the paper's dense hypernetwork."""
    hypernet = tiny_hypernet().predictor.double()
    merged = {}
    for group in layout.groups:
        for module in group.modules:
            pair = [dense_delta(lora.layers[UNET + module]) for lora in (content, style)]
            if group.part == "qo":
                applied, terms = dense_coefficients(hypernet, *pair)
            else:
                applied = terms = np.full((2, 1), RULES["average"])
            merged[UNET + module] = dense_sum(pair, applied, terms, scales)
    return merged


def dense_delta(layer: LoraLayer) -> np.ndarray:
    """ΔW of a linear in float64."""
    return layer.up.astype(np.float64) @ layer.down.astype(np.float64)


def dense_coefficients(hypernet: Hypernetwork, content: np.ndarray, style: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients (2, in) of two dense ΔW, and the sum of the magnitudes of what the last layer adds up to each.

    `hypernet` is in float64.
    """
    import torch

    with torch.inference_mode():
        hidden = hypernet.input_layer(len(content))(torch.from_numpy(np.concatenate([content, style]).T)).relu()
        weight, bias = hypernet.output.weight, hypernet.output.bias
        return (hidden @ weight.T + bias).T.numpy(), (hidden @ weight.abs().T + bias.abs()).T.numpy()


def dense_sum(pair: list[np.ndarray], applied: np.ndarray, terms: np.ndarray, scales: tuple[float, float]) -> Dense:
    """s_c·m_c·ΔW_c + s_s·m_s·ΔW_s, where `terms` are the magnitudes that the coefficients were summed from."""
    delta = sum(scale * m * part for scale, m, part in zip(scales, applied, pair, strict=True))
    parts = sum(abs(scale) * m * abs(part) for scale, m, part in zip(scales, terms, pair, strict=True))
    return Dense(np.asarray(delta), largest(np.asarray(delta), np.asarray(parts)))


def largest(sums: np.ndarray, terms: np.ndarray) -> float:
    """The value that a share of error is a share of: the largest of `sums`, whose terms' magnitudes add up to `terms`.

    Every term is rounded before it is added, in any order of sums and in PyTorch too. Where they cancel to less than
    an eighth of themselves, a share of what is left is more than fp32 or fp16 can promise, and it is of that eighth.
    """
    return max(float(np.abs(sums).max()), float(terms.max()) / 8)
