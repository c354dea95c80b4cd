"""Core AI: an .aimodel of fixed shapes, which iOS 27 and macOS 27 specialise for the device when it is loaded."""

from __future__ import annotations

from export.targets.target import FLOATS, ExportCost, Target, WeightBytes
from export.tolerance import tolerances
from lorarar.toolchains import import_coreai

TARGET = Target(
    name="coreai",
    suffix=".aimodel",
    runs_on="iOS 27, macOS 27",
    proved_by="Apple's own runtime on Linux, one thread of the CPU; its products of fp16 are widened to fp32",
    never_run="Apple's kernels: the Neural Engine and the GPU of an iPhone or a Mac",
    apps=("ios_demo",),
    default_for=("ios_demo",),
    converter="export.targets.coreai_converter",
    packages=("coreai_torch", "coreai", "coreai_opt", "torch"),
    prepare=import_coreai,
    tolerances=tolerances(unet=("fp16", "fp32", "w8", "w6", "w4"), hypernet=("fp32", "fp16"), vae=("fp32", "fp16")),
    default_precision="fp16",
    free_rank=False,
    hypernet_form="plain",
    neural_engine=True,
    half_io=("fp16", "w8", "w6", "w4"),  # weights of few bits are made from the fp16 program
    # Palettes of w4 have 6 bits for convolutions.
    bytes_per_weight={
        **FLOATS,
        "w8": WeightBytes(1.0, 1.0, 2.0),
        "w6": WeightBytes(0.75, 0.75, 2.0),
        "w4": WeightBytes(0.5, 0.75, 2.0),
    },
    costs={"fp16": ExportCost(0.28, 5.1)},
)
