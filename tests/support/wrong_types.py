"""Gives a session what its types forbid, as a program without a type checker may; the tests check all types.

Run with a bundle of stand-ins; prints each case's error, and what was loaded before it, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from stand_in import HYPERNET, StandIn, stand_in_backend

from lorarar.composed import ComposedStart
from runtime_py import Bundle
from runtime_py.backends import onnx
from runtime_py.session import Session

BLOCK, LAYER = "down_blocks.1", "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k"
START = ComposedStart("a cat", "an animal")
NO_NUMBERS: list[Any] = ["x", [("a", 1)], ((1, 2), 1), [(1, 1), (1, 10**400)], None]


def wrong(session: Session) -> dict[str, Any]:
    """Return the calls by the beginning of the error that each has to end in."""
    request = session.pipeline.request("a cat", steps=2)
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


def error_of(call: Any) -> list[str]:
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["none", ""]


def main(folder: Path) -> None:
    opened: list[str] = []

    class Noted(StandIn):
        def __init__(self, component: Any) -> None:
            super().__init__(component)
            opened.append(component.name)

    onnx.BACKEND = stand_in_backend(Noted)
    session = Bundle.open(folder).session()
    session.load([HYPERNET / "content.safetensors", HYPERNET / "style.safetensors"])
    found = [[said, *error_of(call)] for said, calls in wrong(session).items() for call in calls]
    loaded = list(opened)
    found += [["`schedule` has", *error_of(call)] for call in at_a_step(session)]
    json.dump({"found": found, "loaded": loaded}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
