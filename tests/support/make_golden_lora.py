"""Make tests/golden/lora: a tiny LoRA file of every dialect and the ΔW that each means.

    python tests/support/make_golden_lora.py

It shares no code with `lorarar.lora`: the names are spelled out, ΔW = scale · up @ down is computed in float64,
the bytes are put together here. Every factor is a multiple of 1/16 below 1, so float16 and bfloat16 hold it exactly.
index.json lists the files for the Python, Kotlin and Swift readers alike.
"""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

FOLDER = Path(__file__).parents[1] / "golden" / "lora"
NUMPY = {
    "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64, "I32": np.int32,
    "I64": np.int64, "BOOL": np.bool_, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip
Tensors = dict[str, tuple[str, np.ndarray]]  # name → (dtype in the file, values)


@dataclass(frozen=True)
class Case:
    """A layer: its full name, kohya's two names, sizes, kernel, rank and alpha (used where a dialect has one)."""

    name: str
    diffusers: str
    sgm: str
    out: int
    inp: int
    kernel: tuple[int, ...]
    rank: int
    alpha: float


DOWN1 = "down_blocks.1.attentions.0.transformer_blocks.0"
FLAT1, SGM1 = (
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0",
    "lora_unet_input_blocks_4_1_transformer_blocks_0",
)
CASES = (
    Case(f"unet.{DOWN1}.attn1.to_q", f"{FLAT1}_attn1_to_q", f"{SGM1}_attn1_to_q", 8, 8, (), 4, 2.0),
    Case(f"unet.{DOWN1}.attn1.to_out.0", f"{FLAT1}_attn1_to_out_0", f"{SGM1}_attn1_to_out_0", 8, 8, (), 2, 3.5),
    Case(f"unet.{DOWN1}.attn2.to_k", f"{FLAT1}_attn2_to_k", f"{SGM1}_attn2_to_k", 8, 12, (), 4, 4.0),
    Case(
        "unet.mid_block.attentions.0.transformer_blocks.9.attn2.to_v",
        "lora_unet_mid_block_attentions_0_transformer_blocks_9_attn2_to_v",
        "lora_unet_middle_block_1_transformer_blocks_9_attn2_to_v",
        10, 12, (), 1, 0.5,
    ),
    Case(
        "unet.up_blocks.0.attentions.2.transformer_blocks.3.ff.net.0.proj",
        "lora_unet_up_blocks_0_attentions_2_transformer_blocks_3_ff_net_0_proj",
        "lora_unet_output_blocks_2_1_transformer_blocks_3_ff_net_0_proj",
        16, 6, (), 3, 1.0,
    ),
    Case(
        "unet.down_blocks.2.resnets.1.conv1",
        "lora_unet_down_blocks_2_resnets_1_conv1",
        "lora_unet_input_blocks_8_0_in_layers_2",
        6, 5, (3, 3), 2, 1.0,
    ),
    Case(
        "unet.up_blocks.1.resnets.2.conv_shortcut",
        "lora_unet_up_blocks_1_resnets_2_conv_shortcut",
        "lora_unet_output_blocks_5_0_skip_connection",
        6, 4, (1, 1), 2, 6.0,
    ),
    Case(
        "unet.up_blocks.1.upsamplers.0.conv",
        "lora_unet_up_blocks_1_upsamplers_0_conv",
        "lora_unet_output_blocks_5_2_conv",
        4, 4, (3, 3), 1, 1.0,
    ),
    Case(
        "unet.mid_block.resnets.1.time_emb_proj",
        "lora_unet_mid_block_resnets_1_time_emb_proj",
        "lora_unet_middle_block_2_emb_layers_1",
        6, 4, (), 2, 1.0,
    ),
    Case(
        "text_encoder.text_model.encoder.layers.11.self_attn.q_proj",
        "lora_te1_text_model_encoder_layers_11_self_attn_q_proj",
        "lora_te1_text_model_encoder_layers_11_self_attn_q_proj",
        6, 6, (), 2, 1.0,
    ),
    Case(
        "text_encoder_2.text_model.encoder.layers.31.self_attn.out_proj",
        "lora_te2_text_model_encoder_layers_31_self_attn_out_proj",
        "lora_te2_text_model_encoder_layers_31_self_attn_out_proj",
        7, 7, (), 2, 8.0,
    ),
    Case(
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        9, 7, (), 1, 1.0,
    ),
)  # fmt: skip
# The UNet's names in Stability's own code.
SGM_NAMES = dict(
    zip(
        (case.name for case in CASES),
        (
            *(
                f"input_blocks.4.1.transformer_blocks.0.{part}"
                for part in ("attn1.to_q", "attn1.to_out.0", "attn2.to_k")
            ),
            "middle_block.1.transformer_blocks.9.attn2.to_v",
            "output_blocks.2.1.transformer_blocks.3.ff.net.0.proj",
            "input_blocks.8.0.in_layers.2",
            "output_blocks.5.0.skip_connection",
            "output_blocks.5.2.conv",
            "middle_block.2.emb_layers.1",
        ),
        strict=False,
    )
)
ATTENTION = tuple(case for case in CASES if ".attn" in case.name or ".self_attn." in case.name)
UNET = tuple(case for case in CASES if case.name.startswith("unet."))


def factors(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """down and up in float64, from a linear congruential generator seeded by the name."""
    state = sum(ord(letter) * (place + 1) for place, letter in enumerate(case.name))
    shapes = ((case.rank, case.inp, *case.kernel), (case.out, case.rank, *(1 for _ in case.kernel)))
    arrays = []
    for shape in shapes:
        values = []
        for _ in range(math.prod(shape)):
            state = (1664525 * state + 1013904223) % 2**32
            values.append(((state >> 16) % 31 - 15) / 16)
        arrays.append(np.array(values).reshape(shape))
    return arrays[0], arrays[1]


def delta(case: Case, scale: float) -> np.ndarray:
    """ΔW = scale · Σ_r up[:, r] down[r], in float64 and rounded once."""
    down, up = factors(case)
    product = np.einsum("or,r...->o...", up.reshape(case.out, case.rank), down)
    return (scale * product).astype(np.float32)


def safetensors(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, (dtype, values) in tensors.items():
        raw = np.asarray(values).astype(NUMPY[dtype]).tobytes()
        shape = list(np.shape(values))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def pairs(cases: tuple[Case, ...], dtype: str, down_end: str, up_end: str, prefix: str = "") -> Tensors:
    """Dotted names: the module's, then `down_end` or `up_end`."""
    tensors: Tensors = {}
    for case in cases:
        down, up = factors(case)
        name = prefix + (case.name.removeprefix("unet.") if prefix else case.name)
        tensors |= {name + down_end: (dtype, down), name + up_end: (dtype, up)}
    return tensors


def kohya(cases: tuple[Case, ...], dtype: str, sgm: bool, alphas: bool = True, text: str = "lora_te1_") -> Tensors:
    tensors: Tensors = {}
    for case in cases:
        down, up = factors(case)
        name = (case.sgm if sgm else case.diffusers).replace("lora_te1_", text)
        if alphas:
            tensors[f"{name}.alpha"] = (dtype, np.array(case.alpha))
        tensors |= {f"{name}.lora_down.weight": (dtype, down), f"{name}.lora_up.weight": (dtype, up)}
    return tensors


def rooted(cases: tuple[Case, ...], roots: dict[str, str], dtype: str, sgm: bool) -> Tensors:
    """A word for each component before dotted names, with kohya's words for the factors."""
    tensors: Tensors = {}
    for case in cases:
        component, _, rest = case.name.partition(".")
        name = roots[component] + (SGM_NAMES.get(case.name, rest) if sgm else rest)
        down, up = factors(case)
        tensors[f"{name}.alpha"] = (dtype, np.array(case.alpha))
        tensors |= {f"{name}.lora_down.weight": (dtype, down), f"{name}.lora_up.weight": (dtype, up)}
    return tensors


def odd_shapes(tensors: Tensors) -> Tensors:
    """Linears as 1×1 convolutions, and the ups of convolutions as matrices (DyLoRA)."""

    def odd(name: str, values: np.ndarray) -> np.ndarray:
        if values.ndim == 2:
            return values[..., None, None]
        return values.reshape(values.shape[:2]) if name.endswith("lora_up.weight") else values

    return {name: (dtype, odd(name, values)) for name, (dtype, values) in tensors.items()}


def lycoris(cases: tuple[Case, ...]) -> Tensors:
    """SimpleTuner's names; the alphas in 8 bits, which hold them."""
    named = kohya(cases, "F32", sgm=False)
    named = {name.replace("lora_unet_", "lycoris_"): value for name, value in named.items()}
    return {name: ("F8_E5M2" if name.endswith("alpha") else dtype, it) for name, (dtype, it) in named.items()}


def with_extras() -> Tensors:
    """`unet.` before kohya's names, text encoders as transformers 5 names them, and tensors that are of no layer."""
    named = kohya(CASES, "F32", sgm=False)
    named = {name.replace("text_model_", "").replace("lora_unet_", "unet.lora_unet_"): it for name, it in named.items()}
    alone = f"{FLAT1}_attn2_to_q.alpha"
    return {"emb_params": ("F32", np.zeros((2, 3))), alone: ("F32", np.array(4.0)), **named}


def whole_alphas() -> Tensors:
    named = kohya(CASES, "F32", sgm=True)
    return {name: ("I64", np.array(2)) if name.endswith("alpha") else it for name, it in named.items()}


COMFY = {
    "unet": "diffusion_model.", "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.clip_g.transformer.",
}  # fmt: skip
OMI = {"unet": "unet.", "text_encoder": "clip_l.", "text_encoder_2": "clip_g."}
ONETRAINER = {"unet": "lora_unet.", "text_encoder": "lora_te1.", "text_encoder_2": "lora_te2."}


def processors(cases: tuple[Case, ...]) -> Tensors:
    """diffusers of 2023: the attention processors hold the LoRA; text encoders have q, k, v, out renamed as well."""
    tensors: Tensors = {}
    for case in cases:
        down, up = factors(case)
        block, _, part = case.name.removesuffix(".0").rpartition(".")
        part = {"q_proj": "to_q", "out_proj": "to_out"}.get(part, part)
        middle = "" if block.endswith("self_attn") else ".processor"
        tensors |= {f"{block}{middle}.{part}_lora.down.weight": ("F32", down)}
        tensors |= {f"{block}{middle}.{part}_lora.up.weight": ("F32", up)}
    return tensors


def linear_layers(cases: tuple[Case, ...]) -> Tensors:
    """diffusers 0.22 to 0.24: `.lora.` in the UNet, `.lora_linear_layer.` in the text encoders."""
    tensors: Tensors = {}
    for case in cases:
        word = ".lora" if case.name.startswith("unet.") else ".lora_linear_layer"
        tensors |= pairs((case,), "F32", f"{word}.down.weight", f"{word}.up.weight")
    return tensors


METADATA = {
    "unet.r": 2, "unet.lora_alpha": 3, "unet.use_rslora": False, "unet.use_dora": False, "unet.peft_type": "LORA",
    "unet.rank_pattern": {"attn1.to_q": 4, "attn2.to_k": 4, "to_v": 1, "ff.net.0.proj": 3, "upsamplers.0.conv": 1},
    "unet.alpha_pattern": {"attn1.to_q": 6},
    "text_encoder.r": 2, "text_encoder.lora_alpha": 4, "text_encoder.use_rslora": True,
}  # fmt: skip
FOLDER_CONFIG = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 5, "use_rslora": True, "use_dora": False, "bias": "none",
    "rank_pattern": {r".*attn1\.to_q": 4, "to_k": 4, "net.0.proj": 3, "0.conv": 1}
    | {"transformer_blocks.9.attn2.to_v": 1},
    "alpha_pattern": {"attn2.to_[kv]": 7, "^up_blocks.1.resnets.2.conv_shortcut": 1.5, "q": 99},
}  # fmt: skip


def metadata_scale(case: Case) -> float:
    """What METADATA means, worked out by hand."""
    if case.name.startswith("text_encoder."):
        return 4 / math.sqrt(2)
    if case.name.startswith("text_encoder_2."):
        return 1.0  # the metadata say nothing of it
    return 6 / 4 if case.name.endswith("attn1.to_q") else 3 / case.rank


def folder_scale(case: Case) -> float:
    """What FOLDER_CONFIG means: `q` matches only a whole part of a name, so no layer here."""
    alpha = 5.0
    if case.name.endswith(("attn2.to_k", "attn2.to_v")):
        alpha = 7.0
    if case.name == "unet.up_blocks.1.resnets.2.conv_shortcut":
        alpha = 1.5
    return alpha / math.sqrt(case.rank)


def build(folder: Path) -> None:
    plain = {case.name: 1.0 for case in CASES}
    by_alpha = {case.name: case.alpha / case.rank for case in CASES}
    attention = {case.name: 1.0 for case in ATTENTION}
    unet = {case.name: 1.0 for case in UNET}
    from_metadata = {case.name: metadata_scale(case) for case in CASES}
    from_folder = {case.name: folder_scale(case) for case in UNET}
    peft = pairs(CASES, "F32", ".lora_A.weight", ".lora_B.weight")
    dotted = linear_layers(CASES) | {f"{case.name}.alpha": ("F32", np.array([case.alpha])) for case in CASES}
    doubled = {f"unet.{name}": value for name, value in linear_layers(UNET).items()}
    note = {"lora_adapter_metadata": json.dumps(METADATA, indent=2, sort_keys=True)}
    folder_tensors = pairs(UNET, "F32", ".lora_A.weight", ".lora_B.weight", "base_model.model.")
    bare = {name.removeprefix("base_model.model."): value for name, value in folder_tensors.items()}
    # Of a text encoder that is told to, before PEFT's own names.
    wrapped = {re.sub(r"^(text_encoder(_2)?\.)", r"\1base_model.model.", name): value for name, value in peft.items()}
    # file → (bytes, dialect, expected file, scales)
    files = {
        "peft.safetensors": (safetensors(peft, {"format": "pt"}), "peft", "plain", plain),
        "peft-wrapped.safetensors": (safetensors(wrapped), "peft", "plain", plain),
        "peft-f64.safetensors": (
            safetensors(pairs(CASES, "F64", ".lora_A.weight", ".lora_B.weight")), "peft", "plain", plain,
        ),
        "peft-metadata.safetensors": (safetensors(peft, note), "peft", "metadata", from_metadata),
        "peft-bare.safetensors": (safetensors(bare), "peft", "unet", unet),
        "peft-folder/adapter_model.safetensors": (safetensors(folder_tensors), "peft", "folder", from_folder),
        "peft-adapter.safetensors": (
            safetensors(bare, {"lora_adapter_metadata": json.dumps(FOLDER_CONFIG)}), "peft", "folder", from_folder,
        ),
        "peft-note.safetensors": (safetensors(peft, {"lora_adapter_metadata": '{"note": 1}'}), "peft", "plain", plain),
        "diffusers.safetensors": (safetensors(linear_layers(CASES)), "diffusers", "plain", plain),
        "diffusers-doubled.safetensors": (safetensors(doubled), "diffusers", "unet", unet),
        "diffusers-alpha.safetensors": (safetensors(dotted), "diffusers", "alpha", by_alpha),
        "diffusers-processors.safetensors": (
            safetensors(processors(ATTENTION)), "diffusers-processors", "attention", attention,
        ),
        "kohya-sgm.safetensors": (safetensors(kohya(CASES, "F16", sgm=True)), "kohya-sgm", "alpha", by_alpha),
        "kohya-sgm-no-alpha.safetensors": (
            safetensors(kohya(CASES, "F32", sgm=True, alphas=False, text="lora_te_")), "kohya-sgm", "plain", plain,
        ),
        "kohya-diffusers.safetensors": (
            safetensors(kohya(CASES, "BF16", sgm=False)), "kohya-diffusers", "alpha", by_alpha,
        ),
        "kohya-whole-alphas.safetensors": (
            safetensors(whole_alphas()), "kohya-sgm", "whole", {case.name: 2 / case.rank for case in CASES},
        ),
        "kohya-extras.safetensors": (safetensors(with_extras()), "kohya-diffusers", "alpha", by_alpha),
        "comfy.safetensors": (safetensors(rooted(CASES, COMFY, "F8_E4M3", sgm=True)), "comfy", "alpha", by_alpha),
        "omi.safetensors": (
            safetensors(odd_shapes(rooted(CASES, OMI, "F32", sgm=True))), "omi", "alpha", by_alpha,
        ),
        "onetrainer.safetensors": (
            safetensors(rooted(CASES, ONETRAINER, "F16", sgm=False)), "onetrainer", "alpha", by_alpha,
        ),
        "lycoris.safetensors": (
            safetensors(lycoris(UNET)), "lycoris", "unet-alpha", {case.name: case.alpha / case.rank for case in UNET},
        ),
    }  # fmt: skip
    index = {}
    for name, (data, dialect, expected, scales) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        deltas: Tensors = {case.name: ("F32", delta(case, scales[case.name])) for case in CASES if case.name in scales}
        expected_name = f"expected-{expected}.safetensors"
        (folder / expected_name).write_bytes(safetensors(deltas))
        # A PEFT folder is given to a reader as the folder.
        key = name.removesuffix("/adapter_model.safetensors")
        index[key] = {"dialect": dialect, "expected": expected_name, "layers": len(deltas)}
    (folder / "peft-folder" / "adapter_config.json").write_text(json.dumps(FOLDER_CONFIG, indent=2) + "\n")
    (folder / "index.json").write_text(json.dumps({"files": index}, indent=2) + "\n")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
