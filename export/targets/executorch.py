"""ExecuTorch with XNNPACK: a .pte of fixed shapes, for Android and iOS."""

from __future__ import annotations

from export.targets.target import FLOATS, ExportCost, Target, WeightBytes
from export.tolerance import tolerances

TARGET = Target(
    name="executorch",
    suffix=".pte",
    runs_on="Android 8",  # as the demo app asks for
    proved_by="ExecuTorch's own runtime with XNNPACK, on x86-64 and on an emulated arm64 phone",
    never_run="a phone's CPU",
    apps=("android_demo",),
    default_for=(),
    converter="export.targets.executorch_converter",
    packages=("executorch", "torchao", "torch"),
    tolerances=tolerances(unet=("fp32", "fp16", "w8", "w4"), hypernet=("fp32", "fp16")),
    not_offered={"w6": "XNNPACK multiplies by weights of 8 and of 4 bits, none between"},
    default_precision="fp32",
    free_rank=False,
    # XNNPACK takes this form as one delegate (KOALA-700M, rank 64: 77 ms); of the plain one 12 `expand_copy` stay with
    # the portable kernels (148 ms).
    hypernet_form="transposed",
    adapter_form="bmm",
    replaced=("attention in products", "layer norm in plain operations"),
    # Linears alone are compressed; w4 has a scale of 4 bytes for each 32 weights.
    bytes_per_weight={**FLOATS, "w8": WeightBytes(1.0, 4.0, 4.0), "w4": WeightBytes(0.5 + 4 / 32, 4.0, 4.0)},
    costs={"fp32": ExportCost(0.29, 10.7), "w8": ExportCost(0.35, 6.5)},
)
