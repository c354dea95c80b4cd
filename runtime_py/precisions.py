"""The precisions in which each target has a UNet, and why it lacks the others."""

from __future__ import annotations

from collections.abc import Mapping

PRECISIONS = ("fp32", "fp16", "w8", "w6", "w4")
"""Bits of the numbers; with w, of the base's weights alone."""

UNET_PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("fp32", "fp16", "w8", "w4"),
    "coreml": ("fp16", "fp32", "w8", "w6", "w4"),
    "executorch": ("fp32", "fp16", "w8", "w4"),
}
"""How: ONNX Runtime's MatMulNBits of 8 and 4 bits; Core ML's linear 8 bits, and palettes of 6 and 4; XNNPACK's 8 and
4 bits with activations of 8.
"""
NOT_OFFERED: Mapping[tuple[str, str], str] = {
    ("onnx", "w6"): "ONNX Runtime multiplies by weights of 8 and of 4 bits, none between",
    ("executorch", "w6"): "XNNPACK multiplies by weights of 8 and of 4 bits, none between",
}
"""(target, precision) → the reason. Every precision of PRECISIONS is either offered or here."""


def offer(target: str) -> str:
    """A sentence for people: what there is besides, and what there is not."""
    lacking = [f"not {name}: {NOT_OFFERED[target, name]}" for name in PRECISIONS if (target, name) in NOT_OFFERED]
    return "; ".join([f"{target} has the UNet in {', '.join(UNET_PRECISIONS[target])}", *lacking])
