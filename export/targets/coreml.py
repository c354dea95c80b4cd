"""Core ML: an ML program of fixed shapes, since the Neural Engine takes no others."""

from __future__ import annotations

from export.targets.target import FLOATS, ExportCost, Target, WeightBytes
from export.tolerance import tolerances
from lorarar.toolchains import import_coremltools
from runtime_py.component import INNER, NEURAL_ENGINE_BYTES

TARGET = Target(
    name="coreml",
    suffix=".mlpackage",
    runs_on="iOS 17, macOS 14",
    proved_by="our evaluator of the saved program (`runtime_py/mil`), in fp32 and rounding to fp16",
    never_run="Core ML itself: the Neural Engine, GPU and CPU of an iPhone or a Mac",
    apps=("ios_demo",),
    default_for=("ios_demo",),
    converter="export.targets.coreml_converter",
    packages=("coremltools", "torch"),
    prepare=import_coremltools,
    tolerances=tolerances(unet=("fp16", "fp32", "w8", "w6", "w4"), hypernet=("fp32", "fp16"), vae=("fp32", "fp16")),
    default_precision="fp16",
    free_rank=False,
    hypernet_form="plain",
    half_io=("fp16", "w8", "w6", "w4"),  # weights of few bits are made from the fp16 program
    replaced=(
        "group norm as layer norm of rows",
        "transformers with channels first",
        "attention over pixels with channels first",
        "linears as convolutions",
    ),
    rank_multiple=INNER,
    chunk_bytes=NEURAL_ENGINE_BYTES,
    neural_engine=True,
    # Palettes of w4 have 6 bits for convolutions.
    bytes_per_weight={
        **FLOATS,
        "w8": WeightBytes(1.0, 1.0, 1.0),
        "w6": WeightBytes(0.75, 0.75, 0.75),
        "w4": WeightBytes(0.5, 0.75, 0.5),
    },
    costs={"fp16": ExportCost(0.22, 4.7)},
)
