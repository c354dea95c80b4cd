"""Merges while drawing: strengths in a batch, step by step, and guidance without LoRA, against diffusers by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from drawn import drawn_by_diffusers, drawn_step_by_step
from PIL import Image
from shared_bundles import SharedPipelines

from lorarar.base.components import encode_prompts, load_components
from lorarar.commands.sheet import main as contact_sheet
from lorarar.composed import ComposedStart
from lorarar.errors import InputError
from lorarar.evaluation.composed import composed, composed_start
from lorarar.evaluation.scheduled import Span, by_step
from lorarar.lora import read_lora, write_lora
from runtime_py.parity import psnr_db
from runtime_py.pipeline import Request
from runtime_py.sheet import LABEL, LEFT, MARGIN, draw_grid


def test_each_image_of_a_grid_is_what_diffusers_draws_with_these_strengths(
    shallow_pipeline: Path, shared_pipelines: SharedPipelines, loras: tuple[Path, Path], tmp_path: Path
) -> None:
    """Two by two, in batches of the two prompts; guidance without LoRA has an oracle of its own below."""
    session, request = shared_pipelines["onnx"].session(), Request("a sks dog", seed=3, steps=3, guidance=3.5)
    session.load(loras)
    grid = draw_grid(session, request, (0.0, 1.5), lambda *_: None)
    for content, row in zip((0.0, 1.5), grid, strict=True):
        for style, drawn in zip((0.0, 1.5), row, strict=True):
            session.merge("learned", strengths=(content, style))
            write_lora(session.merged().lora, tmp_path / "merged.safetensors")
            want = drawn_by_diffusers(shallow_pipeline, tmp_path / "merged.safetensors", request)
            assert psnr_db(want, drawn.pixels[0].transpose(1, 2, 0)) > 80, (content, style)


def test_guidance_without_lora_and_schedules_are_diffusers_driven_by_hand(
    shallow_pipeline: Path,
    shared_pipelines: SharedPipelines,
    loras: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = shared_pipelines["onnx"].session()
    session.load(loras)
    session.merge("learned")
    whole = session.merged().lora
    acfg = Request("a sks dog", seed=3, steps=3, guidance=3.5, guidance_without_lora=True)
    want = drawn_step_by_step(shallow_pipeline, acfg, lambda _, row: whole if row else None, monkeypatch)
    assert psnr_db(want, session.draw(acfg).pixels[0].transpose(1, 2, 0)) > 80
    plain = replace(acfg, guidance_without_lora=False)
    assert psnr_db(want, session.draw(plain).pixels[0].transpose(1, 2, 0)) < 40
    table = [(1.5, 0.0), (0.5, 1.0), (0.0, 1.5)]
    at = []
    for strengths in table:
        session.merge("learned", strengths=strengths)
        at.append(session.merged().lora)
    want = drawn_step_by_step(shallow_pipeline, plain, lambda step, _: at[step], monkeypatch)
    assert psnr_db(want, session.draw(plain, table).pixels[0].transpose(1, 2, 0)) > 80


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_composed_start_is_what_diffusers_draws_with_each_lora_alone(
    shallow_pipeline: Path,
    shared_pipelines: SharedPipelines,
    loras: tuple[Path, Path],
    share: float,
) -> None:
    session = shared_pipelines["onnx"].session()
    session.load(loras)
    session.merge("learned")
    start = ComposedStart("a sks dog", "a dog", share)
    request = Request("a sks dog in blue", 3, 4, 3.5, guidance_without_lora=True, composed=start)
    have = session.draw(request).pixels[0].transpose(1, 2, 0)
    lone = [read_lora(path) for path in loras]
    components = load_components(str(shallow_pipeline))
    prompts = encode_prompts(components, ["a sks dog", "a dog in blue", "a dog"])
    rest = partial(by_step, [(session.merged().lora, Span())], True)
    put_on = partial(composed_start, partial(composed, *lone, prompts), rest, Span(last=share))
    want = drawn_by_diffusers(shallow_pipeline, None, request, put_on=put_on)
    assert psnr_db(want, have) > 80
    other = session.draw(replace(request, composed=None)).pixels[0].transpose(1, 2, 0)
    assert psnr_db(want, other) < 40


def test_strengths_and_a_schedule_reach_a_composed_start(
    shared_pipelines: SharedPipelines, loras: tuple[Path, Path]
) -> None:
    """All steps composed: with a strength of 0 the other LoRA's answer to its own prompt is left, and the class's."""
    session = shared_pipelines["onnx"].session()
    session.load(loras)
    start = ComposedStart("a sks dog", "a dog", 1.0)
    request = Request("a sks dog in blue", 3, 2, 2.0, guidance_without_lora=True, composed=start)
    weak, strong = (drawn.latents for drawn in session.draw_strengths(request, [(1.0, 0.0), (1.0, 1.0)]))
    assert np.abs(weak - strong).max() > 0.01
    session.merge(strengths=(1.0, 0.0))
    np.testing.assert_allclose(session.draw(request).latents, weak, atol=1e-4)
    np.testing.assert_allclose(session.draw(request, [(1.0, 1.0)]).latents, strong, atol=1e-4)


def test_the_grid_command(shared_pipelines: SharedPipelines, loras: tuple[Path, Path], tmp_path: Path) -> None:
    given = [str(shared_pipelines["onnx"].path), "--content", str(loras[0]), "--style", str(loras[1])]
    given += ["--prompt", "a", "--steps", "1", "-o", str(tmp_path / "grid.png")]
    assert contact_sheet([*given, "--grid", "0:1.5:3"]) == 0
    side = 2 * 32 + MARGIN
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (LEFT + 3 * side + MARGIN, LABEL + 3 * side + MARGIN)
    for wrong in ("0:1", "0:1:1", "a:b:3", "0:inf:3", "0:1:9"):
        with pytest.raises(InputError, match="give LOW:HIGH:N"):
            contact_sheet([*given, "--grid", wrong])
