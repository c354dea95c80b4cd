"""The generated module names against the real models, and the SGM table against diffusers' own converter."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorarar.base.names import CONFIGS
from lorarar.lora.names import flatten, is_of_sdxl, kohya_lookup, kohya_names, text_modules, unet_modules

SDXL, KOALA_700M, KOALA_1B = (CONFIGS[base] for base in ("sdxl", "koala-700m", "koala-1b"))


def module_names(model: torch.nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))}


def unet_names(config: dict) -> set[str]:
    with torch.device("meta"):
        return module_names(UNet2DConditionModel(**config))


def test_the_vocabulary_is_exactly_sdxls_modules() -> None:
    assert set(unet_modules()) == unet_names(SDXL)


@pytest.mark.parametrize("config", [KOALA_700M, KOALA_1B])
def test_koalas_modules_are_a_strict_subset(config: dict) -> None:
    assert unet_names(config) < set(unet_modules())


@pytest.mark.parametrize(
    ("component", "model", "layers"),
    [("text_encoder", CLIPTextModel, 12), ("text_encoder_2", CLIPTextModelWithProjection, 32)],
)
def test_the_text_encoders_linears_are_exact(component: str, model: type, layers: int) -> None:
    config = CLIPTextConfig(hidden_size=64, intermediate_size=64, num_attention_heads=4, num_hidden_layers=layers)
    with torch.device("meta"):
        # transformers 5 dropped the prefix from one of the two classes; LoRA files keep it.
        names = {name.removeprefix("text_model.") for name in module_names(model(config)) if "embedding" not in name}
    assert {name.removeprefix("text_model.") for name in text_modules(component)} == names


def test_flattening_is_injective() -> None:
    for names in (unet_modules(), unet_modules().values(), text_modules("text_encoder_2")):
        assert len({flatten(name) for name in names}) == len(list(names))
    # Both tables share one lookup: no SGM name is another module's diffusers name.
    # A text encoder's layers have two spellings, but for the projection, and the first one's two prefixes.
    texts = 4 * len(text_modules("text_encoder")) + 2 * len(text_modules("text_encoder_2")) - 1
    assert len(kohya_lookup()) == 2 * len(unet_modules()) + texts
    for sgm in (False, True):
        assert set(kohya_names(sgm).values()) <= set(kohya_lookup())
        assert all(kohya_lookup()[flat][1] == name for name, flat in kohya_names(sgm).items())


def test_sgm_names_are_written_for_sdxl_alone() -> None:
    modules = {name: {f"unet.{module}" for module in unet_names(config)} for name, config in CONFIGS.items()}
    assert {name for name, found in modules.items() if is_of_sdxl(found)} == {"sdxl"}
    written = kohya_names(True)
    assert {written[f"unet.{name}"] for name in unet_modules()} == {
        f"lora_unet_{flatten(sgm)}" for sgm in unet_modules().values()
    }


def test_sgm_names_mean_what_diffusers_reads() -> None:
    tensor = torch.zeros(1, 1)
    skipped = {"add_embedding.linear_1", "add_embedding.linear_2", "time_embedding.linear_1", "time_embedding.linear_2"}
    # Older diffusers releases know no SGM names for the singles; conv_in and conv_out likewise.
    skipped |= {"conv_in", "conv_out"}
    names = {sgm: name for name, sgm in unet_modules().items() if name not in skipped}
    for sgm, name in names.items():
        flat = f"lora_unet_{flatten(sgm)}"
        state = {f"{flat}.lora_down.weight": tensor, f"{flat}.lora_up.weight": tensor}
        state = _maybe_map_sgm_blocks_to_diffusers(state, SimpleNamespace(layers_per_block=2))
        state, _ = _convert_non_diffusers_lora_to_diffusers(state)
        peft = convert_unet_state_dict_to_peft({key.removeprefix("unet."): value for key, value in state.items()})
        assert set(peft) == {f"{name}.lora_A.weight", f"{name}.lora_B.weight"}


def test_the_singles_of_sgm() -> None:
    assert unet_modules()["conv_in"] == "input_blocks.0.0"
    assert unet_modules()["conv_out"] == "out.2"
    assert unet_modules()["time_embedding.linear_2"] == "time_embed.2"
    assert unet_modules()["add_embedding.linear_1"] == "label_emb.0.0"
