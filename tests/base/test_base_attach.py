"""LoRAs beside or in a UNet's weights: against each other, diffusers, and plain matrix products."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pipeline import CAPTIONS, tiny_sizes
from tiny_world import random_lora
from torch import nn

from lorarar.base.attach import Factors, attached, factors_by_part, fused
from lorarar.base.names import unet_layout
from lorarar.base.untrained import build_tokenizer, new_pipeline
from lorarar.errors import InputError
from lorarar.layout import UNET, Layout
from lorarar.lora import LoRA, LoraLayer, write_lora

factors_of = partial(factors_by_part, parts=[True], device=torch.device("cpu"))


@pytest.fixture(scope="module")
def pipeline() -> Any:
    made = new_pipeline(tiny_sizes(), build_tokenizer(CAPTIONS), 0)
    made.unet.requires_grad_(False).eval()
    return made


@pytest.fixture(scope="module")
def unet(pipeline: Any) -> Any:
    return pipeline.unet


@pytest.fixture(scope="module")
def layout(unet: Any) -> Layout:
    return unet_layout(unet, "tiny")


def run(unet: Any, batch: int = 2) -> torch.Tensor:
    """The UNet on fixed inputs, each row different."""
    dtype = next(unet.parameters()).dtype
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn((batch, 4, 8, 8), generator=generator).to(dtype)
    text = torch.randn((batch, 77, 80), generator=generator).to(dtype)
    pooled = torch.randn((batch, 48), generator=generator).to(dtype)
    added = {"text_embeds": pooled, "time_ids": torch.full((batch, 6), 32.0, dtype=dtype)}
    times = torch.linspace(10, 900, batch).long()
    return unet(sample, times, encoder_hidden_states=text, added_cond_kwargs=added).sample


def small_lora(layout: Layout, seed: int = 0, ranks: tuple[int, ...] = (2, 3)) -> LoRA:
    return random_lora(layout, ranks, seed, 0.2, 0.2)


def weights(unet: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


def test_attached_fused_and_diffusers_agree(pipeline: Any, layout: Layout, tmp_path: Path) -> None:
    lora = small_lora(layout)
    write_lora(lora, tmp_path / "lora.safetensors")
    with torch.no_grad():
        base = run(pipeline.unet)
        with attached(pipeline.unet, factors_of(lora)):
            beside = run(pipeline.unet)
        with fused(pipeline.unet, lora):
            inside = run(pipeline.unet)
        pipeline.load_lora_weights(str(tmp_path / "lora.safetensors"))
        try:
            want = run(pipeline.unet)
        finally:
            pipeline.unload_lora_weights()
        after = run(pipeline.unet)
    assert (want - base).abs().max() > 0.05
    torch.testing.assert_close(beside, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(inside, want, rtol=0, atol=1e-5)
    assert torch.equal(after, base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_fused_puts_the_old_weights_back_bit_for_bit(unet: Any, layout: Layout, dtype: torch.dtype) -> None:
    unet.to(dtype)
    try:
        before = weights(unet)
        with pytest.raises(RuntimeError, match="while generating"), fused(unet, small_lora(layout)):
            changed = sum(not torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
            assert changed == len(layout.modules)
            raise RuntimeError("while generating")
        assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
    finally:
        unet.to(torch.float32)


def test_a_fused_sum_is_rounded_once() -> None:
    """In half precision: W + ΔW rounded, not W plus a rounded ΔW."""
    linear = nn.Sequential(nn.Linear(1, 1, bias=False)).to(torch.float16).requires_grad_(False)
    linear[0].weight.fill_(1.0)
    delta = np.float32(0.00048835)  # over half of fp16's step at 1, but its own rounding to fp16 is not
    lora = LoRA({UNET + "0": LoraLayer(np.ones((1, 1), np.float32), np.full((1, 1), delta, np.float32))})
    with fused(linear, lora):
        assert linear[0].weight.item() == np.float16(np.float32(1) + delta)


def test_convolutions_can_be_fused(unet: Any) -> None:
    name = "down_blocks.0.resnets.0.conv1"
    conv = unet.get_submodule(name)
    out, inp = conv.weight.shape[:2]
    rng = np.random.default_rng(0)
    down = rng.standard_normal((2, inp, 3, 3)).astype(np.float32)
    layer = LoraLayer(down, rng.standard_normal((out, 2, 1, 1)).astype(np.float32))
    want = conv.weight + torch.einsum("or,rihw->oihw", torch.from_numpy(layer.up)[:, :, 0, 0], torch.from_numpy(down))
    with fused(unet, LoRA({UNET + name: layer})):
        torch.testing.assert_close(conv.weight, want)
    factors = {UNET + name: Factors(torch.zeros(1, 2, inp), torch.zeros(1, out, 2))}
    with pytest.raises(InputError, match=r"no linears of this UNet \(unet\.down_bl"), attached(unet, factors):
        pass


def test_each_part_of_a_batch_has_its_own_lora(unet: Any, layout: Layout) -> None:
    """Rows 0 and 1 with one LoRA, rows 2 and 3 with another: as two passes."""
    loras = [factors_of(small_lora(layout, seed, (3,))) for seed in (1, 2)]
    both = {
        name: Factors(*(torch.cat([getattr(lora[name], end) for lora in loras]) for end in ("down", "up")))
        for name in loras[0]
    }
    with torch.no_grad():
        with attached(unet, both):
            have = run(unet, 4)
        for rows, lora in ((slice(0, 2), loras[0]), (slice(2, 4), loras[1])):
            with attached(unet, lora):
                torch.testing.assert_close(have[rows], run(unet, 4)[rows], rtol=0, atol=1e-5)
        with pytest.raises(InputError, match="a batch of 3 can't be shared equally by 2 LoRAs"), attached(unet, both):
            run(unet, 3)


def test_contexts_add_up_and_leave_nothing_behind(unet: Any, layout: Layout) -> None:
    one, two = small_lora(layout, 1), small_lora(layout, 2)
    with torch.no_grad():
        base = run(unet)
        with fused(unet, one), attached(unet, factors_of(two)):
            have = run(unet)
        with attached(unet, factors_of(one)), attached(unet, factors_of(two)):
            want = run(unet)
        torch.testing.assert_close(have, want, rtol=0, atol=1e-5)
        assert torch.equal(run(unet), base)
    assert not any(module._forward_hooks for module in unet.modules())


def gradients(unet: Any, layout: Layout, autocast: bool = False) -> dict[str, torch.Tensor]:
    """The gradient of a loss by every `down`, which is where merging coefficients are."""
    factors = factors_of(small_lora(layout, 3))
    downs = {name: item.down.requires_grad_() for name, item in factors.items()}
    with attached(unet, factors):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = run(unet)
        output.float().square().mean().backward()
    return {name: down.grad for name, down in downs.items() if down.grad is not None}


def test_gradient_checkpointing_changes_no_gradient(unet: Any, layout: Layout) -> None:
    want = gradients(unet, layout)
    unet.enable_gradient_checkpointing()
    try:
        have = gradients(unet, layout)
    finally:
        unet.disable_gradient_checkpointing()
    assert set(want) == set(have) == {UNET + module for module in layout.modules}
    for name, gradient in want.items():
        torch.testing.assert_close(have[name], gradient)


def test_autocast_gives_the_same_gradients_roughly(unet: Any, layout: Layout) -> None:
    want, have = gradients(unet, layout), gradients(unet, layout, autocast=True)
    flat_want, flat_have = (torch.cat([g.flatten() for g in found.values()]) for found in (want, have))
    assert torch.nn.functional.cosine_similarity(flat_want, flat_have, dim=0) > 0.99
    assert not torch.equal(flat_want, flat_have)


def test_layers_that_don_t_fit_are_refused(unet: Any, layout: Layout) -> None:
    lora = small_lora(layout)
    name, layer = next(iter(lora.layers.items()))
    before = weights(unet)
    stranger = LoRA({**lora.layers, "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": layer})
    says = r"1 of its 73 layers are no (linears|layers) of this UNet \(text_encoder\.text_model"
    wide = LoRA({name: LoraLayer(np.zeros((2, 99), np.float32), layer.up)})
    for put in (lambda one: attached(unet, factors_of(one)), lambda one: fused(unet, one)):
        with pytest.raises(InputError, match=says), put(stranger):
            pass
        with pytest.raises(InputError, match=r"32×99 in 1 and 1 parts|a weight of shape \(32, 99\)"), put(wide):
            pass
    assert all(torch.equal(tensor, before[key]) for key, tensor in unet.state_dict().items())
    assert not any(module._forward_hooks for module in unet.modules())
