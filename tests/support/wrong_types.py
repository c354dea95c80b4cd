"""Gives a session what its types forbid, as a program without a type checker may; the tests check all types.

Run with a bundle of stand-ins; prints each case's error, and what was loaded before it, as JSON.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from stand_in import HYPERNET, StandIn, stand_in_backend
from untyped import error_of

from lorarar.composed import ComposedStart
from lorarar.lora import read_lora
from lorarar.merging import MergeOptions
from runtime_py import Bundle
from runtime_py.backends import onnx
from runtime_py.session import Session

BLOCK, LAYER = "down_blocks.1", "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k"
CONTENT = HYPERNET / "content.safetensors"
START = ComposedStart("a cat", "an animal")
NO_NUMBERS: list[Any] = ["x", [("a", 1)], ((1, 2), 1), [(1, 1), (1, 10**400)], None]
NO_DICT: list[Any] = [1.0, [1.0], "x", np.ones(2)]


def wrong(session: Session) -> dict[str, Any]:
    """Return the calls by the beginning of the error that each has to end in."""
    ask = session.pipeline.request
    request = ask("a cat", steps=2)
    cases: dict[str, list[Any]] = {
        "`strengths` are": [
            *(lambda given=given: session.merge(strengths=given) for given in (1.0, *NO_NUMBERS[:-1])),
            *(lambda given=given: session.draw_strengths(request, [(1, 1), given]) for given in (1.0, *NO_NUMBERS)),
        ],
        "`schedule` has": [
            *(lambda given=given: session.draw(request, given) for given in (1.0, [1.0, 0.5], *NO_NUMBERS[:-1])),
            *(lambda given=given: session.draw(request, [given]) for given in NO_NUMBERS),
        ],
        f"`block_weights` of {BLOCK} are": [
            lambda given=given: session.merge("direct", block_weights={BLOCK: given}) for given in NO_NUMBERS
        ],
        f"`coefficients` of {LAYER} are not": [
            lambda given=given: session.merge(coefficients={LAYER: given}) for given in NO_NUMBERS
        ],
        "`loras` are a list": [
            lambda given=given: session.load(given) for given in ("a", Path("a"), read_lora(CONTENT), {"a": 1}, None, 5)
        ],
        "5 is no LoRA": [lambda: session.load([5])],
        "5 is no LoRA to read": [lambda: read_lora(5)],
        "None is no LoRA to read": [lambda: read_lora(None)],
        "`config` is": [lambda given=given: read_lora({}, config=given) for given in ([], 5)],
        "None is no LoRA": [lambda: session.load([None])],
        "`composed_share` is '0.5'": [lambda: ComposedStart("a", "b", "0.5")],
        "a composed start needs": [lambda: ComposedStart(None, "x"), lambda: ComposedStart("x", 5)],
        "`composed` is": [lambda: ask("a", composed="x")],
        "`block_weights` names 0": [lambda: session.merge("direct", block_weights={0: 1.0})],
        "`density` is": [lambda given=given: MergeOptions(density=given) for given in ("a", [0.5], None)],
        "`mu` is": [lambda given=given: MergeOptions(mu=given) for given in ("a", [0.5], None)],
        "`content_scale` is": [lambda given=given: MergeOptions(content_scale=given) for given in ("a", [1.0], None)],
        "`rank_out` is": [lambda given=given: MergeOptions(rank_out=given) for given in ("2", 2.5, [2])],
        "`rule` is": [lambda given=given: MergeOptions(rule=given) for given in (["sum"], None, 1)],
        "`strengths` are none": [lambda given=given: session.draw_strengths(request, given) for given in ([], 5, "x")],
        "`block_weights` are": [lambda given=given: session.merge(block_weights=given) for given in NO_DICT],
        "`coefficients` are": [lambda given=given: session.merge(coefficients=given) for given in NO_DICT],
        "`steps` is": [lambda given=given: ask("a", steps=given) for given in (2.0, "2", 0, -3, [2], 10**6)],
        "`seed` is": [
            lambda given=given, make=make: make(seed=given)
            for make in (partial(ask, "a"), MergeOptions)
            for given in (1.5, "1", None, -1, 2**64)
        ],
        "`guidance` is": [lambda given=given: ask("a", guidance=given) for given in ("3", [3], 0.5, float("nan"))],
        "`guidance_rescale` is": [
            lambda given=given: ask("a", guidance_rescale=given) for given in ("1", [0.5], -0.1, 1.1, float("nan"))
        ],
        "`prompt` is": [lambda given=given: ask(given) for given in (None, 1, b"a", "\ud800")],
        "`negative` is": [lambda given=given: ask("a", negative=given) for given in (1, b"a", "\ud800")],
        "`guidance_without_lora` means nothing": [lambda: ask("a", guidance=1.0, guidance_without_lora=True)],
        "`threads` is": [
            lambda given=given: Bundle.open(session.bundle.path).session(given).open("hypernet")
            for given in (0, -3, 1.5, "2", 10**6, True)
        ],
        "`negative` means nothing": [
            lambda given=given: ask("a", negative=given, guidance=1.0) for given in ("a dog", "")
        ],
    }
    return cases


def at_a_step(session: Session) -> list[Any]:
    """Return calls with a function that returns no strengths."""
    requests = [session.pipeline.request("a cat", steps=2, composed=start) for start in (None, START)]
    return [
        lambda given=given, request=request: session.draw(request, lambda *_: given)
        for request in requests
        for given in NO_NUMBERS
    ]


def main(folder: Path) -> None:
    opened: list[str] = []

    class Noted(StandIn):
        def __init__(self, component: Any) -> None:
            super().__init__(component)
            opened.append(component.name)

    onnx.BACKEND = stand_in_backend(Noted)
    session = Bundle.open(folder).session()
    session.load([CONTENT, HYPERNET / "style.safetensors"])
    found = [[said, *error_of(call)] for said, calls in wrong(session).items() for call in calls]
    loaded = list(opened)
    found += [["`schedule` has", *error_of(call)] for call in at_a_step(session)]
    json.dump({"found": found, "loaded": loaded}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
