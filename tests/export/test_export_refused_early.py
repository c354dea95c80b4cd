"""What a manifest cannot tell, or a hypernetwork not do, is refused before anything is drawn or converted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from tiny_world import tiny_hypernet
from unet_runs import options as unet_options
from unet_runs import tiny_unet
from untyped import run_untyped

from export import api, bundle, write
from export.graph import ImageSize
from export.options import PipelineOptions, Source
from export.write import write_pipeline, write_unet
from lorarar.base.names import load_layout
from lorarar.base.sources import open_pipeline
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import open_predictor


@pytest.fixture(autouse=True)
def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(bundle, "write_component", refuse)
    monkeypatch.setattr(write, "write_golden_image", refuse)


def export(
    base: Path,
    out: Path,
    hypernet: Any = None,
    *,
    steps: int = 4,
    pad: bool = True,
    length: int = 77,
    channels: int = 4,
    kind: Any = None,
    **scheduler: Any,
) -> None:
    layout, pipeline = load_layout(str(base)), open_pipeline(str(base), False, torch.float32)
    pipeline.tokenizer.model_max_length = length
    pipeline.unet.register_to_config(in_channels=channels)
    if not pad:
        pipeline.tokenizer_2.pad_token = None
    kind = kind or type(pipeline.scheduler)
    pipeline.register_modules(scheduler=kind.from_config(pipeline.scheduler.config, **scheduler))
    source = Source(pipeline, layout, hypernet or open_predictor(str(base), layout, untrained=True))
    write_pipeline(source, PipelineOptions("onnx", "fp32", 2, ImageSize(32, 8, 1), steps, 3.5), out)


def test_a_scheduler_that_no_manifest_tells(shallow_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scheduler.steps_offset breaks the schema .* give another `base`"):
        export(shallow_pipeline, tmp_path / "out", steps_offset=2)
    assert list(tmp_path.iterdir()) == []


def test_more_steps_than_the_schedule_has(shallow_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`steps` is 1000; valid are 1 to 999"):
        export(
            shallow_pipeline,
            tmp_path / "out",
            steps=1000,
            kind=DDIMScheduler,
            clip_sample=False,
            timestep_spacing="leading",
            steps_offset=1,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_without_padding(shallow_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the tokenizer of text_encoder_2 has no pad token"):
        export(shallow_pipeline, tmp_path / "out", pad=False)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_length(shallow_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the tokenizer of text_encoder gives 64 tokens, and SDXL's UNet takes 77"):
        export(shallow_pipeline, tmp_path / "out", length=64)
    assert list(tmp_path.iterdir()) == []


def test_a_unet_that_inpaints(shallow_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the UNet takes 9 channels and the VAE has 4; give a `base`"):
        export(shallow_pipeline, tmp_path / "out", channels=9)
    assert list(tmp_path.iterdir()) == []


def test_a_hypernetwork_for_other_widths(shallow_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no input layer for width 48"):
        export(shallow_pipeline, tmp_path / "out", tiny_hypernet())
    assert list(tmp_path.iterdir()) == []


def test_more_inputs_than_a_manifest_allows(
    shallow_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = load_layout(str(shallow_pipeline))
    monkeypatch.setattr(bundle, "MAX_ELEMENTS", 1000)
    with pytest.raises(InputError, match=r"unet: its inputs would hold .* over 1,000; give a lower `rank` or fewer"):
        write_unet(tiny_unet(shallow_pipeline), layout, unet_options("onnx", "fp32"), tmp_path / "out")
    with pytest.raises(InputError, match="hypernet: its inputs would hold"):
        export(shallow_pipeline, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_more_pixels_than_a_manifest_allows() -> None:
    with pytest.raises(InputError, match="`resolution` is 4104; a pipeline's is 4096 at most"):
        PipelineOptions("onnx", "fp32", 2, ImageSize(4104, 513, 1), 4, 3.5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"steps": 0}, "`steps` is 0"),
        ({"guidance": 0.5}, r"`guidance` is 0\.5"),
        ({"out": "thesis"}, "thesis exists and is not a bundle"),
        ({"target": "executorch"}, "executorch is not installed"),
        ({"tiny_vae": "missing"}, "missing: no such folder; give one of an AutoencoderTiny"),
        ({"hypernet": None}, "a hypernetwork for owner/sdxl is needed: give `hypernet`"),
        ({"hypernet": "missing.safetensors"}, "no such checkpoint; give the .safetensors file"),
    ],
)
def test_what_needs_no_base_is_refused_before_one_is_loaded(
    given: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("too late")

    for name in ("base_layout", "chosen_unet", "chosen_pipeline"):
        monkeypatch.setattr(api, name, refuse)
    monkeypatch.setitem(sys.modules, "executorch", None)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "1.txt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        api.pipeline("owner/sdxl", **{"target": "onnx", **given})


def test_what_the_types_forbid_is_refused_too(tmp_path: Path) -> None:
    found = run_untyped("wrong_exports.py", cwd=tmp_path)
    assert len(found) > 15
    assert [case for case in found if case[1] != "InputError" or not case[2].startswith(case[0])] == []
    assert list(tmp_path.iterdir()) == []
