"""Gives the exports what their types forbid, as a program without a type checker may; the tests check all types.

Run in an empty folder; prints each case's error as JSON.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

from untyped import error_of

import export

CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("unknown `target` ['onnx']", export.hypernet, {"target": ["onnx"]}),
    ("`base` is", export.hypernet, {"base": 5}),
    ("`rank` is '4'", export.hypernet, {"rank": "4"}),
    ("`rank` is 4.0", export.hypernet, {"rank": 4.0}),
    ("`loras` is '2'", export.hypernet, {"loras": "2"}),
    ("`precision` is", export.hypernet, {"precision": 5}),
    ("`soc` is", export.hypernet, {"soc": 5}),
    ("`out` is 5", export.hypernet, {"out": 5}),
    ("`hypernet` is 5", export.hypernet, {"hypernet": 5}),
    ("`fused` is 5", export.unet, {"fused": 5}),
    ("5 is no LoRA", export.unet, {"fused": [5, 6]}),
    ("`adapt` is 5", export.unet, {"adapt": 5}),
    ("`adapt` is ['attention']", export.unet, {"adapt": ["attention"]}),
    ("a `resolution` of '96'", export.unet, {"resolution": "96"}),
    ("`batch` is '2'", export.unet, {"batch": "2"}),
    ("`batch` is 2.0", export.unet, {"batch": 2.0}),
    ("`steps` is '2'", export.pipeline, {"steps": "2"}),
    ("`guidance` is '2'", export.pipeline, {"guidance": "2"}),
    ("`guidance_rescale` is '1'", export.pipeline, {"guidance_rescale": "1"}),
    ("`vae_tile` is '64'", export.pipeline, {"vae_tile": "64"}),
    ("5: no such folder", export.pipeline, {"tiny_vae": 5}),
]


def main() -> None:
    usual = {"base": "miniature", "target": "onnx", "out": "bundle"}
    json.dump([[said, *error_of(partial(call, **usual | given))] for said, call, given in CASES], sys.stdout)


if __name__ == "__main__":
    main()
