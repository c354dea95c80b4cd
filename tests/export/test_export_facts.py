"""What a stopped export is compared by: each fact that an artifact depends on, of all three kinds of bundles."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_world import random_lora, tiny_hypernet

from export import write
from export.graph import ImageSize
from export.options import HypernetOptions, PipelineOptions, Source, UNetOptions
from export.write import write_hypernet, write_pipeline, write_unet
from lorarar.base.names import load_layout
from lorarar.base.sources import open_pipeline, open_unet
from lorarar.hypernet.checkpoints import open_predictor
from lorarar.layout import Layout
from lorarar.lora import LoRA

SIZE = ImageSize(32, 8, 1)
OPTIONS = {
    "precision": {"precision": "fp16"},
    "target": {"target": "executorch"},
    "rank": {"rank": 3},
    "loras": {"loras": 3},
}
"""Options of every bundle."""


class Captured(Exception):
    """Ends an export when it knows its facts."""


Facts = Callable[[Callable[[], Any]], str]


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> Facts:
    """What a call would compare a stopped export by."""

    def capture(_out: Path, _target: Any, given: Any, _on_progress: Any) -> None:
        raise Captured(json.dumps(given, sort_keys=True))

    monkeypatch.setattr(write, "new_bundle", capture)

    def of(call: Callable[[], Any]) -> str:
        with pytest.raises(Captured) as captured:
            call()
        return str(captured.value)

    return of


@pytest.mark.parametrize("change", [*OPTIONS, "hypernet", "layout"])
def test_of_a_hypernetwork(change: str, layout: Layout, facts: Facts, tmp_path: Path) -> None:
    def of(changed: str = "") -> str:
        loaded = tiny_hypernet()
        loaded = replace(loaded, sha256="0" * 64) if changed == "hypernet" else loaded
        options = replace(HypernetOptions("onnx", "fp32", 2), **OPTIONS.get(changed, {}))
        known = replace(layout, groups=layout.groups[:-1]) if changed == "layout" else layout
        return facts(lambda: write_hypernet(loaded, known, options, tmp_path / "out"))

    assert of() == of() != of(change)


@pytest.mark.parametrize("change", [*OPTIONS, "size", "weights", "fused", "another LoRA"])
def test_of_a_unet(change: str, shallow_pipeline: Path, facts: Facts, tmp_path: Path) -> None:
    layout = load_layout(str(shallow_pipeline))
    loras = [random_lora(layout, (2,), seed, 0.3, 0.3) for seed in (1, 2)]

    def of(changed: str = "") -> str:
        unet = open_unet(str(shallow_pipeline), untrained=False)[0]
        if changed == "weights":
            next(unet.parameters()).data.add_(1)
        fused = {"fused": loras[0], "another LoRA": loras[1]}.get(changed)
        size = ImageSize(64, 16, 1) if changed == "size" else SIZE
        options = replace(UNetOptions("onnx", "fp32", 2, size, fused), **OPTIONS.get(changed, {}))
        return facts(lambda: write_unet(unet, layout, options, tmp_path / "out"))

    before = of("fused") if change == "another LoRA" else of()
    assert before == (of("fused") if change == "another LoRA" else of()) != of(change)


def test_a_lora_of_zeros_is_not_taken_for_a_unet_with_adapters(
    shallow_pipeline: Path, facts: Facts, tmp_path: Path
) -> None:
    """Its weights are those of the base, and it has no inputs for LoRAs."""
    layout = load_layout(str(shallow_pipeline))
    zeros = random_lora(layout, (2,), 1, 0.0, 0.0)

    def of(lora: LoRA | None) -> str:
        unet = open_unet(str(shallow_pipeline), untrained=False)[0]
        return facts(lambda: write_unet(unet, layout, UNetOptions("onnx", "fp32", 2, SIZE, lora), tmp_path / "out"))

    assert of(None) != of(zeros)


@pytest.mark.parametrize("change", [*OPTIONS, "size", "unet", "vae", "text_encoder", "hypernet", "layout", "tokenizer"])
def test_of_a_pipeline(change: str, shallow_pipeline: Path, facts: Facts, tmp_path: Path) -> None:
    def of(changed: str = "") -> str:
        pipeline = open_pipeline(str(shallow_pipeline), False, torch.float32)
        if changed in ("unet", "vae", "text_encoder"):
            next(getattr(pipeline, changed).parameters()).data.add_(1)
        if changed == "tokenizer":
            pipeline.tokenizer.add_tokens(["sks"])
        layout = load_layout(str(shallow_pipeline), "transformer" if changed == "layout" else "attention")
        hypernet = open_predictor(str(shallow_pipeline), layout, untrained=True)
        hypernet = replace(hypernet, sha256="0" * 64) if changed == "hypernet" else hypernet
        size = ImageSize(64, 16, 1) if changed == "size" else SIZE
        options = replace(PipelineOptions("onnx", "fp32", 2, size, 4, 3.5), **OPTIONS.get(changed, {}))
        return facts(lambda: write_pipeline(Source(pipeline, layout, hypernet), options, tmp_path / "out"))

    assert of() == of() != of(change)
