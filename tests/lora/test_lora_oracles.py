"""What other programs make of our files, and we of theirs: diffusers, PEFT, and ComfyUI's documented rules."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer as PeftLayer
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorarar.lora import LoRA, LoraLayer, read_lora, write_lora
from lorarar.lora.names import unet_modules

SMALL = {
    "sample_size": 8,
    "block_out_channels": [32, 32, 64],
    "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [2, 2, 4],
    "cross_attention_dim": 16,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 56,
}
SHAPES = {
    "sdxl": SMALL | {"layers_per_block": 2, "transformer_layers_per_block": [1, 2, 2]},
    "koala": SMALL | {"layers_per_block": 1, "transformer_layers_per_block": [0, 2, 3], "mid_block_type": None},
}
TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 30}


class Pipeline(StableDiffusionXLLoraLoaderMixin):
    """The part of the SDXL pipeline that loads LoRAs."""

    hf_device_map = None

    def __init__(self, unet: torch.nn.Module, one: torch.nn.Module, two: torch.nn.Module) -> None:
        self.unet, self.text_encoder, self.text_encoder_2 = unet, one, two
        self.components = {"unet": unet, "text_encoder": one, "text_encoder_2": two}

    @property
    def lora_scale(self) -> float:
        return 1.0


@pytest.fixture(scope="module")
def models() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    found: dict[str, torch.nn.Module] = {
        name: UNet2DConditionModel(**config).eval().requires_grad_(False) for name, config in SHAPES.items()
    }
    config = CLIPTextConfig(**TEXT, projection_dim=16, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    found["text_encoder"] = CLIPTextModel(config).eval().requires_grad_(False)
    found["text_encoder_2"] = CLIPTextModelWithProjection(config).eval().requires_grad_(False)
    return found


def weights(model: torch.nn.Module, component: str) -> dict[str, torch.nn.Module]:
    """Full name in a LoRA → module, for every linear and convolution."""
    prefix = f"{component}."
    if component == "text_encoder" and not any(name.startswith("text_model.") for name, _ in model.named_modules()):
        prefix += "text_model."
    return {
        prefix + name: module
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and "patch_embedding" not in name
    }


def make_lora(models: dict[str, torch.nn.Module], shape: str, components: tuple[str, ...]) -> LoRA:
    """A LoRA of ranks 1 to 4 on every seventh module and on all outside the blocks; PEFT's loading is quadratic."""
    rng = np.random.default_rng(3)
    layers: dict[str, LoraLayer] = {}
    for component in components:
        model = models[shape if component == "unet" else component]
        for index, (name, module) in enumerate(weights(model, component).items()):
            if component == "unet" and index % 7 and "blocks" in name:
                continue
            out, inp, *kernel = module.weight.shape
            rank = index % 4 + 1
            down = rng.standard_normal((rank, inp, *kernel)).astype(np.float32)
            up = rng.standard_normal((out, rank, *(1 for _ in kernel))).astype(np.float32)
            layers[name] = LoraLayer(down, up * np.float32(0.05 / np.sqrt(inp * rank)))
    return LoRA(layers)


def fused(model: torch.nn.Module, component: str, lora: LoRA) -> torch.nn.Module:
    model = copy.deepcopy(model)
    for name, module in weights(model, component).items():
        if name in lora.layers:
            module.weight.data += torch.from_numpy(lora.layers[name].delta())
    return model


def run_unet(unet: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    added = {
        "text_embeds": torch.randn(2, 8, generator=generator),
        "time_ids": torch.randn(2, 6, generator=generator),
    }
    sample = torch.randn(2, 4, 16, 16, generator=generator)
    text = torch.randn(2, 5, 16, generator=generator)
    with torch.no_grad():
        return unet(sample, torch.tensor([10.0, 700.0]), text, added_cond_kwargs=added).sample


def run_text(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[0, 5, 9, 1, 2]]))[0]


def close(have: torch.Tensor, want: torch.Tensor, base: torch.Tensor) -> None:
    scale = float(want.abs().max())
    assert float((base - want).abs().max()) > 1e-2 * scale  # the LoRA matters
    assert float((have - want).abs().max()) <= 1e-5 * scale


