"""The one tolerance table: (component, target, precision) → least PSNR, largest error as a share of the largest value.

A combination that is not here is not offered. No number is loosened to let an artifact pass.
"""

from __future__ import annotations

from lorarar.errors import InputError
from runtime_py.parity import Tolerance
from runtime_py.precisions import NOT_OFFERED, UNET_PRECISIONS

_FP32_MERGER = Tolerance(psnr_db=100.0, max_error=1e-5)
_FP16_MERGER = Tolerance(psnr_db=60.0, max_error=2e-3)

# The field gates a UNet at 30–40 dB whatever the precision. The largest of an image's errors is 5 to 10 times their
# root mean square.
_UNET = {
    "fp32": Tolerance(psnr_db=100.0, max_error=1e-4),
    "fp16": Tolerance(psnr_db=60.0, max_error=1e-2),
    "w8": Tolerance(psnr_db=45.0, max_error=0.05),
    "w6": Tolerance(psnr_db=35.0, max_error=0.15),
    "w4": Tolerance(psnr_db=25.0, max_error=0.4),
}
_TEXT = ("text_encoder", "text_encoder_2")
_TEXT_PRECISIONS = ("fp32", "fp16", "w8")
# A whole image by the precision of its UNet, whose errors grow from step to step; at 40 dB no eye sees a difference.
_IMAGE = {
    "fp32": Tolerance(psnr_db=80.0, max_error=2e-3),
    "fp16": Tolerance(psnr_db=40.0, max_error=0.1),
    "w8": Tolerance(psnr_db=30.0, max_error=0.25),
    "w6": Tolerance(psnr_db=25.0, max_error=0.4),
    "w4": Tolerance(psnr_db=20.0, max_error=0.5),
}

TOLERANCES: dict[tuple[str, str, str], Tolerance] = {
    ("merger", "onnx", "fp32"): _FP32_MERGER,
    ("merger", "onnx", "fp16"): _FP16_MERGER,
    ("merger", "coreml", "fp32"): _FP32_MERGER,
    ("merger", "coreml", "fp16"): _FP16_MERGER,
    ("merger", "executorch", "fp32"): _FP32_MERGER,
    **{("unet", target, name): _UNET[name] for target, names in UNET_PRECISIONS.items() for name in names},
    **{(part, target, name): _UNET[name] for part in _TEXT for target in UNET_PRECISIONS for name in _TEXT_PRECISIONS},
    **{("vae_decoder", target, "fp32"): _UNET["fp32"] for target in UNET_PRECISIONS},
    **{("pipeline", target, name): _IMAGE[name] for target, names in UNET_PRECISIONS.items() for name in names},
}


def part_precision(component: str, unet: str) -> str:
    """A component's precision in a pipeline whose UNet has the precision `unet`.

    Text encoders are a third of SDXL's weights, so they follow it, but not below 8 bits: what they lose, every image
    loses. SDXL's VAE overflows in fp16, and the merger is small.
    """
    if component == "unet":
        return unet
    if component in _TEXT:
        return unet if unet in _TEXT_PRECISIONS else _TEXT_PRECISIONS[-1]
    return "fp32"


def tolerance(component: str, target: str, precision: str) -> Tolerance:
    """The tolerance of a combination, or InputError with the precisions that the target offers."""
    found = TOLERANCES.get((component, target, precision))
    if found is None:
        offered = [p for c, t, p in TOLERANCES if (c, t) == (component, target)]
        reason = NOT_OFFERED.get((target, precision)) if component == "unet" else None
        why = f": {reason}" if reason else ""
        raise InputError(f"--target {target} offers the {component} in {', '.join(offered)}, not in {precision}{why}")
    return found
