"""Makes settings of numpy's numbers, as a sweep over an array does; the tests check all types, which forbid them.

Prints for each class what its settings are as JSON, made of numpy's numbers and of Python's.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from export.graph import ImageSize
from export.options import HypernetOptions, PipelineOptions
from lorarar.evaluation.settings import EvaluationSettings
from lorarar.training.hyper_settings import HyperSettings, LossSettings, ZipSettings
from lorarar.training.settings import LoraSettings

NUMPYS = {bool: np.bool_, int: np.int64, float: np.float64}
MADE: list[Any] = [
    *(kind() for kind in (EvaluationSettings, HyperSettings, LossSettings, ZipSettings, LoraSettings)),
    ImageSize(64, 8, 2),
    HypernetOptions("onnx", "fp32", 4),
    PipelineOptions("onnx", "fp32", 4, ImageSize(64, 8, 2), 25, 2.0, vae_tile=32),
]


def main() -> None:
    found = []
    for plain in MADE:
        values = {item.name: getattr(plain, item.name) for item in fields(plain)}
        numpys = {name: NUMPYS.get(type(value), lambda same: same)(value) for name, value in values.items()}
        found.append([json.dumps(asdict(made)) for made in (type(plain)(**numpys), plain)])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
