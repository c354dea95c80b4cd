"""diffusers and PEFT as judges: a merged file of ours does to a pipeline what W + ΔW_m, set by hand, does."""

from __future__ import annotations

import copy
from pathlib import Path

import diffusers
import numpy as np
import peft
import pytest
import torch
from torch import nn

from lorarar.base.names import CONFIGS
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.layout import UNET, Layout, part_of
from lorarar.lora import LoRA, LoraLayer, read_lora, write_lora
from lorarar.merging import METHODS, Merged, MergeOptions, merge_loras, predict_with

pytestmark = [
    # Builds of transformers and diffusers warn about their own internals; none of it concerns the merge.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

TOLERANCE = 1e-5  # of the output's largest value, fp32
# KOALA-1B's blocks and names at a width of 16 to 64.
CONFIG = CONFIGS["koala-1b"] | {
    "sample_size": 8,
    "block_out_channels": [16, 32, 64],
    "transformer_layers_per_block": [0, 1, 2],
    "attention_head_dim": [2, 4, 8],
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "max_position_embeddings": 16,
    "projection_dim": 16,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
CONVS = ("resnets.0.conv1", "conv_shortcut")
ENDS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
TEXT_ENDS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@pytest.fixture(scope="module")
def pipeline() -> diffusers.StableDiffusionXLPipeline:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    return diffusers.StableDiffusionXLPipeline(
        vae=None,
        text_encoder=CLIPTextModel(CLIPTextConfig(**CLIP)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**CLIP)).eval(),
        tokenizer=None,
        tokenizer_2=None,
        unet=diffusers.UNet2DConditionModel.from_config(CONFIG).eval(),
        scheduler=diffusers.EulerDiscreteScheduler(),
    )


@pytest.fixture(scope="module")
def layout(pipeline: diffusers.StableDiffusionXLPipeline) -> Layout:
    modules = pipeline.unet.named_modules()
    linears = [(n, m.in_features, m.out_features) for n, m in modules if isinstance(m, nn.Linear) and part_of(n)]
    return Layout.from_linears("tiny", linears)


def make_lora(pipeline: diffusers.StableDiffusionXLPipeline, seed: int, texts: bool) -> LoRA:
    """A LoRA of attention, feed-forward, projections and convolutions, with another rank in every layer."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.15).astype(np.float32)

    layers = {}
    for name, module in pipeline.unet.named_modules():
        rank = int(rng.integers(1, 6))
        if isinstance(module, nn.Linear) and name.endswith(ENDS):
            layers[UNET + name] = LoraLayer(normal(rank, module.in_features), normal(module.out_features, rank))
        elif isinstance(module, nn.Conv2d) and name.endswith(CONVS):
            shape = (rank, module.in_channels, *module.kernel_size)
            layers[UNET + name] = LoraLayer(normal(*shape), normal(module.out_channels, rank, 1, 1))
    if texts:
        for component in ("text_encoder", "text_encoder_2"):
            for name, module in getattr(pipeline, component).named_modules():
                if isinstance(module, nn.Linear) and name.endswith(TEXT_ENDS):
                    # transformers 5 has no `text_model.` in the first encoder; files spell it everywhere.
                    full = name if name.startswith("text_model.") else f"text_model.{name}"
                    shape = (module.out_features, module.in_features)
                    layers[f"{component}.{full}"] = LoraLayer(normal(3, shape[1]), normal(shape[0], 3))
    return LoRA(layers, source=f"lora-{seed}")


def set_by_hand(model: nn.Module, component: str, lora: LoRA) -> nn.Module:
    """A copy of `model` with W + ΔW in every layer of the LoRA."""
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    count = 0
    for name, item in lora.layers.items():
        if name.partition(".")[0] == component:
            inner = name.partition(".")[2]
            module = modules[inner if inner in modules else inner.removeprefix("text_model.")]
            with torch.no_grad():
                module.weight += torch.from_numpy(item.delta())
            count += 1
    assert count
    return model


def run_unet(unet: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    sample, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 24, generator=generator)
    added = {"text_embeds": torch.randn(2, 16, generator=generator), "time_ids": torch.ones(2, 6)}
    with torch.no_grad():
        return unet(sample, torch.tensor([500, 20]), text, added_cond_kwargs=added).sample


def assert_same(have: torch.Tensor, want: torch.Tensor, base: torch.Tensor) -> None:
    """Within the tolerance, and by an effect that is far larger than it."""
    largest = want.abs().max()
    assert (have - want).abs().max() <= TOLERANCE * largest
    assert (base - want).abs().max() > 1e-2 * largest


def merged_of(method: str, content: LoRA, style: LoRA, layout: Layout) -> Merged:
    hypernet = Hypernetwork.untrained(HypernetConfig(widths=(32, 64), hidden=16))
    ones = {name: np.ones((2, layer.in_features), np.float32) for name, layer in content.layers.items()}
    linears = {name: layer for name, layer in content.layers.items() if len(layer.weight_shape) == 2}
    ranks = {name: layer.rank + style.layers[name].rank for name, layer in linears.items()}
    grams = {name: np.stack([np.eye(rank), 2 * np.eye(rank)]) for name, rank in ranks.items()}
    options = MergeOptions(predict=predict_with(hypernet), coefficients=ones, grams=grams)
    return merge_loras(content, style, layout, method, options)


@pytest.mark.parametrize(
    ("method", "dialect"), [*((method, "peft") for method in METHODS), ("learned", "kohya"), ("direct", "kohya")]
)
def test_diffusers_applies_the_merged_file_as_we_mean_it(
    method: str, dialect: str, pipeline: diffusers.StableDiffusionXLPipeline, layout: Layout, tmp_path: Path
) -> None:
    content, style = make_lora(pipeline, 1, texts=False), make_lora(pipeline, 2, texts=False)
    merged = merged_of(method, content, style, layout).lora
    write_lora(merged, tmp_path / "merged.safetensors", dialect=dialect)
    want, base = run_unet(set_by_hand(pipeline.unet, "unet", merged)), run_unet(pipeline.unet)
    pipeline.load_lora_weights(str(tmp_path / "merged.safetensors"))
    try:
        have = run_unet(pipeline.unet)
    finally:
        pipeline.unload_lora_weights()
    assert_same(have, want, base)
    torch.testing.assert_close(run_unet(pipeline.unet), base)


@pytest.mark.parametrize("dialect", ["peft", "kohya"])
def test_diffusers_applies_text_encoder_layers_too(
    dialect: str, pipeline: diffusers.StableDiffusionXLPipeline, layout: Layout, tmp_path: Path
) -> None:
    content, style = make_lora(pipeline, 1, texts=True), make_lora(pipeline, 2, texts=True)
    merged = merged_of("learned", content, style, layout).lora
    write_lora(merged, tmp_path / "merged.safetensors", dialect=dialect)
    tokens = torch.tensor([[0, 5, 17, 42, 1, 1]])

    def run(model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model(tokens).last_hidden_state

    components = ("text_encoder", "text_encoder_2")
    base = {name: run(getattr(pipeline, name)) for name in components}
    want = {name: run(set_by_hand(getattr(pipeline, name), name, merged)) for name in components}
    pipeline.load_lora_weights(str(tmp_path / "merged.safetensors"))
    try:
        for name in components:
            assert_same(run(getattr(pipeline, name)), want[name], base[name])
    finally:
        pipeline.unload_lora_weights()


LINEARS = {"attn.to_q": 20, "attn.to_k": 16}


class Two(nn.Module):
    """A model with two linears, for PEFT."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Module()
        self.attn.to_q, self.attn.to_k = nn.Linear(24, 20), nn.Linear(24, 16)


def peft_merge(content: LoRA, style: LoRA, combination: str) -> dict[str, np.ndarray]:
    """PEFT's merge of the two at weights ½, ½, as dense ΔW by layer."""
    model = Two()
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k"])
    wrapped = peft.PeftModel(model, config, adapter_name="content")
    wrapped.add_adapter("style", config)
    for role, lora in (("content", content), ("style", style)):
        for name, item in lora.layers.items():
            module = wrapped.get_submodule(f"base_model.model.{name.removeprefix(UNET)}")
            module.lora_A[role].weight.data = torch.from_numpy(item.down.copy())
            module.lora_B[role].weight.data = torch.from_numpy(item.up.copy())
    options = {"svd_rank": 16} if combination == "svd" else {}
    wrapped.add_weighted_adapter(["content", "style"], [0.5, 0.5], "merged", combination_type=combination, **options)
    return {
        name: wrapped.get_submodule(f"base_model.model.{name.removeprefix(UNET)}")
        .get_delta_weight("merged")
        .detach()
        .numpy()
        for name in content.layers
    }


@pytest.mark.parametrize(("combination", "same"), [("cat", True), ("svd", True), ("linear", False)])
def test_pefts_cat_and_full_svd_are_our_direct_average_and_its_linear_is_not(combination: str, same: bool) -> None:
    def lora(seed: int) -> LoRA:
        rng = np.random.default_rng(seed)
        normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
        return LoRA({f"{UNET}{n}": LoraLayer(normal(4, 24), normal(out, 4)) for n, out in LINEARS.items()})

    content, style = lora(1), lora(2)
    layout = Layout.from_linears("two", [(name, 24, out) for name, out in LINEARS.items()])
    ours = merge_loras(content, style, layout, "direct").lora
    theirs = peft_merge(content, style, combination)
    for name, delta in theirs.items():
        want = ours.layers[name].delta()
        off = np.abs(delta - want).max() / np.abs(want).max()
        # `linear` adds √½·up_c @ √½·down_s and its mirror image: cross terms as large as the merge.
        assert off < 1e-5 if same else off > 0.3


def test_a_merged_file_can_be_read_and_merged_again(
    pipeline: diffusers.StableDiffusionXLPipeline, layout: Layout, tmp_path: Path
) -> None:
    content, style = make_lora(pipeline, 1, texts=True), make_lora(pipeline, 2, texts=True)
    merged = merged_of("direct", content, style, layout).lora
    for dialect in ("peft", "kohya"):
        write_lora(merged, tmp_path / f"{dialect}.safetensors", dialect=dialect)
        again = read_lora(tmp_path / f"{dialect}.safetensors")
        assert set(again.layers) == set(merged.layers)
        for name, item in merged.layers.items():
            np.testing.assert_allclose(again.layers[name].delta(), item.delta(), atol=1e-6)
        assert again.metadata["lorarar_method"] == "direct"
