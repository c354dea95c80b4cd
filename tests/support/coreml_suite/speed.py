"""Time the evaluator against PyTorch, in turn, on a quiet machine: `python -m coreml_suite.speed`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from coreml_suite.apple import stable_diffusion
from coreml_suite.packages import ROOT, converted, timm_network, torchvision_network
from coreml_suite.special import Job

from lorarar.machine import machine_name
from runtime_py.mil import Program

OUT = ROOT / "build" / "coreml" / "speed.json"
NETWORKS: dict[str, Callable[[], Job]] = {
    **{f"torchvision {name}": lambda name=name: torchvision_network(name) for name in ("mobilenet_v2", "resnet50")},
    "torchvision convnext_tiny": lambda: torchvision_network("convnext_tiny"),
    "timm vit_tiny_patch16_224": lambda: timm_network("vit_tiny_patch16_224"),
}
LIMITS = {"fp32": 2.0, "fp16": 3.0}  # times PyTorch's own, by the evaluator's mode


def main(argv: Sequence[str] | None = None) -> int:
    """Time each network, print its ratios, and note them."""
    parser = argparse.ArgumentParser(prog="coreml_suite.speed", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--apple", type=Path, metavar="DIR", help="a checkout of github.com/apple/ml-stable-diffusion")
    args = parser.parse_args(argv)
    networks = dict(NETWORKS)
    if args.apple is not None:
        networks["Apple's UNet, 128 and 256 channels"] = lambda: stable_diffusion(
            args.apple, "ORIGINAL", (128, 256), 32
        )
    found = []
    for name, make in networks.items():
        with tempfile.TemporaryDirectory() as folder:
            found.append({"name": name, "host": machine_name(), **timed(make(), Path(folder), args.rounds)})
        print(found[-1], flush=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if any(each[mode] > limit for each in found for mode, limit in LIMITS.items()) else 0


def timed(job: Job, folder: Path, rounds: int) -> dict[str, Any]:
    """Return PyTorch's milliseconds and, by mode, the median ratio of the evaluator's to PyTorch's beside it."""
    module, inputs = job
    module.eval()
    given = {name: value.numpy() for name, value in inputs.items()}
    found: dict[str, Any] = {}
    for mode, program in converted(job, folder):

        def ours(program: Program = program, mode: str = mode) -> None:
            program.run(given, mode)

        def theirs() -> None:
            with torch.inference_mode():
                module(*inputs.values())

        pairs = [(seconds(theirs), seconds(ours)) for _ in range(rounds + 1)][1:]  # the first one warms up
        found["torch_ms"] = round(1000 * median(first for first, _ in pairs), 1)
        found[mode] = round(median(other / first for first, other in pairs), 2)
    return found


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
