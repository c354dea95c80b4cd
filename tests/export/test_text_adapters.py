"""Text encoders that take LoRAs: whole files, guidance, schedules and grids against diffusers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from contradictions import CONTRADICTIONS, write_contradiction
from drawn import drawn_by_diffusers, drawn_step_by_step
from safetensors.torch import save_file
from shared_bundles import SharedPipelines
from tiny_world import random_lora

from lorarar.base.sources import open_unet
from lorarar.errors import InputError
from lorarar.lora import LoRA, LoraLayer, read_lora
from lorarar.lora.names import kohya_names
from runtime_py.bundle import Bundle
from runtime_py.parity import psnr_db
from runtime_py.pipeline import Request
from runtime_py.session import Session

RANK, ALPHA = 32, 16
CONVOLUTIONS = ("unet.down_blocks.1.resnets.0.conv1", "unet.up_blocks.0.resnets.0.conv2", "unet.conv_out")


@pytest.fixture
def bundle(shared_pipelines: SharedPipelines) -> Bundle:
    return shared_pipelines["onnx+text"]


@pytest.fixture
def session(bundle: Bundle) -> Session:
    """Two LoRAs of ranks 2 and 3 with layers of the whole layout, text encoders included."""
    session = bundle.session()
    session.load([random_lora(bundle.layout, (rank,), rank, 0.4, 0.4) for rank in (2, 3)])
    return session


def write_kohya(layers: dict[str, LoraLayer], path: Path) -> Path:
    """A file as sd-scripts writes it: flat names, and an alpha in each layer, which halves ΔW."""
    tensors, names = {}, kohya_names(sgm=False)
    for name, layer in layers.items():
        tensors |= {f"{names[name]}.lora_down.weight": torch.from_numpy(layer.down)}
        tensors |= {f"{names[name]}.lora_up.weight": torch.from_numpy(layer.up)}
        tensors |= {f"{names[name]}.alpha": torch.tensor(float(ALPHA))}
    save_file(tensors, path)
    return path


def convolutions(base: Path) -> dict[str, LoraLayer]:
    """Layers of convolutions, of kernels of 3×3."""
    unet, draw, made = open_unet(str(base), False)[0], np.random.default_rng(0), {}
    for name in CONVOLUTIONS:
        out, inp, *kernel = unet.get_submodule(name.removeprefix("unet.")).weight.shape
        down, up = (draw.standard_normal(shape) * 0.1 for shape in ((RANK, inp, *kernel), (out, RANK, 1, 1)))
        made[name] = LoraLayer(down.astype(np.float32), up.astype(np.float32))
    return made


def test_a_whole_file_of_kohya_is_drawn_as_diffusers_draws_it_but_for_its_convolutions(
    bundle: Bundle, shallow_pipeline: Path, tmp_path: Path
) -> None:
    linears = dict(random_lora(bundle.layout, (RANK,), 7, 0.3, 0.2).layers)
    path = write_kohya(linears | convolutions(shallow_pipeline), tmp_path / "whole.safetensors")
    without = write_kohya(linears, tmp_path / "linears.safetensors")
    session, request = bundle.session(), Request("a sks dog", seed=3, steps=3, guidance=3.5, negative="a house")
    session.load([path])

    (found,) = session.carried
    dense = {
        name: float(np.square(layer.delta(), dtype=np.float64).sum()) for name, layer in read_lora(path).layers.items()
    }
    whole = sum(dense.values())
    assert set(found.parts) == {"qo", "kv", "ff", "proj", "te1", "te2"}
    for part, share in found.parts.items():
        wanted = sum(dense[layer] for group in bundle.layout.part(part) for layer in group.layers) / whole
        assert share == pytest.approx(wanted, rel=1e-4) and share > 0, part
    assert found.left_out == {
        "convolutions": (3, pytest.approx(sum(dense[name] for name in CONVOLUTIONS) / whole, rel=1e-4))
    }

    have = session.draw(request).pixels[0].transpose(1, 2, 0)
    want = drawn_by_diffusers(shallow_pipeline, without, request, request.negative)
    assert psnr_db(want, have) > 80
    of_unet = {name: layer for name, layer in linears.items() if name.startswith("unet.")}
    other = drawn_by_diffusers(
        shallow_pipeline, write_kohya(of_unet, tmp_path / "unet.safetensors"), request, "a house"
    )
    assert psnr_db(want, other) < 40, "the text encoders' layers must change the image, or the comparison says nothing"


def test_each_image_and_step_has_prompts_that_its_own_loras_read(
    session: Session, shallow_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guidance without LoRA, strengths that change, and strengths in one batch: diffusers driven by hand."""
    plain = Request("a sks dog", seed=3, steps=3, guidance=3.5, negative="a house")
    acfg = replace(plain, guidance_without_lora=True)
    table = [(1.5, 0.0), (0.5, 1.0), (0.0, 1.5)]
    at: list[LoRA] = []
    for strengths in table:
        session.merge("learned", strengths=strengths)
        at.append(session.merged().lora)
    session.merge("learned")
    whole = session.merged().lora

    def by_hand(request: Request, weights: Callable[[int, int], LoRA | None]) -> np.ndarray:
        return drawn_step_by_step(shallow_pipeline, request, weights, monkeypatch)

    drawn = {
        "acfg": (session.draw(acfg), by_hand(acfg, lambda _, row: whole if row else None)),
        "schedule": (session.draw(plain, table), by_hand(plain, lambda step, _: at[step])),
    }
    for number, one in enumerate(session.draw_strengths(plain, table[:2])):
        drawn[f"strengths {number}"] = one, by_hand(plain, lambda *_, number=number: at[number])
    for name, (have, want) in drawn.items():
        assert psnr_db(want, have.pixels[0].transpose(1, 2, 0)) > 80, name
    pixels = [have.pixels for have, _ in drawn.values()]
    assert all(psnr_db(one, other) < 50 for one, other in pairwise(pixels))


def test_block_weights_reach_a_text_encoder(session: Session) -> None:
    session.merge(block_weights={"text_encoder": (0.0, 2.0)})
    changed = {name: values.copy() for name, values in session.coefficients.items()}
    session.merge()
    for group in session.bundle.layout.groups:
        factor = np.float32([[0.0], [2.0]] if group.part == "te1" else [[1.0], [1.0]])
        np.testing.assert_array_equal(changed[group.coefficients], session.coefficients[group.coefficients] * factor)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_pipelines_that_contradict_themselves_are_refused(bundle: Bundle, tmp_path: Path, name: str) -> None:
    shutil.copytree(bundle.path, tmp_path / "copy")
    write_contradiction(name, bundle.path, tmp_path / "copy")
    with pytest.raises(InputError, match=CONTRADICTIONS[name][1]):
        Bundle.open(tmp_path / "copy")
