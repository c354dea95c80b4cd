"""The tolerance of every component in every precision: the least PSNR, and the largest error in shares of the peak.

A precision that has no row here is offered by no target. No number is loosened to let an artifact pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runtime_py.parity import DeltaTolerance, Tolerance

PRECISIONS = ("fp32", "fp16", "w8", "w6", "w4")
"""Bits of the numbers; with w, those of the base's weights alone."""

Tolerances = Mapping[str, Mapping[str, Tolerance]]
"""Component → precision → tolerance."""

_HYPERNET = {
    "fp32": Tolerance(psnr_db=100.0, max_error=1e-5),
    "fp16": Tolerance(psnr_db=60.0, max_error=2e-3),
}
# What the LoRAs change is a small part of the output, which can be right to 60 dB with half of it lost.
_DELTA = {
    "fp32": DeltaTolerance(gain_error=1e-4, cosine=0.99999),
    "fp16": DeltaTolerance(gain_error=0.01, cosine=0.999),
    "w8": DeltaTolerance(gain_error=0.03, cosine=0.99),
    "w6": DeltaTolerance(gain_error=0.1, cosine=0.95),
    "w4": DeltaTolerance(gain_error=0.2, cosine=0.8),
}
# The field gates a UNet at 30–40 dB whatever the precision. The largest of an image's errors is 5 to 10 times their
# root mean square.
_UNET = {
    "fp32": Tolerance(psnr_db=100.0, max_error=1e-4),
    "fp16": Tolerance(psnr_db=60.0, max_error=1e-2),
    "w8": Tolerance(psnr_db=45.0, max_error=0.05),
    "w6": Tolerance(psnr_db=35.0, max_error=0.15),
    "w4": Tolerance(psnr_db=25.0, max_error=0.4),
}
# A whole image by the precision of its UNet, whose errors grow from step to step; at 40 dB no eye sees a difference.
_IMAGE = {
    "fp32": Tolerance(psnr_db=80.0, max_error=2e-3),
    "fp16": Tolerance(psnr_db=40.0, max_error=0.1),
    "w8": Tolerance(psnr_db=30.0, max_error=0.25),
    "w6": Tolerance(psnr_db=25.0, max_error=0.4),
    "w4": Tolerance(psnr_db=20.0, max_error=0.5),
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TEXT_PRECISIONS = ("fp32", "fp16", "w8")


def tolerances(
    unet: tuple[str, ...],
    hypernet: tuple[str, ...],
    text_encoders: tuple[str, ...] = TEXT_PRECISIONS,
    vae: tuple[str, ...] = ("fp32",),
) -> Tolerances:
    """Return the tolerances of a target that offers its components in these precisions.

    The precisions keep their order; the one that the target is best at stands first.
    """
    live = {precision: replace(_UNET[precision], delta=_DELTA[precision]) for precision in PRECISIONS}
    return {
        "hypernet": {precision: _HYPERNET[precision] for precision in hypernet},
        "unet": {precision: live[precision] for precision in unet},
        **{name: {precision: live[precision] for precision in text_encoders} for name in TEXT_ENCODERS},
        "vae_decoder": {precision: _UNET[precision] for precision in vae},
        "pipeline": {precision: _IMAGE[precision] for precision in unet},
    }
