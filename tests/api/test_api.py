"""The public API of `lorarar`, line by line as the design gives it, against the command, PEFT and diffusers."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file
from tiny_pipeline import save_image
from tiny_world import random_lora
from untyped import run_untyped

import lorarar as lr
from lorarar.api import RUN_BASE
from lorarar.base.components import load_components
from lorarar.base.names import MINIATURE_FOLDER, shipped_hypernet
from lorarar.commands.merge import main
from lorarar.hypernet.checkpoints import save_hypernet
from lorarar.hypernet.network import ConstantCoefficients
from lorarar.training.hyper_settings import ZipSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def layout() -> lr.Layout:
    return lr.load_layout("miniature")


@pytest.fixture(scope="module")
def loras(layout: lr.Layout) -> tuple[lr.LoRA, lr.LoRA]:
    return random_lora(layout, (3,), 1), random_lora(layout, (4,), 2)


def same(one: lr.LoRA, two: lr.LoRA, rtol: float = 0.0) -> None:
    assert set(one.layers) == set(two.layers)
    for name, layer in one.layers.items():
        want = layer.delta()
        np.testing.assert_allclose(two.layers[name].delta(), want, rtol=rtol, atol=rtol * np.abs(want).max())


# --- the package


def test_the_package_lists_its_public_names_and_loads_nothing() -> None:
    code = "import sys, lorarar; print(*dir(lorarar)); print(*{'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    names, loaded = done.stdout.split("\n")[:2]
    assert set(names.split()) == {*lr.__all__, "__version__"} and "os" not in names.split()
    assert loaded == ""


def test_every_public_name_is_there_and_documented() -> None:
    for name in lr.__all__:
        value = getattr(lr, name)
        assert name == "METHODS" or len(str(value.__doc__)) > 40
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lr.nothing


def test_a_merge_has_the_warnings_that_the_command_prints(loras: tuple[lr.LoRA, lr.LoRA]) -> None:
    stranger = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    larger = replace(loras[0], layers={**loras[0].layers, stranger: next(iter(loras[0].layers.values()))})
    (warning,) = lr.merge(larger, loras[1], base="miniature", method="direct").warnings
    assert "1 of its " in warning and "are not in miniature" in warning
    assert lr.merge(*loras, base="miniature", method="direct").warnings == ()


def test_errors_are_value_errors_in_parameter_names(loras: tuple[lr.LoRA, lr.LoRA]) -> None:
    with pytest.raises(ValueError, match="`rank_out` is 0") as error:
        lr.merge(*loras, method="direct", rank_out=0)
    assert isinstance(error.value, lr.InputError) and "--" not in str(error.value)


def test_every_repr_is_one_short_line(loras: tuple[lr.LoRA, lr.LoRA], layout: lr.Layout, tmp_path: Path) -> None:
    loras[0].save(tmp_path / "dog.safetensors")
    read = lr.read_lora(tmp_path / "dog.safetensors")
    assert repr(read) == "LoRA(dog.safetensors: peft, 72 layers, rank 3)"
    shown = [read, next(iter(read.layers.values())), layout, layout.groups[0], *lr.METHODS.values()]
    for value in (*shown, lr.Hypernetwork.from_pretrained(shipped_hypernet())):
        assert len(repr(value)) < 120 and "\n" not in repr(value)


def test_what_the_types_forbid_is_refused_too() -> None:
    found = run_untyped("wrong_merges.py")
    assert len(found) > 12
    assert [case for case in found if case[1] != "InputError" or not case[2].startswith(case[0])] == []


def test_a_base_is_a_folder_by_a_path_too(loras: tuple[lr.LoRA, lr.LoRA]) -> None:
    by_path = lr.merge(*loras, base=MINIATURE_FOLDER, method="direct")
    same(by_path, lr.merge(*loras, base="miniature", method="direct"))


def test_a_lora_is_not_saved_over_a_folder(loras: tuple[lr.LoRA, lr.LoRA], tmp_path: Path) -> None:
    (tmp_path / "dog.safetensors").mkdir()
    with pytest.raises(lr.InputError, match="this is a folder; give the name of a file"):
        loras[0].save(tmp_path / "dog.safetensors")
    assert list(tmp_path.rglob("*")) == [tmp_path / "dog.safetensors"]


# --- read_lora


def test_a_path_a_text_and_a_state_dict_are_one_lora(loras: tuple[lr.LoRA, lr.LoRA], tmp_path: Path) -> None:
    path = tmp_path / "dog.safetensors"
    loras[0].save(path, dialect="kohya")
    tensors = load_file(path)
    arrays: Mapping[str, np.ndarray] = {name: tensor.numpy() for name, tensor in tensors.items()}
    for source in (str(path), tensors, arrays):
        same(lr.read_lora(path), lr.read_lora(source))


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("dialect", ["peft", "kohya"])
def test_a_state_dict_holds_what_the_file_does(
    loras: tuple[lr.LoRA, lr.LoRA], dialect: str, dtype: str, tmp_path: Path
) -> None:
    loras[0].save(tmp_path / "a.safetensors", dialect=dialect, dtype=dtype)
    state, stored = loras[0].to_state_dict(dialect, dtype), load_file(tmp_path / "a.safetensors")
    assert set(state) == set(stored)
    for name, tensor in state.items():
        assert tensor.dtype == stored[name].dtype and torch.equal(tensor, stored[name])
    same(lr.read_lora(tmp_path / "a.safetensors"), lr.read_lora(state))


def test_a_state_dict_is_copied_both_ways(loras: tuple[lr.LoRA, lr.LoRA]) -> None:
    state = loras[0].to_state_dict()
    read = lr.read_lora(state)
    for tensor in state.values():
        tensor.zero_()
    same(loras[0], read)


def test_tensors_that_ask_for_a_gradient_and_alphas_are_read(loras: tuple[lr.LoRA, lr.LoRA]) -> None:
    state = {name: tensor.double().requires_grad_() for name, tensor in loras[0].to_state_dict().items()}
    name = next(name for name in state if name.endswith("lora_A.weight")).removesuffix(".lora_A.weight")
    halved = lr.read_lora({**state, f"{name}.alpha": torch.tensor(1.5)})  # of rank 3
    np.testing.assert_allclose(halved.layers[name].up, loras[0].layers[name].up / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({}, "state dict has no LoRA keys"),
        ({"unet.mid_block.x.lora_A.weight": "text"}, "is str, not a tensor"),
        ({"hada_w1_a": torch.zeros(2), "x.hada_w1_a": torch.zeros(2)}, "holds a LoHa layer"),
    ],
)
def test_a_state_dict_that_is_no_lora_is_refused(state: dict, says: str) -> None:
    with pytest.raises(lr.InputError, match=says):
        lr.read_lora(state)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda tensor: tensor.long(), "has dtype I64"),
        (lambda tensor: tensor * math.nan, "holds NaN"),
        (lambda tensor: tensor.double() * 1e300, "values over float32"),
        (lambda tensor: tensor.to("meta"), "can't be read"),
        (lambda tensor: tensor[:, :0], "have a size of 0"),
    ],
)
def test_bad_tensors_of_a_state_dict_are_refused(loras: tuple[lr.LoRA, lr.LoRA], make: object, says: str) -> None:
    assert callable(make)
    state = {name: make(tensor + 1) for name, tensor in loras[0].to_state_dict().items()}
    with pytest.raises(lr.InputError, match=says):
        lr.read_lora(state, name="mine")


def test_peft_s_state_dict_gets_its_scaling_from_its_config(tiny_pipeline: Path) -> None:
    components = load_components(str(tiny_pipeline))
    unet = components.unet
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "to_k"], init_lora_weights=False)
    module = unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
    before = module.weight.detach().clone()
    unet.add_adapter(config)
    state = get_peft_model_state_dict(unet)
    read = lr.read_lora(state, config=config.to_dict())
    unet.fuse_lora()
    fused = unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q.weight
    layer = read.layers["unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"]
    np.testing.assert_allclose((fused - before).detach().numpy(), layer.delta(), atol=1e-5)
    with pytest.raises(lr.InputError, match="`config` belongs to a state dict"):
        lr.read_lora(tiny_pipeline, config=config.to_dict())
    kohya = read.to_state_dict("kohya")
    assert lr.read_lora(kohya).layers.keys() == read.layers.keys()
    with pytest.raises(lr.InputError, match="`config` is for PEFT's and diffusers' names"):
        lr.read_lora(kohya, config=config.to_dict())


# --- LoRA.to_state_dict, in diffusers


@pytest.mark.parametrize("dialect", ["peft", "kohya"])
def test_diffusers_loads_a_merged_state_dict(tiny_pipeline: Path, dialect: str) -> None:
    from diffusers import StableDiffusionXLPipeline

    base = lr.load_layout(str(tiny_pipeline))
    merged = lr.merge(random_lora(base, (2,), 1), random_lora(base, (2,), 2), base=str(tiny_pipeline), method="direct")
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_pipeline)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    pipeline.load_lora_weights(merged.to_state_dict(dialect))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    after = pipeline.unet.state_dict()
    for name, layer in merged.layers.items():
        module = name.removeprefix("unet.")
        moved = after[f"{module}.weight"] - before[f"{module}.weight"]
        np.testing.assert_allclose(moved.numpy(), layer.delta(), atol=1e-5)


# --- merge


@pytest.mark.parametrize("method", [name for name in lr.METHODS if name not in RUN_BASE])
def test_merge_does_what_the_command_does(method: str, loras: tuple[lr.LoRA, lr.LoRA], tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("dog", "paint", "merged")]
    for lora, path in zip(loras, paths[:2], strict=True):
        lora.save(path)
    calls: list[tuple[int, int]] = []
    merged = lr.merge(
        lr.read_lora(paths[0]),
        lr.read_lora(paths[1]),
        method=method,
        strengths=(1.0, 0.5),
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert main([*map(str, paths[:2]), "--method", method, "--style-scale", "0.5", "-o", str(paths[2])]) == 0
    from_file = lr.read_lora(paths[2])
    same(merged, from_file)
    assert calls[-1] == (72, 72) and merged.max_rank == (4 if method == "block-router" else 7)
    made = {name: text for name, text in from_file.metadata.items() if name.startswith("lorarar_")}
    assert merged.metadata == made and made["lorarar_method"] == method and made["lorarar_style_scale"] == "0.5"


def test_what_read_lora_takes_can_be_merged_and_cut(loras: tuple[lr.LoRA, lr.LoRA], tmp_path: Path) -> None:
    loras[0].save(tmp_path / "dog.safetensors")
    given = str(tmp_path / "dog.safetensors"), loras[1].to_state_dict()
    merged = lr.merge(*given, method="direct")
    same(merged, lr.merge(*loras, method="direct"))
    for source, lora in zip((tmp_path / "dog.safetensors", given[1]), loras, strict=True):
        same(lr.resize(source, 2), lr.resize(lora, 2))


def test_a_hypernetwork_is_a_path_an_object_or_the_shipped_one(loras: tuple[lr.LoRA, lr.LoRA]) -> None:
    path = shipped_hypernet()
    given = [None, path, str(path), lr.Hypernetwork.from_pretrained(path)]
    results = [lr.merge(*loras, base="miniature", method="learned", hypernet=hypernet) for hypernet in given]
    for result in results[1:]:
        same(results[0], result)
        assert result.metadata == results[0].metadata
    assert results[0].metadata["lorarar_hypernet_trained"] == "true"
    assert lr.merge(*loras, untrained=True).metadata["lorarar_hypernet_trained"] == "false"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_hypernetwork_of_another_type_merges_in_fp32(loras: tuple[lr.LoRA, lr.LoRA], dtype: torch.dtype) -> None:
    hypernet = lr.Hypernetwork.from_pretrained(shipped_hypernet()).to(dtype)
    merged = lr.merge(*loras, hypernet=hypernet)
    assert next(hypernet.parameters()).dtype == dtype
    same(lr.merge(*loras, hypernet=hypernet.float()), merged)


def test_constant_coefficients_merge_too(loras: tuple[lr.LoRA, lr.LoRA], tmp_path: Path) -> None:
    save_hypernet(ConstantCoefficients(), tmp_path / "constant.safetensors")
    merged = lr.merge(*loras, hypernet=tmp_path / "constant.safetensors")
    same(lr.merge(*loras, method="direct"), merged, rtol=1e-5)  # ½ and ½
    with pytest.raises(lr.InputError, match="constant coefficients"):
        lr.Hypernetwork.from_pretrained(tmp_path / "constant.safetensors")


def test_a_hypernetwork_in_memory_is_told_by_its_weights(loras: tuple[lr.LoRA, lr.LoRA]) -> None:
    config = lr.Hypernetwork.from_pretrained(shipped_hypernet()).config
    facts = lr.merge(*loras, hypernet=lr.Hypernetwork(replace(config))).metadata
    assert facts["lorarar_hypernet"] == "memory" and len(facts["lorarar_hypernet_sha256"]) == 64


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"method": "zip"}, "`method` is 'zip'"),
        ({"base": "nowhere"}, "unknown base 'nowhere'"),
        ({"base": "sdxl"}, "a hypernetwork for sdxl is needed: give `hypernet`"),
        ({"untrained": True, "hypernet": "h"}, "exclude each other"),
        ({"method": "direct", "hypernet": "h"}, "`hypernet` means nothing to direct"),
        ({"method": "direct", "untrained": True}, "`untrained` means nothing to direct"),
        ({"method": "direct", "mu": 0.1}, "`mu` means nothing to direct"),
        ({"method": "ties", "seed": 1}, "`seed` means nothing to ties"),
        ({"density": 0.1}, "`density` means nothing to learned"),
        ({"strengths": (1.0, math.inf)}, "`strengths` are"),
        ({"strengths": (1.0,)}, "`strengths` are"),
        ({"strengths": (1.0, 0.8, 0.5)}, "`strengths` are"),
        ({"method": "ssr", "resolution": 64}, "`resolution` means nothing to ssr"),
        ({"content_prompt": "a dog"}, "`content_prompt` means nothing to learned"),
        ({"style_images": "a.png"}, "`style_images` means nothing to learned"),
        ({"settings": ZipSettings()}, "`settings` means nothing to learned"),
        ({"resolution": 64}, "`resolution` means nothing to learned"),
        ({"method": "ssr"}, "give `content_prompt` and `style_prompt`"),
        ({"method": "ssr-text", "style_prompt": "a house"}, "give `content_prompt` and `style_prompt`"),
        ({"method": "ssr", "style_images": "a.png"}, "`style_images` means nothing to ssr"),
        ({"method": "ssr", "settings": ZipSettings()}, "`settings` means nothing to ssr"),
        ({"method": "ziplora"}, "give `content_images`, `content_prompt`"),
        ({"method": "ziplora", "content_prompt": "a dog"}, "give `content_images`, `content_prompt`"),
    ],
)
def test_what_a_merge_can_t_do_is_refused(given: dict, says: str, loras: tuple[lr.LoRA, lr.LoRA]) -> None:
    with pytest.raises(lr.InputError, match=says.replace("(", r"\(")):
        lr.merge(*loras, **given)


def test_ziplora_runs_the_base_on_images_and_prompts(tiny_pipeline: Path, tmp_path: Path) -> None:
    base = lr.load_layout(str(tiny_pipeline))
    for name, seed in (("dog", 1), ("paint", 2)):
        save_image(tmp_path / name / "0.png", seed)
    steps: list[tuple[int, int]] = []
    merged = lr.merge(
        random_lora(base, (2,), 1, 0.1),
        random_lora(base, (2,), 2, 0.1),
        base=str(tiny_pipeline),
        method="ziplora",
        content_images=tmp_path / "dog",
        content_prompt="a sks dog",
        style_images=[tmp_path / "paint" / "0.png"],
        style_prompt="a house in watercolor style",
        settings=ZipSettings(steps=2),
        seed=5,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(1, 2), (2, 2)] and merged.max_rank == 4
    assert merged.metadata["lorarar_method"] == "ziplora" and merged.metadata["lorarar_seed"] == "5"


@pytest.mark.parametrize("method", ["ssr", "ssr-text"])
def test_ssr_needs_the_prompts_alone(method: str, tiny_pipeline: Path) -> None:
    base = lr.load_layout(str(tiny_pipeline))
    passes: list[tuple[int, int]] = []
    merged = lr.merge(
        random_lora(base, (2,), 1, 0.1),
        random_lora(base, (3,), 2, 0.1),
        base=str(tiny_pipeline),
        method=method,
        rule="sum",
        content_prompt="a sks dog",
        style_prompt="a house in watercolor style",
        on_progress=lambda done, total: passes.append((done, total)),
    )
    assert passes == ([(1, 2), (2, 2)] if method == "ssr" else []) and merged.max_rank == 5
    assert merged.metadata["lorarar_method"] == method and merged.metadata["lorarar_rule"] == "sum"
    assert merged.metadata["lorarar_content_prompt"] == "a sks dog"


# --- Hypernetwork


def test_a_hypernetwork_is_loaded_and_saved(tmp_path: Path) -> None:
    network = lr.Hypernetwork.from_pretrained(shipped_hypernet())
    network.save_pretrained(tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == shipped_hypernet().read_bytes()
