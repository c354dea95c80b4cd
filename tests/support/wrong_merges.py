"""Gives merges and LoRAs what their types forbid, as a program without a type checker may; the tests check all types.

Prints each case's error as JSON.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from untyped import error_of

import lorarar as lr
from lorarar.hypernet.network import ConstantCoefficients

ROLES = Path(__file__).parents[1] / "golden" / "hypernet"
EXAMPLES: dict[str, Any] = {
    "content_images": [],
    "content_prompt": "a sks dog",
    "style_images": [],
    "style_prompt": "a house",
}
DOWN, UP = np.ones((2, 8), np.float32), np.ones((8, 2), np.float32)
LAYER = lr.LoraLayer(DOWN, UP)

CASES: list[tuple[str, Any, tuple[Any, ...], dict[str, Any]]] = [
    *(("`base` is", lr.merge, (), {"base": given}) for given in (None, ["sdxl"], 5)),
    *(("`hypernet` is", lr.merge, (), {"hypernet": given}) for given in (5, ["a"])),
    ("`hypernet` is ConstantCoefficients", lr.merge, (), {"hypernet": ConstantCoefficients()}),
    *(("`settings` are", lr.merge, (), {"method": "ziplora", "settings": given} | EXAMPLES) for given in ("x", 5)),
    *(
        ("`content_images` is", lr.merge, (), {"method": "ziplora"} | EXAMPLES | {"content_images": given})
        for given in (5, [5], {"a": 1})
    ),
    *(
        ("`style_prompt` is", lr.merge, (), {"method": "ssr", "content_prompt": "a", "style_prompt": given})
        for given in (5, b"a")
    ),
    ("`down` is a list", lr.LoraLayer, ([[1.0]], UP), {}),
    ("`down` is a Tensor", lr.LoraLayer, (torch.ones(2, 8), UP), {}),
    *(
        (f"`{name}` holds {dtype}", lr.LoraLayer, (DOWN.astype(down), UP.astype(up)), {})
        for name, dtype, down, up in (
            ("down", "float64", "f8", "f4"),
            ("up", "complex128", "f4", "c16"),
            ("down", "int64", "i8", "f4"),
            ("up", "object", "f4", "O"),
        )
    ),
    *(("`down` and `up` are for a weight", lr.LoraLayer, pair, {}) for pair in ((DOWN[:, :0], UP), (DOWN, UP[:0]))),
    *(("memory: `layers` are no", lr.LoRA, (given,), {}) for given in ([1], {"unet.a": (DOWN, UP)}, {5: LAYER}, None)),
    *(
        ("memory: `metadata` are not", lr.LoRA, ({},), {"metadata": given})
        for given in ({"a": 5}, {5: "a"}, ["x"], None)
    ),
    ("`up` is a NoneType", lr.LoraLayer, (DOWN, None), {}),
]


def main() -> None:
    loras = [ROLES / f"{role}.safetensors" for role in ("content", "style")]
    found = []
    for said, call, positional, named in CASES:
        given = loras if call is lr.merge else positional
        found.append([said, *error_of(partial(call, *given, **named))])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
