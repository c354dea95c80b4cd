"""ONNX, as ONNX Runtime runs it on Android and iOS: standard operators, and the rank left open."""

from __future__ import annotations

from export.targets.target import FLOATS, ExportCost, Target, WeightBytes
from export.tolerance import tolerances

TARGET = Target(
    name="onnx",
    suffix=".onnx",
    runs_on="Android 8",  # as the demo app asks for; its engine in Swift runs it on computers
    proved_by="ONNX Runtime's CPU kernels, on x86-64 and on an emulated arm64 phone",
    never_run="a phone's CPU; NNAPI and XNNPACK through ONNX Runtime",
    apps=("android_demo",),
    default_for=("android_demo",),
    converter="export.targets.onnx_converter",
    packages=("onnx", "onnx_ir", "onnxscript", "onnxruntime", "torch"),
    tolerances=tolerances(unet=("fp32", "fp16", "w8", "w4"), hypernet=("fp32", "fp16")),
    not_offered={"w6": "ONNX Runtime multiplies by weights of 8 and of 4 bits, none between"},
    default_precision="fp32",
    free_rank=True,
    hypernet_form="plain",
    # MatMulNBits has a scale of 4 bytes for each 32 weights; convolutions are int8 at 4 bits too.
    bytes_per_weight={**FLOATS, "w8": WeightBytes(1 + 4 / 32, 1.0, 4.0), "w4": WeightBytes(0.5 + 4 / 32, 1.0, 4.0)},
    costs={"fp32": ExportCost(0.115, 6.7), "fp16": ExportCost(0.09, 4.1)},
)