def loaded(path: Path, models: dict[str, torch.nn.Module], shape: str) -> Pipeline:
    names = (shape, "text_encoder", "text_encoder_2")
    pipeline = Pipeline(*(copy.deepcopy(models[name]) for name in names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on configurations, not ours to give
        pipeline.load_lora_weights(str(path))
    return pipeline


@pytest.mark.parametrize(
    ("shape", "dialect", "dtype"),
    [
        ("sdxl", "peft", "fp32"),
        ("sdxl", "kohya", "fp32"),
        ("koala", "peft", "bf16"),
        ("koala", "kohya", "fp32"),
        ("koala", "kohya", "fp16"),
    ],
)
def test_diffusers_applies_exactly_our_update(
    tmp_path: Path, models: dict[str, torch.nn.Module], shape: str, dialect: str, dtype: str
) -> None:
    lora = make_lora(models, shape, ("unet", "text_encoder", "text_encoder_2"))
    path = tmp_path / "lora.safetensors"
    write_lora(lora, path, dialect, dtype)
    written = read_lora(path)  # with the rounding of half precision
    pipeline = loaded(path, models, shape)
    close(run_unet(pipeline.unet), run_unet(fused(models[shape], "unet", written)), run_unet(models[shape]))
    for component in ("text_encoder", "text_encoder_2"):
        want = run_text(fused(models[component], component, written))
        close(run_text(getattr(pipeline, component)), want, run_text(models[component]))


def test_diffusers_load_lora_adapter_alone(tmp_path: Path, models: dict[str, torch.nn.Module]) -> None:
    lora = make_lora(models, "koala", ("unet",))
    write_lora(lora, tmp_path / "lora.safetensors")
    unet = copy.deepcopy(models["koala"])
    unet.load_lora_adapter(str(tmp_path), weight_name="lora.safetensors", prefix="unet")
    close(run_unet(unet), run_unet(fused(models["koala"], "unet", lora)), run_unet(models["koala"]))


# --- kohya's alphas, which diffusers mis-scales ------------------------------------------------------------------


def kohya_file(path: Path, unet: torch.nn.Module) -> dict[str, np.ndarray]:
    """A file of another rank and another alpha in every attention layer; returns the ΔW that it means, by formula."""
    rng = np.random.default_rng(5)
    tensors: dict[str, torch.Tensor] = {}
    meant: dict[str, np.ndarray] = {}
    for index, (name, module) in enumerate(weights(unet, "unet").items()):
        if ".attn" not in name:
            continue
        out, inp = module.weight.shape
        rank, alpha = index % 5 + 1, 0.25 + index % 7
        down, up = rng.standard_normal((rank, inp)), rng.standard_normal((out, rank))
        down, up = down.astype(np.float32), up.astype(np.float32)
        flat = "lora_" + name.replace(".", "_")
        tensors[f"{flat}.lora_down.weight"] = torch.from_numpy(down)
        tensors[f"{flat}.lora_up.weight"] = torch.from_numpy(up)
        tensors[f"{flat}.alpha"] = torch.tensor(alpha)
        meant[name] = alpha / rank * (up.astype(np.float64) @ down.astype(np.float64))
    save_file(tensors, path)
    return meant


def diffusers_deltas(unet: torch.nn.Module) -> dict[str, np.ndarray]:
    return {
        f"unet.{name}": module.get_delta_weight(module.active_adapters[0]).detach().numpy()
        for name, module in unet.named_modules()
        if isinstance(module, PeftLayer)
    }


def wrong(have: dict[str, np.ndarray], meant: dict[str, np.ndarray]) -> list[str]:
    return [name for name, delta in meant.items() if not np.allclose(have[name], delta, rtol=1e-4, atol=1e-5)]


def test_alphas_and_ranks_of_every_layer(tmp_path: Path, models: dict[str, torch.nn.Module]) -> None:
    meant = kohya_file(tmp_path / "theirs.safetensors", models["koala"])
    lora = read_lora(tmp_path / "theirs.safetensors")
    assert wrong({name: layer.delta() for name, layer in lora.layers.items()}, meant) == []
    # The same file, read by us and written again, is right in diffusers.
    write_lora(lora, tmp_path / "ours.safetensors", "kohya")
    assert wrong(diffusers_deltas(loaded(tmp_path / "ours.safetensors", models, "koala").unet), meant) == []
    alone = wrong(diffusers_deltas(loaded(tmp_path / "theirs.safetensors", models, "koala").unet), meant)
    changed = "diffusers now reads kohya files of mixed alphas right by itself: say so in the documentation"
    assert len(alone) > len(meant) // 4, changed


# --- PEFT ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("kind", ["unet", "text_encoder_2"])
def test_a_peft_folder_has_pefts_own_update(
    tmp_path: Path, models: dict[str, torch.nn.Module], rslora: bool, kind: str
) -> None:
    patterns: dict[str, dict[str, int]] = {
        "rank_pattern": {"attn1.to_q": 5, r"attn2\.to_[kv]": 2, "conv1": 1, "layers.1.self_attn.q_proj": 5},
        "alpha_pattern": {"to_q": 7, ".*attn2.to_v": 3, "^down_blocks.1.resnets.0.conv1": 9, "q_proj": 11, "roj": 99},
    }
    config = LoraConfig(
        r=3, lora_alpha=4, use_rslora=rslora, init_lora_weights=False,
        target_modules=["to_q", "to_v", "to_k", "to_out.0", "conv1", "proj", "q_proj", "fc1"], **patterns,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(copy.deepcopy(models["sdxl" if kind == "unet" else kind]), config)
        model.save_pretrained(str(tmp_path))
    lora = read_lora(tmp_path)
    layers = {
        f"{kind}.{name.removeprefix('base_model.model.')}": module.get_delta_weight("default").detach().numpy()
        for name, module in model.named_modules()
        if isinstance(module, PeftLayer)
    }
    assert set(lora.layers) == set(layers)
    assert len({layer.rank for layer in lora.layers.values()}) > 1
    for name, delta in layers.items():
        np.testing.assert_allclose(lora.layers[name].delta(), delta, rtol=1e-4, atol=1e-6)


def test_the_metadata_of_current_diffusers(tmp_path: Path, models: dict[str, torch.nn.Module]) -> None:
    unet = copy.deepcopy(models["sdxl"])
    config = LoraConfig(
        r=4, lora_alpha=2, target_modules=["to_q", "to_k", "conv_shortcut"], init_lora_weights=False,
        rank_pattern={"attn1.to_q": 2}, alpha_pattern={"attn2.to_k": 3},
    )  # fmt: skip
    unet.add_adapter(config)
    StableDiffusionXLLoraLoaderMixin.save_lora_weights(
        str(tmp_path),
        unet_lora_layers={
            key.replace(".default", ""): value for key, value in unet.state_dict().items() if ".lora_" in key
        },
        unet_lora_adapter_metadata=config.to_dict() | {"target_modules": list(config.target_modules)},
    )
    unet.save_lora_adapter(str(tmp_path / "alone"))  # its metadata names no component
    for folder in (tmp_path, tmp_path / "alone"):
        lora = read_lora(folder / "pytorch_lora_weights.safetensors")
        assert wrong({name: layer.delta() for name, layer in lora.layers.items()}, diffusers_deltas(unet)) == []
        assert not lora.warnings


# --- ComfyUI ------------------------------------------------------------------------------------------------------


def comfy_deltas(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """ComfyUI's rules: flat SGM names of the UNet's modules, flat names of the text encoders';
    ΔW = alpha/down.shape[0] · up.flatten(1) @ down.flatten(1), without alpha 1 · ….
    """
    file, found = load_file(path), {}
    for name, shape in shapes.items():
        component, _, module = name.partition(".")
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[component]
        key = prefix + unet_modules().get(module, module).replace(".", "_")
        up, down = file.pop(f"{key}.lora_up.weight").float(), file.pop(f"{key}.lora_down.weight").float()
        alpha = file.pop(f"{key}.alpha", None)
        scale = 1.0 if alpha is None else alpha.item() / down.shape[0]
        found[name] = (scale * torch.mm(up.flatten(1), down.flatten(1)).reshape(shape)).numpy()
    assert not file  # "lora key not loaded"
    return found


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_comfyui_applies_exactly_our_update(tmp_path: Path, models: dict[str, torch.nn.Module], dtype: str) -> None:
    components = ("unet", "text_encoder", "text_encoder_2")
    lora = make_lora(models, "sdxl", components)
    write_lora(lora, tmp_path / "lora.safetensors", "kohya", dtype)
    written = read_lora(tmp_path / "lora.safetensors")
    shapes = {name: layer.delta().shape for name, layer in lora.layers.items()}
    for name, delta in comfy_deltas(tmp_path / "lora.safetensors", shapes).items():
        np.testing.assert_allclose(written.layers[name].delta(), delta, rtol=1e-5, atol=1e-8)
