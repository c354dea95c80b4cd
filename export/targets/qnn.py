"""Qualcomm's QNN: a context compiled for the NPU (Hexagon HTP) of one Snapdragon, by the user's own copy of the SDK."""

from __future__ import annotations

from export.targets.target import FLOATS, Soc, Target
from export.tolerance import tolerances
from runtime_py.qnn_session import require_qnn

_QUANTISED = (
    "its compiler wants activations of 16 bits beside weights of few, and its emulator crashes on one (SIGSEGV), "
    "so that nothing would prove it"
)

TARGET = Target(
    name="qnn",
    suffix=".qnn",
    runs_on="Android 8.1 on the Snapdragon that it is compiled for",
    proved_by="Qualcomm's emulator of the NPU (HTP) on x86-64",
    never_run="a Snapdragon",
    apps=("android_demo",),
    default_for=(),
    converter="export.targets.qnn_converter",
    packages=("onnxruntime_qnn", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "torch"),
    prepare=require_qnn,
    tolerances=tolerances(unet=("fp16",), hypernet=("fp16",), text_encoders=("fp16",), vae=("fp16",)),
    not_offered={
        "fp32": "the NPU computes in fp16 whatever it is given",
        **dict.fromkeys(("w8", "w6", "w4"), _QUANTISED),
    },
    default_precision="fp16",
    free_rank=False,
    # Of the plain form's products with a bias as a column, the compiler runs out of memory.
    hypernet_form="transposed",
    # The emulator crashes (SIGSEGV) at InstanceNormalization of two images.
    replaced=("group norm as layer norm", "time embedding with a precise silu"),
    bytes_per_weight={"fp16": FLOATS["fp16"]},
    socs=(
        Soc("sm8550", "Snapdragon 8 Gen 2", htp_arch=73, model=43),
        Soc("sm8650", "Snapdragon 8 Gen 3", htp_arch=75, model=57),
        Soc("sm8750", "Snapdragon 8 Elite", htp_arch=79, model=69),
        Soc("sm8850", "Snapdragon 8 Elite Gen 5", htp_arch=81, model=87),
    ),
)
